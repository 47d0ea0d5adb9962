"""Searching over the ranges that a study declares, by optuna: a trial is a cell, and one that falls behind is ended.

Optuna is asked anew from the first trial on, with one seed. What was found before is told to it as it was, so the same
command goes on with the same trials, and no file is needed but the runs' own.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mapjax.errors import UserError, near
from mapjax.runtime import log, workdir
from mapjax.runtime.log import console
from mapjax.study import estimate, runs, sweep

ENDED = "ended.json"  # in the folder of a run that was ended early: the step
WARM_TRIALS, WARM_EVALUATIONS = 5, 1  # finished trials, and of each its first evaluations, before any is ended


class Trial(NamedTuple):
    """What was tried: the state is "finished", "ended early" or "failed"; the value is the last that was measured."""

    name: str
    values: Mapping[str, Any]
    state: str
    value: float | None
    importance: Mapping[str, float] = {}


def run(study: sweep.Study, root: pathlib.Path, number: int) -> tuple[sweep.Study, list[runs.Job], list[Trial]]:
    """Run the baseline and so many trials, all with the first seed, for the first metric.

    Returns:
      The study of the baseline and the trials, its jobs, and what was tried.

    Raises:
      UserError: optuna is not there, or the study declares no ranges.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("--search needs optuna: pip install 'mapjax[study]'.") from error
    if not study.ranges:
        raise UserError(f"--search: the sweep() of {study.experiment} declares no ranges.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metric, direction = next(iter(study.metrics.items()))
    asked = optuna.create_study(
        direction="maximize" if direction == "max" else "minimize",
        sampler=optuna.samplers.TPESampler(seed=study.seeds[0]),
        pruner=optuna.pruners.MedianPruner(WARM_TRIALS, WARM_EVALUATIONS),
    )
    if "@" in metric:
        raise UserError(f"--search: the first metric, {metric!r}, is that of a test; name first one of the run itself.")
    base = next(cell for cell in study.cells if cell.name == study.baseline)
    cells, tried, code = [base], [], sweep.code()
    outcome = runs.run_one(study, _job(study, root, base, code))
    if outcome.failure:
        raise UserError(f"--search: the baseline has failed: {outcome.failure}")
    for count in range(number):
        trial = asked.ask()
        values = {name: _suggest(trial, name, *given) for name, given in study.ranges.items()}
        cell = sweep.make_cell(study.experiment, study.data, study.more, f"trial-{count:03d}", values)
        cells.append(cell)
        tried.append(_tried(study, _job(study, root, cell, code), asked, trial, metric))
        console.print(
            f"{count + 1}/{number}  {tried[-1].name}: {tried[-1].state}, {metric} {tried[-1].value}  {values}"
        )
    whole = study._replace(cells=tuple(cells), seeds=study.seeds[:1])
    finished = [one for one in asked.trials if one.state == optuna.trial.TrialState.COMPLETE]
    if len(finished) > 1 and len(study.ranges) > 1:
        tried[0] = tried[0]._replace(importance=dict(optuna.importance.get_param_importances(asked)))
    return whole, runs.jobs(whole, root, code), tried


def _job(study: sweep.Study, root: pathlib.Path, cell: sweep.Cell, code: str) -> runs.Job:
    return runs.jobs(study._replace(cells=(cell,), seeds=study.seeds[:1]), root, code)[0]


def _suggest(trial: Any, name: str, kind: str, *values: Any) -> Any:
    if kind == "choice":
        return trial.suggest_categorical(name, values)
    low, high = values
    return (
        trial.suggest_int(name, low, high) if kind == "int" else trial.suggest_float(name, low, high, log=kind == "log")
    )


def _tried(study: sweep.Study, job: runs.Job, asked: Any, trial: Any, metric: str) -> Trial:
    """Run a trial, or look at what is there of it, and tell optuna."""
    from optuna.trial import TrialState

    name, values = job.cell.name, dict(trial.params)
    reported: set[int] = set()
    known = workdir.read_json(job.folder / ENDED)["step"] if (job.folder / ENDED).exists() else None
    steps = estimate.steps(job.cell)

    def behind() -> bool:
        """Tell what has been measured so far, and whether to end; one that is all trained is not ended any more."""
        for count, (step, value) in enumerate(_measured(job, metric)):
            if step not in reported and (known is None or step <= known):
                reported.add(step)
                trial.report(value, count)  # optuna compares trials at the same count
        trained = (job.folder / "result.json").exists() or any(step >= steps for step in reported)
        return bool(reported and not trained and trial.should_prune())

    outcome = runs.Outcome(job, runs.STOPPED, 0.0) if known is not None else runs.run_one(study, job, "", behind)
    behind()
    measured = _measured(job, metric)
    last = measured[-1][1] if measured else None
    if outcome.failure == runs.STOPPED:
        workdir.write_json(job.folder / ENDED, {"step": max(reported)})
        asked.tell(trial, state=TrialState.PRUNED)
        return Trial(name, values, "ended early", last)
    if outcome.failure:
        console.print(outcome.failure)
        asked.tell(trial, state=TrialState.FAIL)
        return Trial(name, values, "failed", last)
    figures = workdir.read_json(job.folder / "result.json")["metrics"]
    if metric not in figures:
        raise UserError(f"{job.name} has reported no {metric!r}.{near(metric, figures)}")
    value = float(figures[metric])
    asked.tell(trial, value)
    return Trial(name, values, "finished", value)


def _measured(job: runs.Job, metric: str) -> list[tuple[int, float]]:
    """Give step and value of each evaluation so far."""
    lines: Sequence[Mapping[str, Any]] = log.read(job.folder / "metrics.jsonl")
    return [(line["step"], line[metric]) for line in lines if line["kind"] == "eval" and metric in line]
