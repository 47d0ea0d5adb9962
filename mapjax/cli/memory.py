"""Train for 10,000 steps and draw the memory of the process over them: it must stay flat.

The embedded digits are trained on with saves and evaluations in between. memory.json and memory.html in the --workdir
hold the curve; the exit code is 1 where the memory grows.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from mapjax.cli import terminal
from mapjax.errors import UserError
from mapjax.runtime import log as logs

EXAMPLES = """
mapjax memory
mapjax memory --steps 50000 --workdir runs/memory
"""

GROWTH = 0.03  # that still counts as flat


def main(argv: Sequence[str]) -> int:
    """Run it; gives the exit code."""
    parser = terminal.parser("memory", __doc__ or "", EXAMPLES)
    parser.add_argument("--steps", type=int, default=10_000, metavar="N", help="to train for (10,000)")
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="a new folder (runs/DATE-memory)")
    arguments, _ = terminal.parse(parser, argv)
    if arguments.steps < 1000:
        raise UserError(f"--steps {arguments.steps}: a curve needs at least 1000.")

    from mapjax.runtime import workdir

    folder = workdir.make_new(arguments.workdir, "memory")
    return watch_memory(folder, arguments.steps)


def watch_memory(folder: pathlib.Path, steps: int) -> int:
    """Train once, and note the memory of the process over the steps; gives the exit code."""
    if not pathlib.Path("/proc/self/status").exists():
        raise UserError("this program reads the memory of a process from /proc, which only Linux has.")
    values = {"duration": steps, "every.log": 10, "every.save": 100, "every.evaluate": 1000}
    options = ["--config.batch=16", *(f"--config.{key}={value} steps" for key, value in values.items())]
    program = [sys.executable, "-m", "mapjax", "train", "--config", "classify"]
    command = [*program, "--workdir", str((folder / "run").resolve()), *options]
    with (folder / "log.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    samples: list[tuple[int, float]] = []
    while process.poll() is None:
        if step := logs.last_step(folder / "run" / "metrics.jsonl"):
            samples.append((step, resident_mb(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise UserError(f"the training failed with code {process.returncode}; read {folder / 'log.txt'}.")
    samples = [(step, mb) for step, mb in samples if mb]
    found = {"steps": steps, **growth(samples), "samples": samples}
    (folder / "memory.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
    (folder / "memory.html").write_text(drawn(samples), encoding="utf-8")
    flat = found["growth"] <= GROWTH
    print(
        f"{found['early_mb']:.0f} MiB after a fifth of {steps} steps, {found['late_mb']:.0f} MiB in the last fifth "
        f"({100 * found['growth']:+.1f} %): {'flat' if flat else 'NOT flat'}; the curve is in {folder / 'memory.html'}"
    )
    return 0 if flat else 1


def resident_mb(pid: int) -> float:
    """Give the resident memory of a process in MiB; 0 where it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS:")), 0.0)


def growth(samples: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Compare the memory in the last fifth of the steps with that in the second fifth, medians in MiB."""
    last = samples[-1][0]
    early = statistics.median(mb for step, mb in samples if last / 5 <= step < 2 * last / 5)
    late = statistics.median(mb for step, mb in samples if step >= 4 * last / 5)
    return {"early_mb": early, "late_mb": late, "growth": late / early - 1}


def drawn(samples: Sequence[tuple[int, float]]) -> str:
    """Draw the memory over the steps as a page."""
    import numpy as np

    from mapjax.report import plots

    steps, mb = (np.asarray(values, np.float64) for values in zip(*samples))
    chart = plots.lines([plots.Series("resident memory", steps, mb)], x_label="step", y_label="MiB")
    style = (pathlib.Path(plots.__file__).parent / "page.css").read_text(encoding="utf-8")
    return f'<!doctype html><meta charset="utf-8"><title>memory</title><style>{style}</style>{chart}\n'
