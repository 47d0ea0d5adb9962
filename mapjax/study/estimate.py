"""What a study would take: the cells, what they change, and their time by a few measured steps of each."""

import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runs import setup, sources
from mapjax.runtime import log, workdir
from mapjax.study import runs, sweep

STEPS = 12  # that are run to measure one


def show(study: sweep.Study, listed: Sequence[runs.Job]) -> int:
    """Print the cells with the runs that are left, their estimated minutes, and what differs from the baseline.

    Evaluation and compilation come on top of what is said.

    Returns:
      The exit code: 1 where a cell does not run.
    """
    base = next(cell for cell in study.cells if cell.name == study.baseline)
    total, failed = 0.0, 0
    for cell in study.cells:
        left = [job for job in listed if job.cell is cell and not runs.is_finished(job, study)]
        try:
            number, seconds = steps(cell), _measured(left[0], study) if left else 0.0
        except UserError as error:
            log.console.print(str(error))
            failed += 1
            continue
        minutes = len(left) * number * seconds / 60
        total += minutes
        log.console.print(
            f"{cell.name}: {len(left)} runs left of {number:,} steps, {seconds:.3g} s each: {minutes:.1f} min"
        )
        for change in configs.differences(configs.to_dict(base.config), configs.to_dict(cell.config)):
            log.console.print(f"    {change}")
    log.console.print(f"training of what is left: {total:.0f} min, one run after the other")
    return 1 if failed else 0


def steps(cell: sweep.Cell) -> int:
    """Give the steps of a cell's run."""
    config: Any = cell.config
    return setup.make_clock(config, sources.make_sampler(config, sources.open_sources(config)[1]).length).total


def _measured(job: runs.Job, study: sweep.Study) -> float:
    """Run a few steps of a job in a folder of its own; give the median time of the later ones in seconds."""
    few = {
        "duration": f"{2 * STEPS} steps",  # it is stopped long before its end, and so not evaluated
        "every.log": "1 steps",
        "every.evaluate": "0 steps",
        "schedule.warmup": "1 steps",
    }
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        workdir.write_json(folder / runs.ASKED, configs.to_dict(job.config))
        options = [f"--config.{key}={value}" for key, value in few.items()]
        command = [*study.program, "train", "--config", str(folder / runs.ASKED), *runs.trusting(study, job), *options]
        with (folder / "output.txt").open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*command, "--workdir", str(folder / "run")], stdout=output, stderr=subprocess.STDOUT
            )
        try:
            while process.poll() is None and len(_steps(folder)) < STEPS:
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        if len(_steps(folder)) < STEPS:
            said = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise UserError(f"{job.name} does not run: {(said or ['it said nothing'])[-1]}")
        return statistics.median(line["step_s"] for line in _steps(folder)[STEPS // 2 :])


def _steps(folder: pathlib.Path) -> list[Any]:
    return [line for line in log.read(folder / "run" / "metrics.jsonl") if line["kind"] == "train"]
