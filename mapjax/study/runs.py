"""Running the cells of a study: each is an ordinary run of launch/main.py in a folder of its own.

A folder is known by its cell, its seed and a checksum of all that its figures depend on (sweep.key), so a finished run
is not run again, a changed one is, and an interrupted one goes on exactly.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mapjax import checksum, run, workdir
from mapjax import config as configs
from mapjax.errors import UserError
from mapjax.study import sweep

ASKED = "cell.json"  # in the folder of a run: its whole config, as launch/main.py is given it
STOPPED = "stopped"  # the failure of a job that was asked to end
TAIL = 5  # lines that are told of a run that failed


class Job(NamedTuple):
    """One cell with one seed, its whole config, the folder of its run, and what it is known by."""

    cell: sweep.Cell
    seed: int
    config: ConfigDict
    folder: pathlib.Path
    key: str

    @property
    def name(self) -> str:
        """Cell and seed."""
        return f"{self.cell.name}, seed {self.seed}"


class Outcome(NamedTuple):
    """How a job ended: "" or what went wrong, and how long it took; 0 s for one that was finished before."""

    job: Job
    failure: str
    seconds: float


def jobs(study: sweep.Study, root: pathlib.Path) -> list[Job]:
    """List what is to be run, seed by seed, so that a study that is cut off has all cells of the first.

    Raises:
      UserError: data that cannot be opened.
    """
    code, known = sweep.code(), {}
    listed = []
    for seed in study.seeds:
        for cell in study.cells:
            config = cell.config.copy_and_resolve_references()
            config.seed = seed
            key = sweep.key(config, _fingerprints(config, known), code)
            listed.append(Job(cell, seed, config, root / "cells" / cell.name / f"seed-{seed}-{key}", key))
    return listed


def is_finished(job: Job, study: sweep.Study) -> bool:
    """Say whether a run and its tests have left their figures."""
    return all((folder / "result.json").exists() for folder in (job.folder, *tests(job, study).values()))


def run_all(
    study: sweep.Study, listed: Sequence[Job], launch: pathlib.Path, *, devices: Sequence[str] = ()
) -> Iterator[Outcome]:
    """Run what is not finished; give each outcome when it is there.

    Whatever ends this, a signal for one, ends the runs too: they save, and go on the next time.

    Args:
      launch: the folder of the programs.
      devices: one run at a time on each of these of this machine's, "cuda:1" or "tpu:1"; () for one after the other on
        all there is.

    Raises:
      UserError: a device of another kind.
    """
    for device in devices:
        if not re.fullmatch(r"(cuda|tpu):\d+", device):
            raise UserError(f"--devices {device}: name them cuda:N or tpu:N, with commas between.")
    free: queue.Queue[str] = queue.Queue()
    for device in devices or ("",):
        free.put(device)
    stopping = threading.Event()

    def one(job: Job) -> Outcome:
        device = free.get()
        try:
            return run_one(study, job, launch, device, stopping=stopping.is_set)
        finally:
            free.put(device)

    waiting = [job for job in listed if not is_finished(job, study)]
    yield from (Outcome(job, "", 0.0) for job in listed if job not in waiting)
    with ThreadPoolExecutor(max(1, len(devices))) as pool:
        try:
            for done in as_completed([pool.submit(one, job) for job in waiting]):
                yield done.result()
        finally:
            stopping.set()


def run_one(
    study: sweep.Study,
    job: Job,
    launch: pathlib.Path,
    device: str = "",
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run one job to its end, and score it on the study's tests; what it prints goes to log.txt in its folder.

    Args:
      launch, device: as for `run_all`. stopping: is asked twice a second, and ends the job by a signal; it saves then.
    """
    began = time.perf_counter()
    log = job.folder / "log.txt"
    job.folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(job.folder / ASKED, configs.to_dict(job.config))
    for command in commands(study, job, launch):
        if stopping():
            return Outcome(job, STOPPED, time.perf_counter() - began)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n")
            file.flush()
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=_environment(device))
            stopped = _wait(process, stopping)
        if stopped:
            return Outcome(job, STOPPED, time.perf_counter() - began)
        if process.returncode:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            failure = f"exit code {process.returncode}; {log} ends with:\n" + "\n".join(lines[-TAIL:])
            return Outcome(job, failure, time.perf_counter() - began)
    return Outcome(job, "", time.perf_counter() - began)


def _wait(process: subprocess.Popen, stopping: Callable[[], bool]) -> bool:
    """Wait for the end of a process; give whether it was asked to end, as it is too where this program has to leave."""
    asked = True
    try:
        while process.poll() is None:
            if stopping():
                return asked
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
        asked = False
        return asked
    finally:
        if asked:
            process.terminate()
            process.wait()


def commands(study: sweep.Study, job: Job, launch: pathlib.Path) -> list[list[str]]:
    """Give the commands that are left to run for a job: its training, then each test."""
    workdir_of = ["--workdir", str(job.folder)]
    trained = (job.folder / "result.json").exists()
    listed = [] if trained else [("main", ["--config", str(job.folder / ASKED), *workdir_of])]
    for name, folder in tests(job, study).items():
        if not (folder / "result.json").exists():
            changes = [f"--config.{key}={value}" for key, value in sweep.as_text(study.tests[name]).items()]
            listed.append(("evaluate", [*workdir_of, "--checkpoint", "last", "--out", str(folder), *changes]))
    return [[sys.executable, str(launch / f"{name}.py"), *arguments] for name, arguments in listed]


def tests(job: Job, study: sweep.Study) -> dict[str, pathlib.Path]:
    """Give the folder of each test of a run, by name; it is known by what the test changes."""
    return {name: job.folder / "tests" / f"{name}-{_checksum(changes)}" for name, changes in study.tests.items()}


def _checksum(changes: sweep.Overrides) -> str:
    return hashlib.sha256(json.dumps(sweep.as_text(changes), sort_keys=True).encode()).hexdigest()[:8]


def _fingerprints(config: Any, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Give the fingerprints of a config's training and held-out data and of given weights; the same are read once."""
    asked = str(configs.to_dict(config.data)) + str(config.splits) + str(config.task.name)
    if asked not in known:
        _, seen, held_out = run.open_sources(config)
        known[asked] = seen.fingerprint, held_out.fingerprint
    given = config.get("init_from", "")
    if given and given not in known:
        known[given] = _of_weights(pathlib.Path(given).expanduser())
    return known[asked] + known.get(given, ())


def _of_weights(source: pathlib.Path) -> tuple[str, ...]:
    """Give the checksums of a file of weights, or of the lists of them that a run's folder has; of a name, none."""
    files = [source] if source.is_file() else sorted(source.rglob(checksum.NAME))
    return tuple(checksum.sha256(file) for file in files)


def _environment(device: str) -> dict[str, str]:
    """Let a program see one device only: "cuda:1", "tpu:1"; "" leaves all."""
    kind, _, number = device.partition(":")
    if kind == "cuda":  # the N-th of those that this program may use
        allotted = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        chosen = allotted[int(number)] if int(number) < len(allotted) else number
        return {**os.environ, "CUDA_VISIBLE_DEVICES": chosen}
    if kind == "tpu":
        alone = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
        return {**os.environ, **alone, "TPU_VISIBLE_CHIPS": number}
    return dict(os.environ)
