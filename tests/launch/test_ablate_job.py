"""A study as a user runs it: failures, a second run, a changed cell, a signal, and its bundle run again."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from programs import program

from mapjax.errors import UserError

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[2]
STUDY = """
import pathlib
from mapjax.config import load as configs
from mapjax.study.sweep import Sweep

def get_config():
    config = configs.load({classify!r})
    with config.unlocked():
        config.duration = "30 steps"
        config.every.save = "10 steps"
        config.every.log = "10 steps"
    return config

def sweep():
    metrics = {{"top1": "max", "top1@noisy": "max"}}
    return Sweep({cells}, "plain", metrics, seeds=(0,), tests={{"noisy": {{"corruption": {{"noise": 80.0}}}}}})
"""


def study(folder: pathlib.Path, cells: str) -> str:
    file = folder / "study.py"
    file.write_text(STUDY.format(classify=str(ROOT / "experiments" / "classify.py"), cells=cells))
    return str(file)


def states(workdir: pathlib.Path) -> dict[str, int]:
    return {path.parent.parent.name: path.stat().st_mtime_ns for path in workdir.glob("cells/*/*/result.json")}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A study of two cells that run and one that does not, once run."""
    folder = tmp_path_factory.mktemp("study")
    name = study(folder, "{'plain': {}, 'slow': {'optimizer.learning_rate': 1e-4}, 'broken': {'duration': '0 steps'}}")
    done = subprocess.run(
        [sys.executable, "launch/ablate.py", "--config", name, "--workdir", str(folder / "out"), "--bundle"],
        cwd=ROOT, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    return name, folder / "out", done


def test_a_cell_that_fails_does_not_stop_the_others(ran):
    _, folder, done = ran
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"1/3  plain, seed 0: finished in [\d.]+ min  eta", done.stdout)
    assert "broken, seed 0: FAILED" in done.stdout and "must be at least one step" in done.stdout
    assert "1 of 3 runs failed" in done.stdout and "Traceback" not in done.stdout + done.stderr
    table = (folder / "table.md").read_text()
    assert "| plain (baseline) |" in table and "| slow |" in table and "| broken (0 of 1 seeds) | – |" in table
    assert {"study.html", "study.json", "study.zip", "table.csv", "table.tex"} <= {
        path.name for path in folder.iterdir()
    }
    cells = {cell["name"]: cell for cell in json.loads((folder / "study.json").read_text())["cells"]}
    scores = [cells[name]["metrics"]["top1"]["mean"]["value"] for name in ("plain", "slow")]
    assert scores[0] > scores[1] + 0.2
    assert cells["plain"]["metrics"]["top1@noisy"]["mean"]["value"] < scores[0]
    assert cells["plain"]["costs"]["GFLOP an example"] > 0 and cells["plain"]["costs"]["examples/s"] > 0


@pytest.mark.slow
def test_only_what_has_changed_is_run_again(ran, tmp_path, capsys):
    _, folder, _ = ran
    before = states(folder)
    name = study(tmp_path, "{'plain': {}, 'slow': {'optimizer.learning_rate': 2e-4}}")
    assert program("ablate")(["--config", name, "--workdir", str(folder)]) == 0
    output = capsys.readouterr().out
    assert "slow, seed 0: finished" in output and "plain, seed 0:" not in output
    assert "1 runs in" in output and "are of another config, code or data" in output
    assert before.items() <= states(folder).items() or states(folder)["plain"] == before["plain"]
    assert len(list(folder.glob("cells/slow/*/result.json"))) == 2


@pytest.mark.slow
def test_a_signal_is_handed_on_and_the_run_goes_on(tmp_path):
    name = study(tmp_path, "{'plain': {'duration': '3000 steps'}}")
    command = [sys.executable, "launch/ablate.py", "--config", name, "--workdir", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    limit = time.time() + 200
    while not list(tmp_path.glob("out/cells/plain/*/checkpoints/*0")):
        assert time.time() < limit and process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == 143
    [log] = tmp_path.glob("out/cells/plain/*/log.txt")
    saved = int(re.search(r"saved at step (\d+)", log.read_text())[1])
    assert 0 < saved < 3000
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"going on from step {saved} of 3000" in log.read_text()


@pytest.mark.slow
def test_the_bundle_gives_the_same_bits(ran, tmp_path, capsys):
    _, folder, _ = ran
    arguments = ["--from", str(folder / "study.zip"), "--workdir", str(tmp_path / "again"), "--only", "slow"]
    assert program("ablate")(arguments) == 0
    output = capsys.readouterr().out
    assert "Of 4 figures 4 are the same bits and 0 not reproduced." in output
    assert (tmp_path / "again" / "reproduced.md").exists()


def test_results_of_other_code_are_told(ran, tmp_path, capsys):
    _, folder, _ = ran
    from mapjax.study import study as studies
    from mapjax.study import sweep

    about = json.loads((folder / "study.json").read_text()) | {
        "code": "other",
        "revision": "0123abc",
        "seeds": [0, 1, 2, 3],
    }
    (tmp_path / "study.json").write_text(json.dumps(about))
    name = study(tmp_path, "{'plain': {}}")
    studies.say_what_changed(tmp_path, sweep.load(name), [])
    output = " ".join(capsys.readouterr().out.split())
    assert "holds results of other code (revision 0123abc, and this is" in output
    assert "cells and 4 seeds, and become those of 1 and" in output


def test_a_dry_run_lists_the_cells(tmp_path, capsys):
    name = study(tmp_path, "{'plain': {}, 'slow': {'optimizer.learning_rate': 1e-4}}")
    assert program("ablate")(["--config", name, "--workdir", str(tmp_path / "out"), "--dry", "--only", "slow"]) == 0
    output = capsys.readouterr().out
    assert "optimizer.learning_rate: 0.004 → 0.0001" in output and "one run after the other" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --config FILE.py"),
        (["--from", "x.zip", "--steps", "3"], "takes no --config.KEY or --steps"),
        (["--from", "missing.zip"], "missing.zip cannot be read"),
        (["--from", "tests"], "tests cannot be read"),
        (
            ["--config", "experiments/ablate_norm.py", "--cluster", "local", "--devices", "cuda:0"],
            "either --cluster or",
        ),
        (["--config", "experiments/ablate_norm.py", "--search", "3", "--bundle"], "takes no --cluster, --devices or"),
        (["--config", "experiments/ablate_norm.py", "--search", "3"], "declares no ranges"),
        (["--config", "experiments/ablate_augment.py", "--seeds", "a"], "--seeds a: write whole numbers"),
        (["--config", "experiments/ablate_augment.py", "--only", "flip"], "Did you mean 'flips'"),
        (["--config", "experiments/ablate_augment.py:digit"], "there is no variant 'digit'"),
        (["--config", "experiments/classify.py"], r"the file defines no sweep\(\)"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        program("ablate")(arguments)


@pytest.mark.parametrize(
    "name", ["ablate_augment.py", "ablate_augment.py:scenes", "ablate_imbalance.py", "ablate_norm.py"]
)
def test_the_studies_that_ship_are_sound(name):
    from mapjax.study import sweep

    study = sweep.load(str(ROOT / "experiments" / name))
    assert len(study.cells) > 3 and len(study.seeds) >= 3


@pytest.mark.parametrize("variant", ["bccd", "scenes"])
def test_the_papers_three_are_compared_on_one_backbone(variant):
    from mapjax.study import sweep

    study = sweep.load(str(ROOT / "experiments" / "ablate_rcnn.py") + f":{variant}")
    models = {cell.name: cell.config.model for cell in study.cells}
    assert {name: model.name for name, model in models.items()} == {name: name for name in models}
    assert set(models) == {"rcnn", "fast_rcnn", "faster_rcnn"}
    assert len({str(model.backbone) for model in models.values()}) == 1
