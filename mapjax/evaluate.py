"""Evaluation: summarize ∘ fold(merge) ∘ measure ∘ decode ∘ predict, for every task."""

import functools
import io
import json
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from mapjax import shard
from mapjax.task import Batch, Counts, Metric, Result, Task, Variables

Answer = Callable[[Variables, Batch], Result]


def make_answer(task: Task) -> Answer:
    """Make the one jit that turns a batch into results in original pixels."""
    return jax.jit(lambda variables, batch: task.decode(task.predict(variables, batch), batch))


def evaluate(
    answer: Answer, variables: Variables, batches: Iterable[Batch], metric: Metric
) -> tuple[dict[str, float], Counts]:
    """Score the answers over all batches; each image counts once, on any number of devices and processes.

    Returns:
      The metric's scalars, and the counts they come from (for a task with a report: the detections).
    """
    measured = []
    waiting: tuple[Result, Batch] | None = None
    for batch in batches:
        # The device works on this batch while the host measures the one before it.
        result = answer(variables, batch)
        if waiting is not None:
            measured.append(metric.measure(*map(local, waiting)))
        waiting = (result, batch)
    if waiting is not None:
        measured.append(metric.measure(*map(local, waiting)))
    counts = functools.reduce(metric.merge, gather(measured, metric))
    return metric.summarize(counts), counts


def local(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Bring this process's rows of a batch or a result to the host; pictures stay where they are."""
    return {name: _rows(value) for name, value in values.items() if name != "image"}


def gather(measured: list[Counts], metric: Metric) -> list[Counts]:
    """Merge this process's counts, and collect those of all processes (as arrays by path; never a pickle)."""
    own = functools.reduce(metric.merge, measured)
    if jax.process_count() == 1:
        return [own]
    from jax.experimental import multihost_utils

    message = np.frombuffer(_pack(own), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(message.size))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: message.size] = message
    rows = multihost_utils.process_allgather(padded)
    return [_unpack(row[:length].tobytes()) for row, length in zip(np.asarray(rows), lengths.tolist())]


def place(variables: Variables, mesh: Mesh) -> Variables:
    """Put variables on the mesh."""
    return jax.device_put(variables, shard.placement(variables, mesh))


def _rows(value: Any) -> np.ndarray:
    if not isinstance(value, jax.Array) or value.is_fully_addressable:
        return np.asarray(value)
    shards = {s.index[0].start or 0: s.data for s in value.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def _pack(counts: PyTree) -> bytes:
    """Write nested dicts of arrays as an .npz whose names are the JSON of each path."""
    flat: dict[str, np.ndarray] = {}

    def walk(value: Any, path: list[Any]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, [*path, key])
        else:
            flat[json.dumps(path)] = np.asarray(value)

    walk(counts, [])
    buffer = io.BytesIO()
    np.savez(buffer, **cast("dict[str, Any]", flat))
    return buffer.getvalue()


def _unpack(message: bytes) -> PyTree:
    counts: dict[Any, Any] = {}
    with np.load(io.BytesIO(message), allow_pickle=False) as arrays:
        for name in arrays.files:
            *parents, last = json.loads(name)
            node = counts
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = arrays[name]
    return counts
