"""Several metrics of one evaluation as one: each counts for itself, by its name.

counts   {name: counts of that metric}
scalars  those of all of them, in their order; the first metric ranks checkpoints
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mapjax.config import parts
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.task import Batch, Counts, Metric, Result

Node = str | Mapping[str, Any]  # a name, or a name and keyword arguments: {"name": "iou", "tolerance": 0.01}


def named(nodes: Sequence[Node], source: Source) -> Metric:
    """Make the metrics that a config, or a task, names against the truth of `source`.

    Args:
      nodes: parts of mapjax.metrics; a dotted name is a module of your own, whose `make(source)` gives a Metric.

    Raises:
      UserError: no metric, an unknown one, or one twice, or two that rank by the same scalar; by the metric, two
        that give a scalar or a file of one name and different content.
    """
    listed = [{"name": node} if isinstance(node, str) else dict(node) for node in nodes]
    names = [str(node.get("name")) for node in listed]
    if not names or len(set(names)) != len(names):
        raise UserError(f"metrics={names} must name one or more metrics, each once.")
    made = {name: parts.make("metrics", node, source=source) for name, node in zip(names, listed)}
    for name, metric in made.items():
        if not isinstance(metric, Metric):
            raise UserError(f"metrics: make() of {name!r} must give a mapjax.Metric, not {type(metric).__name__}.")
    _joined({name: {metric.best: None} for name, metric in made.items()})  # told before any training
    return together(made)


def together(metrics: Mapping[str, Metric]) -> Metric:
    """Combine metrics by name; errors as for `named`."""

    def score(result: Result, batch: Batch) -> dict[str, Any]:
        return {name: result if one.score is None else one.score(result, batch) for name, one in metrics.items()}

    def measure(results: Mapping[str, Any], batch: Batch) -> Counts:
        return {name: one.measure(results[name], batch) for name, one in metrics.items()}

    def merge(one: Counts, other: Counts) -> Counts:
        # What came from another process has lost its empty dicts.
        return {name: metric.merge(one.get(name, {}), other.get(name, {})) for name, metric in metrics.items()}

    def summarize(counts: Counts) -> dict[str, float]:
        return _joined({name: one.summarize(counts[name]) for name, one in metrics.items()})

    def files(counts: Counts) -> dict[str, Any]:
        return _joined({name: one.files(counts[name]) for name, one in metrics.items()}, alike=True)

    return Metric(measure, merge, summarize, files, next(iter(metrics.values())).best, score)


def _joined(found: Mapping[str, Mapping[str, Any]], *, alike: bool = False) -> dict[str, Any]:
    """Join what metrics give by its names, of which no two metrics may have one, unless it may be `alike`, and is."""
    joined: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for metric, values in found.items():
        for name, value in values.items():
            if (other := owners.setdefault(name, metric)) != metric and not (alike and joined[name] == value):
                raise UserError(f"metrics: {other!r} and {metric!r} both give {name!r}; leave one of them out.")
        joined |= values
    return joined
