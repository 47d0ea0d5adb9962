"""Running the cells of a study: each is an ordinary run of `mapjax train` in a folder of its own.

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
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import IO, Any, NamedTuple

from ml_collections import ConfigDict

from mapjax.config import foreign
from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runs import sources
from mapjax.runtime import checksum, lock, workdir
from mapjax.runtime.log import console
from mapjax.study import sweep

ASKED = "cell.json"  # in the folder of a run: its whole config, as `mapjax train` is given it
STOPPED = "stopped"  # the failure of a job that was asked to end
LOCK = "lock"  # in the folder of a run: who runs it
TAIL = 5  # lines that are told of a run that failed
WAIT_S = 0.5  # between two looks at a run


class Job(NamedTuple):
    """One cell with one seed, its whole config, the folder of its run, and what it is known by.

    code, revision: of which the key was made; "" for whatever there is.
    weights: checksums of those that it starts from.
    test_data: of each test that is scored on other data than the cell's, their fingerprint.
    """

    cell: sweep.Cell
    seed: int
    config: ConfigDict
    folder: pathlib.Path
    key: str
    code: str = ""
    revision: str | None = None
    weights: tuple[str, ...] = ()
    test_data: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        """Cell and seed."""
        return f"{self.cell.name}, seed {self.seed}"


class Outcome(NamedTuple):
    """How a job ended: "" or what went wrong, and how long it took; 0 s for one that was finished before."""

    job: Job
    failure: str
    seconds: float


def jobs(study: sweep.Study, root: pathlib.Path, code: str = "") -> list[Job]:
    """List what is to be run, seed by seed, so that a study that is cut off has all cells of the first.

    Args:
      root: the folder of the study.
      code: of which all runs are to be, where that of now may be another.

    Raises:
      UserError: data of a cell or test that cannot be opened.
    """
    code, revision, known = code or sweep.code(), workdir.revision(), {}
    listed = []
    for seed in study.seeds:
        for cell in study.cells:
            config: Any = cell.config.copy_and_resolve_references()
            config.seed = seed
            try:
                data, weights = _data(config, known), _weights(config.init_from, known)
                others = {name: _other_data(config, test, known) for name, test in study.tests.items()}
            except UserError as error:
                raise UserError(f"cell {cell.name!r}: {error}") from error
            key = sweep.key(config, (*data, *weights), code)
            folder = root / "cells" / cell.name / f"seed-{seed}-{key}"
            others = {name: other for name, other in others.items() if other}
            listed.append(Job(cell, seed, config, folder, key, code, revision, weights, others))
    return listed


def is_finished(job: Job, study: sweep.Study) -> bool:
    """Say whether a run and its tests have left their figures."""
    return all((folder / "result.json").exists() for folder in (job.folder, *tests(job, study).values()))


def run_all(study: sweep.Study, listed: Sequence[Job], *, devices: Sequence[str] = ()) -> Iterator[Outcome]:
    """Run what is not finished; give each outcome when it is there.

    Whatever ends this, a signal for one, ends the runs too: they save, and go on the next time.

    Args:
      devices: one run at a time on each of these of this machine's, "cuda:1" or "tpu:1"; () for one after the other on
        all there is.

    Raises:
      UserError: a device of another kind.
    """
    for device in devices:
        if not re.fullmatch(r"(cuda|tpu):\d+", device):
            raise UserError(f"--devices {device}: name them cuda:N or tpu:N, with commas between.")
        if devices.count(device) > 1:
            raise UserError(f"--devices names {device} twice; each takes one run at a time.")
        _environment(device)  # refuses one that is not allotted, before anything is run
    free: queue.Queue[str] = queue.Queue()
    for device in devices or ("",):
        free.put(device)
    stopping = threading.Event()

    def one(job: Job) -> Outcome:
        device = free.get()
        try:
            return run_one(study, job, device, stopping=stopping.is_set)
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
    device: str = "",
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run one job to its end, and score it on the study's tests; what it prints goes to log.txt in its folder.

    Args:
      device: as for `run_all`.
      stopping: is asked twice a second, and ends the job by a signal; it saves then.
    """
    began = time.perf_counter()
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with lock.held(job.folder / LOCK) as (file, first):
            other = _outlast(job, file, first, stopping) if first else ""
            if other:
                failure = other if other == STOPPED else f"{job.folder} is being run by {other}"
            else:
                failure = _run_locked(study, job, device, stopping, file)
    except OSError as error:  # of its own folder: the disk is full, or it may not be written
        failure = f"{error.filename or job.folder}: {error.strerror}"
    return Outcome(job, failure, time.perf_counter() - began)


def _outlast(job: Job, file: IO[str], other: str, stopping: Callable[[], bool]) -> str:
    """Wait for a run that a study began which was killed since: it goes on, and what it finds is not lost.

    Args:
      other: who has the job's folder locked.

    Returns:
      "" once the folder is locked here; else who else has it, or STOPPED, when the run has ended as it was asked to.
    """
    if not lock.is_gone(other):
        return other
    console.print(f"{job.name}: still run by what a study began that was killed; waiting for it")
    asked = False
    while other and lock.is_gone(other):
        if stopping() and not asked:
            asked = True
            _end_inherited(file)
        time.sleep(WAIT_S)
        other = lock.take(file)
    return STOPPED if asked else other


def _end_inherited(file: IO[str]) -> None:
    """Ask the process that a lock's file names last to end."""
    file.seek(0)
    _, *numbers = file.read().split("\n")
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(next(filter(None, reversed(numbers)), "")), signal.SIGTERM)


def _run_locked(study: sweep.Study, job: Job, device: str, stopping: Callable[[], bool], locked: IO[str]) -> str:
    """Run the commands of a job whose folder is locked; they keep the lock should this program be killed.

    Args:
      locked: the file of the lock, whose last line becomes the number of the process that runs.

    Returns:
      What went wrong, or "".
    """
    log = job.folder / "log.txt"
    workdir.write_json(job.folder / ASKED, configs.to_dict(job.config))
    for command in commands(study, job):
        if stopping():
            return STOPPED
        if job.code and job.code != sweep.code():
            return "the code has changed since this study began; the same command runs it with what there is now"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n")
            file.flush()
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=_environment(device),
                pass_fds=(locked.fileno(),),
            )  # fmt: skip
            lock.note(locked, str(process.pid))
            stopped = _wait(process, stopping)
        if stopped:
            return STOPPED
        if process.returncode:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            return f"exit code {process.returncode}; {log} ends with:\n" + "\n".join(lines[-TAIL:])
    return ""


def _wait(process: subprocess.Popen, stopping: Callable[[], bool]) -> bool:
    """Wait for the end of a process; give whether it was asked to end, as it is too where this program has to leave."""
    asked = True
    try:
        while process.poll() is None:
            if stopping():
                return asked
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=WAIT_S)
        asked = False
        return asked
    finally:
        if asked:
            process.terminate()
            process.wait()


def commands(study: sweep.Study, job: Job) -> list[list[str]]:
    """Give the commands that are left to run for a job: its training, then each test."""
    workdir_of = ["--workdir", str(job.folder), *trusting(study, job)]
    trained = (job.folder / "result.json").exists()
    listed = [] if trained else [("train", ["--config", str(job.folder / ASKED), *workdir_of])]
    for name, folder in tests(job, study).items():
        if not (folder / "result.json").exists():
            given = _places(job) | sweep.as_text(study.tests[name])
            changes = [f"--config.{key}={value}" for key, value in given.items()]
            listed.append(("evaluate", [*workdir_of, "--checkpoint", "last", "--out", str(folder), *changes]))
    return [[*study.program, name, *arguments] for name, arguments in listed]


def _places(job: Job) -> dict[str, str]:
    """Give where the data of a trained job is now, by dotted key, if it was moved since."""
    if not (job.folder / "config.json").exists():
        return {}
    before, now = workdir.read_json(job.folder / "config.json"), configs.to_dict(job.config)
    moved = sorted(key for key in workdir.moved_data(before, now) if key.startswith("data."))
    return {key: now["data"][key.removeprefix("data.")] for key in moved}


def trusting(study: sweep.Study, job: Job) -> list[str]:
    """Give --trust for a job with parts of its own: a study is of those that its author trusts, or was told to."""
    return ["--trust"] if study.trust or foreign.named_in(configs.to_dict(job.config)) else []


def tests(job: Job, study: sweep.Study) -> dict[str, pathlib.Path]:
    """Give the folder of each test of a run, by name; it is known by what the test changes, and by other data."""

    def known_by(name: str, changes: sweep.Overrides) -> str:
        whole = json.dumps(sweep.as_text(changes), sort_keys=True) + job.test_data.get(name, "")
        return hashlib.sha256(whole.encode()).hexdigest()[:8]

    return {name: job.folder / "tests" / f"{name}-{known_by(name, given)}" for name, given in study.tests.items()}


def _data(config: Any, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Give the fingerprints of a config's training and held-out data; the same are opened once."""
    asked = _asked(config)
    if asked not in known:
        _, seen, held_out = sources.open_sources(config)
        known[asked] = seen.fingerprint, held_out.fingerprint
    return known[asked]


def _other_data(config: Any, test: sweep.Overrides, known: dict[str, tuple[str, ...]]) -> str:
    """Give the fingerprint of what a test is scored on; "" where that is the run's own held-out data."""
    other: Any = sweep.changed(config, test)
    before, now = ({key: configs.to_dict(one)[key] for key in ("data", "splits")} for one in (config, other))
    if before == now:
        return ""
    if not isinstance(other.splits.eval, str):
        return _data(other, known)[1]
    asked = f"held out of {_asked(other)}"
    if asked not in known:
        known[asked] = (sources.make_source(other, "eval").fingerprint,)
    return known[asked][0]


def _asked(config: Any) -> str:
    """Give all that the fingerprints of a config's data depend on."""
    return str([configs.to_dict(config).get(key) for key in ("data", "splits", "corruption")] + [config.task.name])


def _weights(given: str, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Give the checksums of a file of weights, or of the lists of them that a run's folder has; of a name, none."""
    if given not in known:
        source = pathlib.Path(given).expanduser()
        files = [source] if source.is_file() else sorted(source.rglob(checksum.NAME)) if given else []
        known[given] = tuple(checksum.sha256(file) for file in files)
    return known[given]


def _environment(device: str) -> dict[str, str]:
    """Let a program see one device only: "cuda:1", "tpu:1"; "" leaves all."""
    kind, _, number = device.partition(":")
    if kind == "cuda":  # the N-th of those that this program may use
        allotted = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if allotted and int(number) >= len(allotted):
            raise UserError(
                f"--devices {device}: CUDA_VISIBLE_DEVICES={','.join(allotted)} allots {len(allotted)}, from cuda:0 to "
                f"cuda:{len(allotted) - 1}."
            )
        chosen = allotted[int(number)] if allotted else number
        return {**os.environ, "CUDA_VISIBLE_DEVICES": chosen}
    if kind == "tpu":
        alone = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
        return {**os.environ, **alone, "TPU_VISIBLE_CHIPS": number}
    return dict(os.environ)
