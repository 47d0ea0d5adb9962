"""Configs that version 0.1 wrote (saved_0_1/, by its own code) mean the same today, and what they now are called."""

import json
import pathlib

import pytest

from mapjax.config import keys, migrate
from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runtime import workdir

SAVED = pathlib.Path(__file__).parent / "saved_0_1"
SAME = {  # how today's recipe is given what that run was given
    "classify": ("classify:cifar10", {"progressive_sizes": "((0.0, (24, 24)), (0.5, (32, 32)))"}),
    "detect": (
        "detect:bccd",
        {"corruption": "{'rotate': 10.0}", "optimizer.lr_multipliers": "(('backbone', 0.1),)"},
    ),
    "segment": ("segment:finetune", {}),
}


@pytest.mark.parametrize("task", SAME)
def test_a_run_of_0_1_is_the_same_experiment(task, tmp_path):
    name, overrides = SAME[task]
    config = configs.load(name, overrides)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "config.json").write_text((SAVED / f"{task}.json").read_text())
    (tmp_path / "classes.json").write_text('["a"]')
    assert workdir.open_for(tmp_path, configs.to_dict(config), ("a",)) == "input.threads: 2 → 0"
    old = json.loads((SAVED / f"{task}.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(old))
    again = configs.load(str(tmp_path / "config.json"))
    assert workdir.open_for(tmp_path, configs.to_dict(again), ("a",)) == ""
    with pytest.raises(UserError, match=r"another experiment \(batch: \d+ → 2\)"):
        workdir.open_for(tmp_path, configs.to_dict(again) | {"batch": 2}, ("a",))
    different = list(configs.differences(keys.filled(configs.to_dict(again)), keys.filled(configs.to_dict(config))))
    assert different == ["input.threads: 2 → 0"]


def test_old_names_are_replaced_and_nothing_else():
    old = json.loads((SAVED / "detect.json").read_text())
    found = dict(keys.flat_values(migrate.migrated(old)))
    assert found["optimizer.lr_multipliers"] == [["backbone", 0.1]] and found["corruption.rotate"] == 10.0
    assert (found["task.name"], found["transform.name"]) == ("two_stage", "boxes")
    kept = {key: value for key, value in keys.flat_values(old) if key in found}
    assert {key for key, _ in keys.flat_values(old)} - kept.keys() == {"optimizer.factors", "shift.rotate"}
    assert {key for key in kept if kept[key] != found[key]} == {"task.name", "transform.name"}
    assert migrate.migrated(migrate.migrated(old)) == migrate.migrated(old)
    assert old["optimizer"]["factors"] and old["task"]["name"] == "detect", "what is given stays as it is"


def test_the_tolerance_of_contours_is_now_the_metrics():
    config = configs.saved({"task": {"name": "segment", "flip": True, "tolerance": 0.01}})
    assert config.task.to_dict() == {"name": "segment", "flip": True}
    assert configs.to_dict(config)["metrics"] == [{"name": "iou", "tolerance": 0.01}]
    given = configs.load("segment", {"metrics": "({'name': 'iou', 'tolerance': 0.01},)"})
    assert configs.to_dict(given)["metrics"] == configs.to_dict(config)["metrics"]


def test_what_0_1_left_out_meant_its_own_defaults():
    old = json.loads((SAVED / "classify.json").read_text())
    config = configs.saved(old | {"optimizer": {"name": "sgd"}, "schedule": {"name": "steps"}})
    assert (config.optimizer.weight_decay, config.optimizer.clip, config.schedule.warmup) == (0.0, 0.0, "0 steps")
    again = configs.saved(configs.to_dict(configs.from_dict({"optimizer": {"name": "sgd"}})))
    assert (again.optimizer.weight_decay, again.schedule.warmup) == (0.05, "5 %"), "a run of today writes every key"
    mine = configs.saved({"optimizer": {"name": "sgd"}, "schedule": {"name": "steps"}, "seed": 3, "keep": 2})
    assert (mine.optimizer.weight_decay, mine.schedule.warmup) == (0.05, "5 %"), "a person means today's defaults"


def test_overrides_that_0_1_wrote():
    old = {"shift.rotate": 25, "task.name": "detect", "task.tolerance": 0.1, "optimizer": {"factors": ()}, "batch": 2}
    assert migrate.overrides(old) == {
        "corruption.rotate": 25,
        "task.name": "two_stage",
        "metrics": ({"name": "iou", "tolerance": 0.1},),
        "optimizer": {"lr_multipliers": ()},
        "batch": 2,
    }
    both = {"progressive_sizes": (1,), "sizes": (2,)}
    assert migrate.overrides(both) == migrate.migrated(both) == {"progressive_sizes": (1,)}
    assert migrate.overrides(dict(reversed(both.items()))) == {"progressive_sizes": (1,)}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sizes", "()", "is now called 'progressive_sizes'; write --config.progressive_sizes="),
        ("shift.rotate", "3", r"is now called 'corruption'; write --config\.corruption\.rotate="),
        ("optimizer.factors", "()", r"is now called 'optimizer\.lr_multipliers'"),
        ("optimizer", "{'name': 'sgd', 'factors': ()}", r"optimizer\.factors: this key is now called"),
        ("task.tolerance", "0.01", r"--config\.metrics=.*'iou', 'tolerance': 0\.01"),
        ("task.name", "detect", "this part is now called 'two_stage'"),
        ("transform.name", "transforms", "this part is now called 'boxes'"),
    ],
)
def test_an_override_under_an_old_name_is_told_the_new_one(key, value, message):
    with pytest.raises(UserError, match=message):
        configs.load("detect", {key: value})
