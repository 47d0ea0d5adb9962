"""Train for a while with a fault every minute, and check that the end is right.

Handwritten digits are trained on three times: undisturbed, then with faults that keep the data (kill -9, a slow disk,
SIGTERM), which must end with the same bits, then with these and with images that become unreadable, which must end
finished and as accurate; the latter two again and again until the time is up. soak.json in the --workdir says what was
done and found; the exit code is 1 where anything is wrong.
"""

import itertools
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mapjax.cli import terminal
from mapjax.errors import UserError
from mapjax.runtime import log as logs

EXAMPLES = """
mapjax soak --minutes 30 --every 60
mapjax soak --minutes 8 --every 40 --workdir runs/soak
"""

FAULTS = {
    "same data": ("kill", "slow disk", "SIGTERM"),
    "lost data": ("corrupt image", "kill", "corrupt image", "slow disk", "SIGTERM"),
}
SAVE_S = 5.0  # of training between two saves
GRACE_S = 30.0  # between SIGTERM and the end, as clusters give
ACCURACY = 0.03  # that may be lost with the images

# Put before all programs' own modules by PYTHONPATH: while a file is there, every opening, renaming and making of a
# folder takes longer.
SLOW_DISK = """
import builtins, io, os, time
flag = os.environ.get("MAPJAX_SOAK_SLOW", "")
def slowed(call):
    def slow(*args, **options):
        if flag and os.path.exists(flag):
            time.sleep(0.2)
        return call(*args, **options)
    return slow
for module, name in ((os, "rename"), (os, "replace"), (os, "mkdir"), (io, "open"), (builtins, "open")):
    setattr(module, name, slowed(getattr(module, name)))
"""


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser("soak", __doc__ or "", EXAMPLES)
    parser.add_argument("--minutes", type=float, default=30, metavar="M", help="of training with faults (30)")
    parser.add_argument("--every", type=float, default=60, metavar="S", help="seconds between two faults (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images and moments (0)")
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="a new folder (runs/DATE-soak)")
    arguments, _ = terminal.parse(parser, argv)
    if arguments.minutes <= 0 or arguments.every <= 0:
        raise UserError("--minutes and --every must be above 0.")

    from mapjax.runtime import workdir

    folder = workdir.make_new(arguments.workdir, "soak")
    return soak(folder, arguments)


class Job:
    """One training on the digits in `data`, started as often as it takes."""

    def __init__(self, folder: pathlib.Path, data: pathlib.Path, steps: int, save: int = 100):
        self.workdir, self.log, self.slow = folder / "run", folder / "log.txt", folder / "slow"
        folder.mkdir(parents=True)
        hook = folder / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(SLOW_DISK, encoding="utf-8")
        paths = [str(hook), os.environ.get("PYTHONPATH", "")]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._environment["MAPJAX_SOAK_SLOW"] = str(self.slow)
        self._command = command(data, self.workdir, steps, save)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output)

    def start_again(self) -> None:
        """Start the same command in the same folder."""
        self.process = self._start()

    def step(self) -> int:
        """Give the last step that was logged."""
        return logs.last_step(self.workdir / "metrics.jsonl")

    def wait(self, seconds: float) -> bool:
        """Wait for the end; False where it is not there in time."""
        try:
            self.process.wait(timeout=max(seconds, 0))
        except subprocess.TimeoutExpired:
            return False
        return True


def command(data: pathlib.Path, workdir: pathlib.Path, steps: int, save: int) -> list[str]:
    """Give the command that trains on the digits, saves every so many steps, and evaluates at every tenth save."""
    values = {
        "batch": "32",
        "duration": f"{steps} steps",
        "every.log": "10 steps",
        "every.save": f"{save} steps",
        "every.evaluate": f"{10 * save} steps",
    }
    options = [f"--config.{key}={value}" for key, value in values.items()]
    source = ["--data", f"folder:{data.resolve()}"]
    program = [sys.executable, "-m", "mapjax", "train", "--config", "classify"]
    return [*program, "--workdir", str(workdir.resolve()), *source, *options]


def soak(folder: pathlib.Path, arguments: Any) -> int:
    """Train three times and judge; gives the exit code."""
    data = folder / "data"
    write_digits(data)
    print(f"how fast are steps here? logs are in {folder}", flush=True)
    seconds = step_seconds(Job(folder / "speed", data, 300))
    # Half of the time for each of the two disturbed runs; of that, a third goes to starting again.
    steps = max(int(arguments.minutes * 60 / 2 * 0.66 / seconds), 300)
    save = max(int(SAVE_S / seconds), 10)
    print(f"a step takes {1000 * seconds:.1f} ms; {steps} steps undisturbed, saved every {save} …", flush=True)
    undisturbed = Job(folder / "undisturbed", data, steps, save)
    require_finished(undisturbed)
    rng = random.Random(arguments.seed)
    began, found = time.monotonic(), {}
    for number in itertools.count(1):
        if number > 1 and time.monotonic() - began >= 60 * arguments.minutes:  # steps may be quicker than they were
            break
        for kind, faults in FAULTS.items():
            write_digits(data)  # whole again
            name = kind if number == 1 else f"{kind} {number}"
            job = Job(folder / name.replace(" ", "_"), data, steps, save)
            found[name] = {"faults": disturb(job, faults, data, arguments, rng), **judge(job, undisturbed, data)}
    checks = verdict(found, steps)
    result = {"steps": steps, "minutes": (time.monotonic() - began) / 60, "checks": checks, "runs": found}
    (folder / "soak.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    count = sum(len(run["faults"]) for run in found.values())
    print(f"{count} faults in {result['minutes']:.1f} minutes of training, {len(found)} runs of {steps} steps")
    print("\n".join(f"{'right' if right else 'WRONG'}: {what}" for what, right in checks.items()))
    print(f"all of it stands in {folder / 'soak.json'}")
    return 0 if all(checks.values()) else 1


def verdict(found: Mapping[str, dict[str, Any]], steps: int) -> dict[str, bool]:
    """Say of all runs together what is as it should be."""
    same, lost = ([run for name, run in found.items() if name.startswith(kind)] for kind in FAULTS)
    faults = [fault for run in found.values() for fault in run["faults"]]
    return {
        "finished": all(run["steps"] == steps for run in found.values()),
        "same data: same bits": all(run["same_bits"] for run in same),
        "lost data: as accurate": all(run["lost_accuracy"] <= ACCURACY for run in lost),
        "lost data: what could not be read is told": all(run["unreadable_are_corrupt"] for run in lost),
        "SIGTERM: saved in time": all(fault.get("ended_s", 0) <= GRACE_S for fault in faults),
    }


def write_digits(folder: pathlib.Path) -> None:
    """Write the embedded digits as a folder of PNG files by split and class."""
    import cv2

    from mapjax.data.formats import digits

    for split in digits.SPLITS:
        source = digits.make(split=split)
        for record in source.records:
            path = folder / split / str(record["label"]) / (record["file"].rpartition("/")[2] + ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), record["image"])


def disturb(
    job: Job, faults: Sequence[str], data: pathlib.Path, arguments: Any, rng: random.Random
) -> list[dict[str, Any]]:
    """Inject a fault whenever one is due and training goes on, until the run has ended.

    Raises:
      UserError: the run failed by itself, or came to nothing in ten times the time.
    """
    done: list[dict[str, Any]] = []
    began = time.monotonic()
    due, seen, kinds = began + arguments.every, job.step(), itertools.cycle(faults)
    while not job.wait(0.2):
        if time.monotonic() - began > 600 * arguments.minutes:
            job.process.kill()
            raise UserError(f"the run in {job.workdir} came to no end; lengthen --every beyond the time of a start.")
        # Not while it starts: what a kill then costs is no more than the start.
        if time.monotonic() < due or job.step() in (0, seen):
            continue
        kind = next(kinds)
        fault = {"at_s": round(time.monotonic() - began, 1), "kind": kind, "step": job.step()}
        fault |= inject(kind, job, data, arguments.every, rng)
        print(f"  {job.workdir.parent.name}: {fault}", flush=True)
        done.append(fault)
        due, seen = time.monotonic() + arguments.every, job.step()
    require_finished(job)
    return done


def inject(kind: str, job: Job, data: pathlib.Path, every: float, rng: random.Random) -> dict[str, Any]:
    """Do one fault, and start again what it ended; gives what is worth noting of it."""
    if kind == "corrupt image":
        path = rng.choice(sorted((data / "train").rglob("*.png")))
        path.write_bytes(bytes(path.stat().st_size))  # of the same size, so that only its reader can tell
        return {"file": str(path.relative_to(data))}
    if kind == "slow disk":
        job.slow.touch()
        time.sleep(every / 3)
        job.slow.unlink()
        return {"seconds": every / 3}
    began = time.monotonic()
    if kind == "SIGTERM":
        job.process.send_signal(signal.SIGTERM)
        if not job.wait(2 * GRACE_S):
            job.process.kill()
    else:
        time.sleep(rng.uniform(0, 1))
        job.process.kill()
    code, ended = job.process.wait(), round(time.monotonic() - began, 2)
    if code != 0:  # else it had come to its end just before
        job.start_again()
    return {"code": code} | ({"ended_s": ended} if kind == "SIGTERM" else {})


def judge(job: Job, undisturbed: Job, data: pathlib.Path) -> dict[str, Any]:
    """Compare a run with the undisturbed one: bits, accuracy, and what it says of images it could not read."""
    import jax
    import numpy as np

    from mapjax.runs import trained
    from mapjax.runtime import workdir

    ours, theirs = (trained.load(one.workdir).variables for one in (job, undisturbed))
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), ours, theirs)
    results = [workdir.read_json(one.workdir / "result.json") for one in (job, undisturbed)]
    top1 = [result["metrics"]["top1"] for result in results]
    corrupt = {path for path in (data / "train").rglob("*.png") if not any(path.read_bytes())}
    unreadable = {data / name if not pathlib.Path(name).is_absolute() else pathlib.Path(name)
                  for name in results[0]["unreadable"]}  # fmt: skip
    return {
        "steps": results[0]["steps"],
        "same_bits": all(jax.tree.leaves(same)),
        "top1": top1[0],
        "lost_accuracy": top1[1] - top1[0],
        "corrupt": len(corrupt),
        "unreadable": len(unreadable),
        "unreadable_are_corrupt": {path.name for path in unreadable} <= {path.name for path in corrupt},
    }


def require_finished(job: Job) -> None:
    """Wait for the end of a run.

    Raises:
      UserError: it failed.
    """
    if job.process.wait():
        raise UserError(f"the training failed with code {job.process.returncode}; read {job.log}.")


def step_seconds(job: Job) -> float:
    """Give the median time of a step of a run, without the steps at its beginning."""
    require_finished(job)
    lines = [line for line in logs.read(job.workdir / "metrics.jsonl") if line["kind"] == "train"]
    return statistics.median(line["step_s"] for line in lines[len(lines) // 2 :])
