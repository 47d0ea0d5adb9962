"""A whole run in this process: the same bits from the same seed, and steps that go wrong."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runs import fit, sources, trained
from mapjax.runtime import log as logs

pytestmark = pytest.mark.process

EXPERIMENT = str(pathlib.Path(__file__).parents[2] / "experiments" / "classify.py")
SMALL = {
    "model.width": "4",
    "batch": "16",
    "eval_batch": "180",
    "duration": "30 steps",
    "every.log": "5 steps",
    "every.save": "10 steps",
}

# classify, whose loss is not finite on batches with a record of `bad`, and 100 times as high on those of `high`
POISONED = """
import jax.numpy as jnp

from mapjax.tasks import classify


def make(*, model, classes, image_size, class_counts=None, bad=(), high=(), **options):
    task = classify.make(model=model, classes=classes, image_size=image_size, **options)

    def loss(variables, batch, context):
        total, (stats, scalars) = task.loss(variables, batch, context)
        has_bad, has_high = (jnp.isin(batch["index"], jnp.array(rows, jnp.int32)).any() for rows in (bad, high))
        factor = jnp.where(has_bad, jnp.nan, jnp.where(has_high, 100.0, 1.0))
        return total * factor, (stats, scalars | {"loss": scalars["loss"] * factor})

    return task._replace(loss=loss)
"""


def config_of(**changes):
    return configs.load(EXPERIMENT, SMALL | changes)


def poisoned(folder, monkeypatch, skip=0, **rows):
    """The config of a task that fails on some records of the training data."""
    package = folder / "poison"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    (package / "task.py").write_text(POISONED)
    monkeypatch.syspath_prepend(str(folder))
    config = config_of(**{"duration": "50 steps"})
    with config.unlocked():
        config.task.name = "poison.task"
        config.task.update({name: tuple(numbers) for name, numbers in rows.items()})
        config.skip_non_finite = skip
    return config


def in_the_order_of(workdir, steps):
    """The records of the batches of some steps, by the order that training itself shows them in."""
    config, seen, _ = sources.open_sources(configs.from_dict(json.loads((workdir / "config.json").read_text())))
    order = sources.make_sampler(config, seen).order(0)
    return [sorted(int(i) for i in order[(step - 1) * 16 : step * 16]) for step in steps], seen


def lines(workdir, kind):
    return [line for line in logs.read(workdir / "metrics.jsonl") if line["kind"] == kind]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fit") / "plain"
    return workdir, fit.fit(config_of(), workdir)


def test_the_same_seed_gives_the_same_bits_and_another_one_others(plain, tmp_path):
    workdir, result = plain
    again = fit.fit(config_of(), tmp_path / "again")
    one, other = (trained.load(folder).variables for folder in (tmp_path / "again", workdir))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert again["metrics"] == result["metrics"]
    timeless = ("step_s", "examples_per_s", "input_wait")
    ours, theirs = (
        [{key: value for key, value in line.items() if key not in timeless} for line in lines(folder, "train")]
        for folder in (tmp_path / "again", workdir)
    )
    assert ours == theirs and len(ours) == 6
    fit.fit(config_of(seed="1"), tmp_path / "other")
    here, there = (jax.tree.leaves(trained.load(folder).variables) for folder in (tmp_path / "other", workdir))
    assert any(not np.array_equal(a, b) for a, b in zip(here, there))


def test_what_a_run_ran_on_stands_in_its_result(plain):
    _, result = plain
    assert result["seed"] == 0 and result["skipped_steps"] == 0
    assert {"jax", "jaxlib", "flax"} <= set(result["versions"])
    assert result["device"] == jax.devices()[0].device_kind
    assert result["mesh"] == {"data": jax.device_count(), "fsdp": 1, "model": 1, "pipe": 1}


def test_steps_that_are_not_finite_are_left_out_up_to_a_number(plain, tmp_path, monkeypatch, capsys):
    (first, second), seen = in_the_order_of(plain[0], (7, 23))
    config = poisoned(tmp_path, monkeypatch, skip=2, bad=(first[0], second[3]))
    result = fit.fit(config, tmp_path / "run")
    assert result["skipped_steps"] == 2
    assert "left out, 2 of at most 2" in capsys.readouterr().out
    found = lines(tmp_path / "run", "skipped")
    assert [line["step"] for line in found] == [7, 23]
    assert [line["loss"] for line in found] == ["nan", "nan"]
    assert found[0]["files"] == [seen.records[index]["file"] for index in first]
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path / "run", "train"))
    # Going on from the checkpoint of step 40 counts both, and ends with the same bits.
    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "50")
    (tmp_path / "resumed" / "result.json").unlink()
    assert fit.fit(config, tmp_path / "resumed")["skipped_steps"] == 2
    jax.tree.map(
        np.testing.assert_array_equal,
        trained.load(tmp_path / "resumed", trusted=True).variables,
        trained.load(tmp_path / "run", trusted=True).variables,
    )


def test_one_more_than_allowed_stops_and_a_second_start_stops_there_again(plain, tmp_path, monkeypatch):
    (first, second), seen = in_the_order_of(plain[0], (7, 23))
    config = poisoned(tmp_path, monkeypatch, skip=1, bad=(first[0], second[3]))
    names = ", ".join(seen.records[index]["file"] for index in second)
    message = (
        rf"step 23: the loss is not finite \(.*\) on the images {names}, and 1 such steps were left out before, "
        "as many as skip_non_finite allows; the checkpoint of step 20 is untouched"
    )
    for _ in range(2):  # the count is saved with the checkpoint of step 20
        with pytest.raises(UserError, match=message):
            fit.fit(config, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run", "skipped")] == [7]


def test_a_spike_is_noted_with_the_files_of_its_batch(plain, tmp_path, monkeypatch, capsys):
    (first, second), seen = in_the_order_of(plain[0], (30, 40))
    fit.fit(poisoned(tmp_path, monkeypatch, high=(first[2], second[5])), tmp_path / "run")
    found = lines(tmp_path / "run", "spike")
    assert [line["step"] for line in found] == [30, 40]
    assert found[1]["files"] == [seen.records[index]["file"] for index in second]
    assert found[1]["loss"] > 5 * found[1]["median"]
    assert capsys.readouterr().out.count("is far above the median") == 1


def test_an_evaluation_that_was_cut_off_is_made_when_training_goes_on(tmp_path):
    config = config_of(**{"every.evaluate": "10 steps"})
    fit.fit(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    # As a kill in the evaluation of step 20 leaves it: saved, neither scored nor logged.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "30")
    scores = json.loads((tmp_path / "whole" / "checkpoints" / "scores.json").read_text())
    (tmp_path / "run" / "checkpoints" / "scores.json").write_text(json.dumps({"10": scores["10"]}))
    kept = [
        line for line in logs.read(tmp_path / "run" / "metrics.jsonl") if (line["kind"], line["step"]) != ("eval", 20)
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    fit.fit(config, tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run", "eval")] == [10, 20, 30]
    assert lines(tmp_path / "run", "eval") == lines(tmp_path / "whole", "eval")
    assert json.loads((tmp_path / "run" / "checkpoints" / "scores.json").read_text()) == scores
