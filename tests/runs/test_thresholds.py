"""mapjax.runs.thresholds: which threshold a run answers by, and what is said of one that cannot be."""

import json
import types

import numpy as np
import pytest
from fakes import CONFIG

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runs import thresholds
from mapjax.runs.thresholds import DEFAULT, choose

CLASSES = ("cat", "a/b")
FOUND = {"threshold/cat": 0.25, "threshold/a/b": -1.0}


def run_of(step=7, classes=CLASSES, metrics=("precision",), learned=None):
    task = types.SimpleNamespace(metrics=metrics)
    learned = {"eval": "held out"} if learned is None else learned
    config = configs.from_dict(CONFIG)
    return types.SimpleNamespace(step=step, classes=classes, task=task, config=config, learned=learned)


def log_of(folder, *lines):
    folder.mkdir(exist_ok=True)
    texts = [json.dumps({"kind": "eval", "step": step, "AP": 0.5, **found}) for step, found in lines]
    (folder / "metrics.jsonl").write_text("\n".join(texts) + "\n")
    return folder


def scored(folder, name="evaluation-val", **changes):
    """What mapjax evaluate writes."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    result = {"metrics": {"AP": 0.5, **FOUND}, "checkpoint": 7, "overrides": {}}
    result |= {"data": {"name": "voc:x", "split": "val", "fingerprint": "held out"}} | changes
    file = folder / name / "result.json"
    file.write_text(json.dumps(result))
    return file


def test_a_number_is_taken_as_it_is(tmp_path):
    for asked in ("0.3", 0.3, np.float64(0.3)):
        found = choose(asked, run_of(), tmp_path)
        assert found == (0.3, "a score of 0.3", "")


def test_each_checkpoint_has_its_own(tmp_path):
    other = {"threshold/cat": 0.75, "threshold/a/b": 0.5}
    log_of(tmp_path, (7, other), (7, FOUND), (9, other))  # of a step that was scored twice the last counts
    for asked in (None, "f1"):
        assert choose(asked, run_of(), tmp_path).value.tolist() == [0.25, DEFAULT]
        assert choose(asked, run_of(step=9), tmp_path).value.tolist() == [0.75, 0.5]
    found = choose(None, run_of(), tmp_path)
    assert found.said == "the score that is best for F1 of each class (0.25 to 0.50)" and not found.told


def test_a_run_without_any_says_so_and_takes_the_default(tmp_path):
    for folder in (tmp_path, log_of(tmp_path / "old", (7, {}), (3, FOUND))):
        found = choose(None, run_of(), folder)
        assert found.value == DEFAULT
        assert found.told == (
            f"{folder} has no score thresholds for the checkpoint of step 7 (mapjax evaluate --workdir {folder} "
            "--checkpoint 7 finds them): 0.5 is taken for every class."
        )
        with pytest.raises(UserError, match="for this checkpoint; find them with mapjax evaluate --workdir"):
            choose("f1", run_of(), folder)


def test_weights_and_other_tasks_keep_the_default_in_silence(tmp_path):
    assert choose(None, run_of(), None) == (DEFAULT, "a score of 0.5", "")
    assert choose(None, run_of(metrics=("classification",)), log_of(tmp_path, (7, FOUND))).value == DEFAULT
    with pytest.raises(UserError, match="--score f1: weights have no score thresholds"):
        choose("f1", run_of(), None)


def test_an_evaluation_of_the_held_out_split_gives_them(tmp_path):
    scored(tmp_path)
    assert choose(None, run_of(), tmp_path).value.tolist() == [0.25, DEFAULT]
    assert choose(None, run_of(learned={}), tmp_path).value.tolist() == [0.25, DEFAULT]  # of 0.1, by the split's name


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpoint": 8},
        {"overrides": {"task.box_nms": "0.3"}},
        {"data": {"split": "val", "fingerprint": "other"}},
        {"metrics": {"AP": 0.5}},
        {"metrics": 5},
        {"data": "no"},
    ],
    ids=str,
)
def test_any_other_evaluation_does_not(tmp_path, changes):
    scored(tmp_path, **changes)
    (tmp_path / "evaluation-test").mkdir()
    (tmp_path / "evaluation-test" / "result.json").write_text("{")
    found = choose(None, run_of(), tmp_path)
    assert found.value == DEFAULT and found.told


def test_a_result_file_is_taken_by_name(tmp_path):
    file = scored(tmp_path, "scores", checkpoint=3, data={})
    assert (
        choose(file, run_of(), None).value.tolist() == choose(str(file), run_of(), None).value.tolist() == [0.25, 0.5]
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("1.5", r"--score 1\.5 must be from 0 to 1"),
        ("-0.1", r"--score -0\.1 must be from 0 to 1"),
        ("nan", "--score nan must be from 0 to 1"),
        ("best", "--score 'best' is no threshold; give a number from 0 to 1, f1, or the result.json of an evaluation"),
        ("", "--score '' is no threshold"),
        ("F1", "--score 'F1' is no threshold"),
        (True, "--score True is no threshold"),
        (["f1"], r"--score \['f1'\] is no threshold"),
    ],
)
def test_what_is_no_threshold(asked, says):
    with pytest.raises(UserError, match=says):
        choose(asked, run_of(), None)


def test_thresholds_of_other_classes_and_damaged_ones(tmp_path):
    log_of(tmp_path, (7, FOUND))
    with pytest.raises(
        UserError, match=r"metrics\.jsonl has score thresholds of other classes than the run \(a/b, dog\)"
    ):
        choose(None, run_of(classes=("cat", "dog")), tmp_path)
    with pytest.raises(UserError, match=r"result\.json has score thresholds of other classes than the run \(dog\)"):
        choose(scored(tmp_path, "scores"), run_of(classes=(*CLASSES, "dog")), None)
    for wrong in (1.5, "x", None, -0.5, True):
        log_of(tmp_path, (7, {**FOUND, "threshold/cat": wrong}))
        with pytest.raises(UserError, match=r"threshold/cat is .*, not from 0 to 1"):
            choose(None, run_of(), tmp_path)
    with pytest.raises(UserError, match="has no score thresholds; give the result"):
        choose(scored(tmp_path, "classifier", metrics={"top1": 1.0}), run_of(), None)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        choose(tmp_path / "x.json", run_of(), None)


def test_the_form_alone_is_told_before_anything_is_loaded():
    thresholds.require_form(None)
    thresholds.require_form("f1")
    with pytest.raises(UserError, match="no threshold"):
        thresholds.require_form("f2")
