"""A search against runs that are pretended: it ends those that fall behind, and goes on with the same trials."""

import json

import pytest

from mapjax.errors import UserError
from mapjax.study import charts, runs, search, sweep

STUDY = """
from mapjax.study.sweep import Sweep

def get_config():
    return {"data": {"name": "digits"}, "transform": {"name": "crops"}, "model": {"name": "tiny"},
            "task": {"name": "classify"}, "duration": "30 steps", "ema": 0.5}

def sweep():
    ranges = {"ema": ("log", 0.01, 1.0), "sampling": ("choice", "uniform", "over")}
    return Sweep({"plain": {}}, "plain", {"top1": "max"}, ranges=ranges)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose runs take no time: the score is best for an `ema` of 0.1, and over-sampling fails."""
    (tmp_path / "study.py").write_text(STUDY)
    monkeypatch.setattr(runs, "_data", lambda config, known: ())
    started = []

    def run_one(study, job, device="", stopping=lambda: False):
        if (job.folder / "result.json").exists():
            return runs.Outcome(job, "", 0.0)
        started.append(job.cell.name)
        job.folder.mkdir(parents=True, exist_ok=True)
        if job.config.sampling == "over":
            return runs.Outcome(job, "exit code 2; it does not run", 1.0)
        score = 1 - abs(job.config.ema - 0.1)
        with (job.folder / "metrics.jsonl").open("w") as file:
            for step in (10, 20, 30):
                print(json.dumps({"kind": "eval", "step": step, "top1": score * step / 30}), file=file, flush=True)
                if stopping():
                    return runs.Outcome(job, runs.STOPPED, 1.0)
        (job.folder / "result.json").write_text(json.dumps({"metrics": {"top1": score}}))
        return runs.Outcome(job, "", 1.0)

    monkeypatch.setattr(runs, "run_one", run_one)
    return sweep.load(str(tmp_path / "study.py")), started


def test_it_finds_the_best_and_ends_what_falls_behind(study, tmp_path):
    study, started = study
    whole, listed, tried = search.run(study, tmp_path / "out", 30)
    assert [cell.name for cell in whole.cells] == ["plain", *(f"trial-{k:03d}" for k in range(30))]
    assert len(listed) == 31 and whole.seeds == (0,)
    states = [one.state for one in tried]
    assert {"finished", "ended early", "failed"} == set(states)
    assert all((one.state == "failed") == (one.values["sampling"] == "over") for one in tried)
    finished = [one for one in tried if one.state == "finished"]
    best = max(finished, key=lambda one: one.value)
    assert abs(best.values["ema"] - 0.1) < 0.05
    ended = [one for one in tried if one.state == "ended early"]
    assert max(abs(one.values["ema"] - 0.1) for one in ended) > 0.1
    assert set(tried[0].importance) == {"ema", "sampling"} or tried[0].importance == {}
    count = len(started)

    _, _, again = search.run(study, tmp_path / "out", 32)
    assert [one.values for one in again[:30]] == [one.values for one in tried]
    assert [one.state for one in again[:30]] == states
    assert len(started) == count + 2 + states.count("failed")  # what failed is tried again


def test_a_baseline_that_fails_is_told(study, tmp_path):
    found, _ = study
    config = found.cells[0].config
    with config.unlocked():
        config.sampling = "over"
    with pytest.raises(UserError, match="the baseline has failed: exit code 2; it does not run"):
        search.run(found, tmp_path, 2)
    with pytest.raises(UserError, match="is that of a test"):
        search.run(found._replace(metrics={"top1@x": "max"}), tmp_path, 2)


def test_a_study_without_ranges(study, tmp_path):
    with pytest.raises(UserError, match="declares no ranges"):
        search.run(study[0]._replace(ranges={}), tmp_path, 2)


@pytest.mark.parametrize("bad", [("log", 0.0, 1.0), ("uniform", 1.0, 0.5), ("choice",), ("normal", 0, 1), ("int", 1)])
def test_ranges_that_cannot_be(tmp_path, bad):
    file = tmp_path / "study.py"
    file.write_text(STUDY.replace('("log", 0.01, 1.0)', repr(bad)))
    with pytest.raises(UserError, match=r"ranges\['ema'\].* must be one of uniform, log, int, choice"):
        sweep.load(str(file))


def test_trials_are_drawn_as_lines():
    axes = {"a.rate": [0.01, 0.1, 1.0], "kind": [0.0, 1.0, 0.0], "top1": [0.2, 0.9, 0.5]}
    drawn = charts.parallel(axes, {"kind": {0.0: "x", 1.0: "y"}}, ["a.rate"], "max")
    assert drawn.count('class="line"') == 3 and ">rate<" in drawn and ">y<" in drawn
    assert "opacity:1.00" in drawn.split('class="line"')[2]  # the second trial is the best
