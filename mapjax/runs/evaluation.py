"""The evaluation of a config: a held-out split answered and scored, by one jit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mapjax.data import pipeline
from mapjax.data.source import Source
from mapjax.data.transforms import boxes
from mapjax.engine import evaluate
from mapjax.errors import UserError
from mapjax.runs import networks, predict, slices, sources
from mapjax.runtime import log as logs
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Metric, State, Task, Variables


def make_evaluation(
    config: Any, task: Task, metric: Metric, source: Source, mesh: Mesh, log: logs.Log, like: Variables | None = None
) -> Callable[[Variables], evaluate.Evaluation]:
    """Make `evaluation(variables)` over a held-out split; it compiles once.

    Args:
      metric: against the truth of `source`.
      like: the variables, or their shapes: what the task answers is then checked against stages.py now, and not after
        the first hours of training.
    """
    answer: evaluate.Answer = evaluate.make_answer(task, metric)
    transform = sources.make_transform(config, augment=False, scored=source)
    batch, sharding = eval_batch(config, mesh)
    total = -(-len(source.records) // batch)
    if like is not None:
        shapes = sources.abstract_batch(source, transform, batch, sharding)
        with networks.fitting(config):
            found = shard.within(mesh, jax.eval_shape)(answer, like, shapes)
            if config.metrics:
                _try(metric, found, shapes)
    if (cut := slices.of(config)) is not None:
        answer = _in_slices(config, task, metric, source, batch, cut)

    def evaluation(variables: Variables) -> evaluate.Evaluation:
        batches = pipeline.eval_batches(source, transform, batch=batch, sharding=sharding, threads=config.input.threads)
        tracked = log.track(batches, f"evaluate {source.split}", total)
        return evaluate.evaluate(shard.within(mesh, answer), variables, tracked, metric)

    return evaluation


def _in_slices(
    config: Any, task: Task, metric: Metric, source: Source, batch: int, cut: slices.Slices
) -> evaluate.Answer:
    """Make what answers the images of a batch by their tiles, on the host.

    Raises:
      UserError: there are several processes.
    """
    if jax.process_count() > 1:
        raise UserError("slices.size is for one process: evaluate there, or leave it at ().")
    tile = partial(
        predict.predict,
        evaluate.make_answer(task),
        transform=sources.make_transform(config, augment=False),
        batch=batch,
        threads=config.input.threads,
        cut=cut,
    )

    def answer(variables: Variables, given: Batch) -> Any:
        mask = np.asarray(given["mask"])
        rows = np.asarray(given["index"])[mask].tolist()
        found: Any = tile(variables, (boxes.read(source.records[row])[1] for row in rows))
        result = slices.stacked([next(found).result if real else None for real in mask])
        return result if metric.score is None else metric.score(result, given)

    return answer


def _try(metric: Metric, result: Any, batch: Batch) -> None:
    """Let metrics that a config names look at blank answers; a KeyError is of one that is for another task."""
    blank = jax.tree.map(lambda one: np.zeros(one.shape, one.dtype), (result, dict(batch)))
    try:
        metric.measure(blank[0], blank[1] | {"mask": np.arange(len(blank[1]["mask"])) == 0})
    except KeyError:
        raise
    except Exception:  # what is blank may be no answer at all
        return


def eval_batch(config: Any, mesh: Mesh) -> tuple[int, NamedSharding]:
    """Give the size of an evaluation batch and its placement: padding is masked out, so it is rounded up to fit."""
    ways = shard.ways(mesh)
    batch = -(-config.eval_batch // ways) * ways
    return batch, shard.batch_sharding(mesh, batch, "eval_batch")


def trained_variables(state: State) -> Variables:
    """Give the variables to answer with: the averaged parameters where there are any."""
    return {"params": state.params if state.ema is None else state.ema, "stats": state.stats}
