"""What a study found: the figures of all finished runs, and each cell's difference to the baseline."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.errors import UserError, near
from mapjax.runtime import workdir
from mapjax.study import answers, runs, statistics, sweep

SIGNIFICANT = round(1 - statistics.LEVEL, 9)
COSTS = {  # of result.json: what it is called in the table, and by what it is multiplied
    "wall_s": ("minutes", 1 / 60),
    "parameters": ("parameters", 1.0),
    "flops": ("GFLOP an example", 1e-9),
    "peak_rss_mb": ("peak GB", 1 / 1024),
    "peak_device_mb": ("peak GB of a device", 1 / 1024),
    "examples_per_s": ("examples/s", 1.0),
}


class Compared(NamedTuple):
    """One metric of one cell.

    by_seed: the figure of each seed that is there.
    seeds, images: the differences to the baseline, p corrected for as many comparisons as there are cells; None for the
      baseline itself, or where there is nothing to compare.
    best: the best of all cells, and significantly other than the baseline.
    """

    by_seed: dict[int, float]
    mean: statistics.Mean
    seeds: statistics.Difference | None = None
    images: statistics.Difference | None = None
    best: bool = False

    @property
    def significant(self) -> bool:
        """Whether each test that could be made says that there is a difference."""
        ps = [test.p for test in (self.seeds, self.images) if test is not None and not math.isnan(test.p)]
        return bool(ps) and max(ps) < SIGNIFICANT


class Row(NamedTuple):
    """A cell in the table.

    metrics: by name, {} without any figure.
    missing: seeds without figures.
    unreported: why a metric has none of a seed that is there, in sentences.
    """

    name: str
    overrides: Mapping[str, Any]
    metrics: dict[str, Compared]
    costs: dict[str, float]
    missing: tuple[int, ...]
    folders: dict[int, pathlib.Path]
    unreported: tuple[str, ...] = ()


class _Run(NamedTuple):
    result: Mapping[str, Any]
    job: runs.Job
    tests: dict[str, Mapping[str, Any]]


def collect(study: sweep.Study, listed: Sequence[runs.Job]) -> list[Row]:
    """Read the figures of the finished runs and compare them; a cell without any has no metrics.

    Raises:
      UserError: no finished run.
    """
    found: dict[str, dict[int, _Run]] = {cell.name: {} for cell in study.cells}
    for job in listed:
        if runs.is_finished(job, study):
            found[job.cell.name][job.seed] = _read(study, job)
    known = {name: by_seed for name, by_seed in found.items() if by_seed}
    if not known:
        raise UserError("no cell of the study is finished yet.")
    metrics = {name: _compare(study, name, known) for name in study.metrics}
    rows = []
    for cell in study.cells:
        mine = found[cell.name]
        compared = {metric: by_cell[cell.name] for metric, by_cell in metrics.items() if cell.name in by_cell}
        missing = tuple(seed for seed in study.seeds if seed not in mine)
        folders = {seed: one.job.folder for seed, one in mine.items()}
        costs = _costs([one.result for one in mine.values()])
        why = tuple(sentence for one in mine.values() for sentence in _unreported(study, one))
        rows.append(Row(cell.name, cell.overrides, compared, costs, missing, folders, why))
    return rows


def unreported(study: sweep.Study, job: runs.Job) -> tuple[str, ...]:
    """Say of each metric that a finished run has no figure of why, in a sentence."""
    return _unreported(study, _read(study, job))


def _unreported(study: sweep.Study, one: _Run) -> tuple[str, ...]:
    return tuple(why for metric in study.metrics if (why := _figure(metric, one)[1]))


def _read(study: sweep.Study, job: runs.Job) -> _Run:
    tests = {name: _result(folder) for name, folder in runs.tests(job, study).items()}
    return _Run(_result(job.folder), job, tests)


def _result(folder: pathlib.Path) -> Mapping[str, Any]:
    """Read the result of a run or a test.

    Raises:
      UserError: it is damaged.
    """
    path = folder / "result.json"
    result = workdir.read_json(path)
    kinds = {"metrics": dict, "versions": dict, "device": str, "devices": int, "mesh": dict}
    if not isinstance(result, dict) or not all(isinstance(result.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{path} is damaged: it must have {', '.join(kinds)}; remove it, and the run is scored again.")
    for name, figure in result["metrics"].items():
        if not isinstance(figure, int | float):
            raise UserError(
                f"{path} is damaged: {name}={figure!r} is no number; remove it, and the run is scored again."
            )
    return result


def _figure(metric: str, one: _Run) -> tuple[float | None, str]:
    """Give a metric of a run, "top1", or "top1@dark" of its test "dark"; or None, and why.

    -1 is no figure to average: the run had nothing to measure it on.
    """
    name, _, test = metric.partition("@")
    figures = (one.tests[test] if test else one.result)["metrics"]
    if name not in figures:
        return None, f"{one.job.name} has reported no {metric!r}.{near(name, figures)}"
    if figures[name] == -1:
        return None, f"{one.job.name} had nothing to measure {metric!r} on; leave it out of the sweep's metrics."
    return float(figures[name]), ""


def _compare(study: sweep.Study, metric: str, found: Mapping[str, Mapping[int, _Run]]) -> dict[str, Compared]:
    """Compare one metric of all cells."""
    values: dict[str, dict[int, float]] = {}
    for name, by_seed in found.items():
        figures = {seed: _figure(metric, one)[0] for seed, one in by_seed.items()}
        if known := {seed: figure for seed, figure in figures.items() if figure is not None}:
            values[name] = known
    plain = {name: Compared(by_seed, statistics.mean(list(by_seed.values()))) for name, by_seed in values.items()}
    others = [name for name in values if name != study.baseline]
    if study.baseline not in values:
        return plain
    drawn = {name: _draws(study, metric, by_seed) for name, by_seed in found.items()}
    base, base_drawn = values[study.baseline], drawn[study.baseline]
    for name in others:
        both = [seed for seed in values[name] if seed in base]
        if both:
            over_seeds = statistics.over_seeds([values[name][s] for s in both], [base[s] for s in both])
            plain[name] = plain[name]._replace(seeds=over_seeds)
        if both and all(s in drawn[name] and s in base_drawn for s in both):
            pairs = [(drawn[name][s], base_drawn[s]) for s in both]
            if any(one.names != other.names for one, other in pairs):
                continue  # of other images: nothing is paired
            ours, theirs = (np.stack([each.figures for each in side]) for side in zip(*pairs))
            plain[name] = plain[name]._replace(images=statistics.over_images(ours, theirs))
    for kind in ("seeds", "images"):
        tested = [name for name in others if getattr(plain[name], kind) is not None]
        ps = [getattr(plain[name], kind).p for name in tested]
        # A cell that no test could be made of is one of those that were to be compared all the same.
        untested = [1.0] * (len(study.cells) - 1 - len(tested))
        corrected = statistics.holm([1.0 if math.isnan(p) else p for p in ps] + untested)
        for name, before, p in zip(tested, ps, corrected):
            p = before if math.isnan(before) else p
            plain[name] = plain[name]._replace(**{kind: getattr(plain[name], kind)._replace(p=p)})
    sign = 1 if study.metrics[metric] == "max" else -1
    whole = [name for name, by_seed in values.items() if len(by_seed) == len(study.seeds)]
    best = max(whole, key=lambda name: sign * plain[name].mean.value, default=study.baseline)
    if (seeds := plain[best].seeds) is not None:
        plain[best] = plain[best]._replace(best=plain[best].significant and sign * seeds.value > 0)
    return plain


class _Drawn(NamedTuple):
    names: tuple[str, ...]
    figures: np.ndarray


def _draws(study: sweep.Study, metric: str, by_seed: Mapping[int, _Run]) -> dict[int, _Drawn]:
    """Draw the metric's figures of each seed's answers; {} for a metric that is not computed from answers."""
    name, _, test = metric.partition("@")
    drawn = {}
    for seed, one in by_seed.items():
        found = answers.read(runs.tests(one.job, study)[test] if test else one.job.folder, name)
        if found is None:
            return {}
        drawn[seed] = _Drawn(found.names, statistics.draws(found.figure, len(found.names)))
    return drawn


def _costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average what runs took."""
    costs = {}
    for key, (name, factor) in COSTS.items():
        values = [float(result[key]) * factor for result in results if result.get(key) is not None]
        if values:
            costs[name] = float(np.mean(values))
    return costs


def environment(rows: Sequence[Row], listed: Sequence[runs.Job] = ()) -> dict[str, Any]:
    """Give the device and the versions of a study's runs, as their results say: each with all that it was.

    Args:
      listed: the study's jobs, for the data of its tests and the weights that it started from.
    """
    facts: dict[str, list[Any]] = {}
    for job in listed:
        given: dict[str, Any] = {f"data of the test {test}": one for test, one in job.test_data.items()}
        for name, value in (given | ({"weights": list(job.weights)} if job.weights else {})).items():
            if value not in facts.setdefault(name, []):
                facts[name].append(value)
    for folder in (folder for row in rows for folder in row.folders.values()):
        result = _result(folder)
        data = {f"{part} data": one["fingerprint"] for part, one in result.get("data", {}).items()}
        where = {key: result[key] for key in ("device", "devices", "mesh")}
        for name, value in {**result["versions"], **where, **data}.items():
            if value not in facts.setdefault(name, []):
                facts[name].append(value)
    return facts


def as_dict(study: sweep.Study, rows: Sequence[Row]) -> dict[str, Any]:
    """Give everything by value, for study.json."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else value
        if hasattr(value, "_asdict"):
            return {key: plain(inner) for key, inner in value._asdict().items()}
        if isinstance(value, Mapping):
            return {str(key): plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return str(value) if isinstance(value, pathlib.Path) else value

    about = {"experiment": study.experiment, "data": study.data, "baseline": study.baseline, "metrics": study.metrics}
    whole = {**about, "seeds": study.seeds, "tests": study.tests, "by_class": study.by_class, "cells": rows}
    return json.loads(json.dumps(plain(whole)))
