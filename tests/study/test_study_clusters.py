"""Runs elsewhere: an array of submitit's on this machine, and the commands for TPU VMs."""

import errno
import fcntl
import json
import shlex
import signal
import socket
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from mapjax.errors import UserError
from mapjax.runtime import lock
from mapjax.study import clusters, runs, sweep

# What stands in for the programs: it writes what a run would, or fails.
MAIN = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
config = json.loads((folder / "cell.json").read_text())
if config["rate"] < 0:
    sys.exit("error: rate must not be negative")
(folder / "result.json").write_text(json.dumps({"metrics": {"top1": config["rate"]}}))
"""


@pytest.fixture
def study(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(MAIN)
    cells = tuple(
        sweep.Cell(name, {"rate": rate}, ConfigDict({"seed": 0, "rate": rate}).lock())
        for name, rate in (("a", 0.5), ("b c", 0.7), ("bad", -1.0))
    )
    found = sweep.Study(
        "experiments/classify.py:y",
        "coco:my data",
        {"batch": "4"},
        cells,
        "a",
        {"top1": "max"},
        (3,),
        {},
        "",
        {},
        program=(sys.executable, str(program)),
    )
    listed = [
        runs.Job(cell, 3, cell.config, tmp_path / "out/cells" / cell.name / "seed-3-k", "k", revision="1")
        for cell in cells
    ]
    return found, listed


@pytest.mark.process
def test_an_array_of_jobs(study, tmp_path):
    found, listed = study
    outcomes = list(clusters.run_all(found, listed, tmp_path / "out", "local:timeout_min=5"))
    assert [outcome.job.cell.name for outcome in outcomes] == ["a", "b c", "bad"]
    assert [outcome.failure == "" for outcome in outcomes] == [True, True, False]
    assert "rate must not be negative" in outcomes[2].failure
    assert json.loads((listed[1].folder / "result.json").read_text())["metrics"]["top1"] == 0.7
    again = list(clusters.run_all(found, listed[:2], tmp_path / "out", "local"))
    assert [outcome.seconds for outcome in again] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [("slurm:partition", "'partition' is no KEY=VALUE"), ("moon", "--cluster moon: "), ("local:no_such=3", "no_such")],
)
def test_clusters_that_cannot_be(study, tmp_path, asked, message):
    found, listed = study
    with pytest.raises(UserError, match=message):
        list(clusters.run_all(found, listed, tmp_path / "out", asked))


def test_commands_for_tpu_vms(study):
    found, listed = study
    mounted, *lines = clusters.tpu_commands(found, listed, "/mnt/share/study")
    assert mounted.startswith("# first: export SHARE=") and len(lines) == 3
    first, second = shlex.split(lines[1])[:6], shlex.split(lines[1])
    assert first == ["NAME=a-b-c-3-k", "bash", "launch/tpu_vm.sh", "train", "--config", "experiments/classify.py:y"]
    assert second[6:9] == ["--data", "coco:my data", "--workdir"]
    assert second[9] == "/mnt/share/study/cells/b c/seed-3-k"
    assert {"--config.batch=4", "--config.rate=0.7", "--config.seed=3"} <= set(second)
    assert second[-5:] == ["&&", "NAME=a-b-c-3-k", "bash", "launch/tpu_vm.sh", "delete"]
    for revision in ("0123abc+", None):
        with pytest.raises(UserError, match=r"commit experiments/classify\.py and all other changes first"):
            clusters.tpu_commands(found, [listed[0]._replace(revision=revision)], "/mnt/share/study")
    with pytest.raises(UserError, match=r"commit experiments/new\.py and all other changes first"):
        clusters.tpu_commands(found._replace(experiment="experiments/new.py"), listed, "/mnt/share/study")


def test_one_run_after_the_other_and_on_devices(study, tmp_path, monkeypatch):
    """On two devices each run sees its own."""
    found, listed = study
    main = MAIN.replace("if config", "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))\nif config")
    (tmp_path / "program.py").write_text(main)
    devices = ["cuda:5", "cuda:6"]
    outcomes = list(runs.run_all(found, listed, devices=devices))
    assert sorted(outcome.job.cell.name for outcome in outcomes if outcome.failure) == ["bad"]
    seen = {(job.folder / "log.txt").read_text().splitlines()[1] for job in listed}
    assert seen <= {"5", "6"}
    assert sys.executable in (listed[0].folder / "log.txt").read_text()


def test_an_unknown_device(study, tmp_path):
    found, listed = study
    with pytest.raises(UserError, match="--devices gpu:0: name them cuda:N or tpu:N"):
        list(runs.run_all(found, listed, devices=["gpu:0"]))


def test_devices_that_are_not_allotted(study, tmp_path, monkeypatch):
    found, listed = study
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert runs._environment("cuda:1")["CUDA_VISIBLE_DEVICES"] == "7"
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=4,7 allots 2, from cuda:0 to cuda:1"):
        list(runs.run_all(found, listed, devices=["cuda:2"]))
    with pytest.raises(UserError, match="--devices names cuda:0 twice"):
        list(runs.run_all(found, listed, devices=["cuda:0", "cuda:0"]))
    assert runs._environment("tpu:3")["TPU_VISIBLE_CHIPS"] == "3"


def test_a_folder_that_another_runs_is_left_alone(study, tmp_path):
    found, (job, *_) = study
    job.folder.mkdir(parents=True)
    with (job.folder / runs.LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print("process 1 of here", file=file, flush=True)
        outcome = runs.run_one(found, job)
        assert outcome.failure.endswith("is being run by process 1 of here")
        assert not (job.folder / "result.json").exists()
    assert runs.run_one(found, job).failure == ""


def orphan(folder, seconds):
    """Lock the folder of a run as a killed study leaves it: a process that it began goes on, and holds its lock."""
    folder.mkdir(parents=True)
    with (folder / runs.LOCK).open("a+") as file:
        assert lock.take(file) == ""
        ended = subprocess.Popen(["true"])
        ended.wait()
        child = subprocess.Popen(["sleep", str(seconds)], pass_fds=(file.fileno(),))
        file.truncate(0)
        lock.note(file, f"process {ended.pid} of {socket.gethostname()}")
        lock.note(file, str(child.pid))
    return child


def test_what_a_killed_study_began_is_waited_for(study, tmp_path, capsys):
    found, (job, *_) = study
    child = orphan(job.folder, 0.3)
    outcome = runs.run_one(found, job)
    assert outcome.failure == "" and child.poll() == 0
    assert "still run by what a study began that was killed" in capsys.readouterr().out


def test_what_a_killed_study_began_is_ended_when_asked_to_stop(study, tmp_path):
    found, (job, *_) = study
    child = orphan(job.folder, 60)
    assert runs.run_one(found, job, stopping=lambda: True).failure == runs.STOPPED
    assert child.wait(5) == -signal.SIGTERM


def test_code_that_has_changed_since_the_study_began_is_not_mixed_in(study, tmp_path):
    found, (job, *_) = study
    outcome = runs.run_one(found, job._replace(code="of before"))
    assert "the code has changed since this study began" in outcome.failure
    assert not (job.folder / "result.json").exists()
    assert runs.run_one(found, job._replace(code=sweep.code())).failure == ""


def test_code_that_changes_in_a_training_does_not_score_it(study, tmp_path, monkeypatch):
    found, (job, *_) = study
    found = found._replace(tests={"t": {}})
    codes = iter(["one", "two"])
    monkeypatch.setattr(sweep, "code", lambda: next(codes))
    outcome = runs.run_one(found, job._replace(code="one"))
    assert "the code has changed since this study began" in outcome.failure
    assert (job.folder / "result.json").exists() and not runs.is_finished(job, found)


def test_a_file_system_without_locks_is_no_hindrance(study, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    found, (job, *_) = study
    assert runs.run_one(found, job).failure == ""


def test_a_folder_that_cannot_be_made_stops_no_other(study, tmp_path):
    found, listed = study
    listed[0].folder.parent.parent.mkdir(parents=True)
    listed[0].folder.parent.write_text("a file is in the way")
    outcomes = {one.job.cell.name: one.failure for one in runs.run_all(found, listed)}
    assert "Not a directory" in outcomes["a"] or "File exists" in outcomes["a"]
    assert outcomes["b c"] == ""
