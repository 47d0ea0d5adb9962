"""kill -9 at random steps, in saves, in evaluations and of data workers, more than twenty times.

However often it was killed, a run ends with the parameters, scores and log of one that never was, and each of its steps
has seen the same examples in the same order, those too that were made twice. Minutes: `pytest -m slow -k kills -s`.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import jax
import numpy as np
import pytest

from mapjax.runs import trained
from mapjax.runtime import log as logs

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = pathlib.Path(__file__).parents[2]
TOTAL, SAVE, EVALUATE = 1200, 25, 50
WANTED = {
    "step": 9,
    "save": 5,
    "evaluation": 4,
}  # kills of the main process; those of workers are in a test of their own
SMALL = {
    "model.width": "4",
    "batch": "16",
    "eval_batch": "5",  # so that an evaluation lasts long enough to be hit
    "duration": f"{TOTAL} steps",
    "every.log": "5 steps",  # divides SAVE: a mean since the last log is one since the last save then
    "every.save": f"{SAVE} steps",
    "every.evaluate": f"{EVALUATE} steps",
}


class Job:
    """One run, started as often as it takes; `order` holds the examples of every step that was made."""

    def __init__(self, folder: pathlib.Path, **changes: str):
        self.workdir, self._order, self._log = folder / "run", folder / "order.txt", folder / "log.txt"
        folder.mkdir()
        options = [f"--config.{key}={value}" for key, value in {**SMALL, **changes}.items()]
        program = [sys.executable, "tests/launch/recorded.py", str(self._order), "--config", "experiments/classify.py"]
        self._command = [*program, "--workdir", str(self.workdir), *options]
        self._process: subprocess.Popen | None = None
        self.read = 0

    def start(self) -> None:
        with self._log.open("a") as output:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=output, stderr=output)
        self.read = self._order.stat().st_size if self._order.exists() else 0

    @property
    def process(self) -> subprocess.Popen:
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        return self._log.read_text()

    def step(self) -> int:
        """The last step begun since the start; 0 before the first."""
        if not self._order.exists() or self._order.stat().st_size <= self.read:
            return 0
        with self._order.open("rb") as file:
            file.seek(max(self._order.stat().st_size - 400, self.read))
            lines = file.read().decode().splitlines()
        return int(lines[-1].partition(":")[0]) if len(lines) > 1 else 0

    def wait_until(self, reached, seconds: float = 180) -> bool:
        """Wait; False when the run ended before it came to that."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if reached():
                return True
            if self.process.poll() is not None:
                assert self.process.returncode == 0, self.output
                return False
            time.sleep(0.001)
        raise AssertionError(f"nothing for {seconds} s\n{self.output[-3000:]}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        assert self.process.wait(timeout=300) == 0, self.output

    def orders(self) -> list[tuple[int, str]]:
        """Every batch that was taken: step and indices; a line that a kill cut short is left out."""
        lines = [line.partition(": ") for line in self._order.read_text().splitlines()]
        return [(int(step), rows) for step, _, rows in lines if step.isdigit() and len(rows.split()) == 16]

    def logged(self, kind: str) -> list[dict]:
        lines = [line for line in logs.read(self.workdir / "metrics.jsonl") if line["kind"] == kind]
        return [
            {k: v for k, v in line.items() if k not in ("step_s", "examples_per_s", "input_wait")} for line in lines
        ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run never killed."""
    job = Job(tmp_path_factory.mktemp("kills") / "whole")
    job.start()
    job.finish()
    assert [step for step, _ in job.orders()] == list(range(1, TOTAL + 1))
    return job


def require_equal(job: Job, whole: Job) -> None:
    """The same bits, the same scores and losses, and the same examples in every step that was made."""
    ours, theirs = trained.load(job.workdir), trained.load(whole.workdir)
    assert ours.step == theirs.step == TOTAL
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    known = dict(whole.orders())
    made = job.orders()
    assert {step for step, _ in made} == set(known)
    assert [(step, rows) for step, rows in made if rows != known[step]] == []
    assert job.logged("eval") == whole.logged("eval")
    assert job.logged("train") == whole.logged("train")
    scores = [json.loads((one.workdir / "checkpoints" / "scores.json").read_text()) for one in (job, whole)]
    assert scores[0] == scores[1]
    results = [json.loads((one.workdir / "result.json").read_text())["metrics"] for one in (job, whole)]
    assert results[0] == results[1]


def unfinished(job: Job) -> list[pathlib.Path]:
    return list((job.workdir / "checkpoints").glob("*tmp"))


def in_evaluation(job: Job) -> bool:
    """A step that is to be evaluated was made, and neither is its score there nor the next step."""
    step = job.step()
    return step > 0 and step % EVALUATE == 0 and step not in {line["step"] for line in job.logged("eval")}


def kill_at(job: Job, moment: str, rng: random.Random) -> str | None:
    """Kill the run at a moment of a kind; give the kind that was hit, None where the run was over before."""
    if not job.wait_until(lambda: job.step() > 0):
        return None
    target = job.step() + rng.randint(1, SAVE + 15)
    reached = job.wait_until(
        {
            "step": lambda: job.step() >= target and not unfinished(job),
            "save": lambda: bool(unfinished(job)),
            "evaluation": lambda: not unfinished(job) and in_evaluation(job),
        }[moment]
    )
    if moment == "save":
        time.sleep(rng.uniform(0, 0.02))
    if not reached:
        return None
    job.kill()
    if unfinished(job):
        return "save"
    return "evaluation" if in_evaluation(job) else "step"


def test_kills_of_the_program(whole, tmp_path):
    rng = random.Random(0)
    job, hits = Job(tmp_path / "killed"), Counter()
    moments = [moment for moment, count in WANTED.items() for _ in range(count)]
    rng.shuffle(moments)
    for moment in moments:
        job.start()
        hit = kill_at(job, moment, rng)
        assert hit is not None, f"only {sum(hits.values())} kills before the run was over: make it longer"
        hits[hit] += 1
        print(f"killed in {hit} (wanted: {moment}) at step {job.step()}", flush=True)
    job.start()
    job.finish()
    require_equal(job, whole)
    assert sum(hits.values()) == len(moments)
    assert hits["save"] >= 3 and hits["evaluation"] >= 2 and hits["step"] >= 3, hits


def workers_of(job: Job) -> list[int]:
    """The data workers of the run's process."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == job.process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_kills_of_data_workers(whole, tmp_path):
    """Workers are started again without a word lost; killed with them, the program leaves no worker behind."""
    rng = random.Random(1)
    job = Job(tmp_path / "killed", **{"input.workers": "1"})
    job.start()
    for number in range(5):
        target = job.step() + rng.randint(20, 150)
        assert job.wait_until(lambda target=target: job.step() >= target)
        os.kill(workers_of(job)[0], signal.SIGKILL)
        assert job.wait_until(lambda number=number: job.output.count("a data worker was killed") > number)
    left = workers_of(job)
    job.kill()
    limit = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not [pid for pid in left if pathlib.Path(f"/proc/{pid}").exists()]
    job.start()
    job.finish()
    require_equal(job, whole)
