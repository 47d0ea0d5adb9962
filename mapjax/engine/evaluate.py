"""Evaluation: summarize ∘ fold(merge) ∘ measure ∘ decode ∘ predict, for every task."""

import functools
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from mapjax import stages
from mapjax.errors import UserError
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Counts, Metric, Result, Task, Variables

FOLDED = 32  # batches
Answer = Callable[[Variables, Batch], Any]


class Evaluation(NamedTuple):
    """What an evaluation found: the scalars, their counts, how many images they stand for, and how long it took."""

    metrics: dict[str, float]
    counts: Counts
    images: int
    seconds: float


def make_answer(task: Task, metric: Metric | None = None) -> Answer:
    """Make the one jit that turns a batch into results in original pixels, or into what a metric takes of them.

    What is random in an answer is a function of this key and of an example's "index".
    """

    def answer(variables: Variables, batch: Batch) -> Any:
        prediction = task.predict(variables, batch, jax.random.key(0))
        result = task.decode(prediction, batch)
        stages.check("prediction", prediction)  # as it is traced: once
        stages.check("result", result)
        return result if metric is None or metric.score is None else metric.score(result, batch)

    return jax.jit(answer)


def evaluate(answer: Answer, variables: Variables, batches: Iterable[Batch], metric: Metric) -> Evaluation:
    """Score the answers over all batches; each image counts once, on any number of devices and processes."""
    began = time.perf_counter()
    measured: list[Counts] = []  # folded now and then, as counts may hold answers worth forgetting
    seen: list[np.ndarray] = []

    def measure(result: Result, batch: Batch) -> None:
        result, batch = local(result), {**local(batch), "mask": own_rows(batch["mask"])}
        measured.append(metric.measure(result, batch))
        if len(measured) == FOLDED:
            measured[:] = [functools.reduce(metric.merge, measured)]
        seen.append(batch["index"][batch["mask"]])

    waiting: tuple[Result, Batch] | None = None
    for batch in batches:
        # The device works on this batch while the host measures the one before it.
        result = answer(variables, batch)
        if waiting is not None:
            measure(*waiting)
        waiting = (result, batch)
    if waiting is not None:
        measure(*waiting)
    own = {"counts": functools.reduce(metric.merge, measured), "seen": np.unique(np.concatenate(seen))}
    parts = gather(own)
    counts = functools.reduce(metric.merge, [part.get("counts", {}) for part in parts])
    images = np.unique(np.concatenate([part["seen"] for part in parts])).size
    return Evaluation(metric.summarize(counts), counts, images, time.perf_counter() - began)


def local(values: dict[str, Any]) -> dict[str, Any]:
    """Bring this process's rows of a batch or a result to the host; images and true maps stay where they are."""
    kept = {name: value for name, value in values.items() if name not in ("image", "truth_map")}
    return {name: local(value) if isinstance(value, dict) else _rows(value) for name, value in kept.items()}


def own_rows(mask: Any) -> np.ndarray:
    """Give this process's rows of a batch's mask, without those that another process counts.

    Where a mesh's `model` axis goes over several processes, each of them has the same rows.
    """
    if not isinstance(mask, jax.Array) or mask.is_fully_addressable:
        return np.asarray(mask)
    return _rows(mask) & _first_copies(
        [(s.index[0].start or 0, len(s.data), s.replica_id) for s in mask.addressable_shards]
    )


def _first_copies(shards: list[tuple[int, int, int]]) -> np.ndarray:
    """Say of each row whether its first copy is here; shards: start, length, number of the copy."""
    lengths = {start: length for start, length, _ in shards}
    here = {start for start, _, copy in shards if copy == 0}
    return np.concatenate([np.full(lengths[start], start in here) for start in sorted(lengths)])


def gather(own: dict[Any, Any]) -> list[dict[Any, Any]]:
    """Collect the nested dicts of arrays of all processes, in their order (sent as .npz; never a pickle)."""
    if jax.process_count() == 1:
        return [own]
    from jax.experimental import multihost_utils

    message = np.frombuffer(_pack(own), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(message.size))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: message.size] = message
    rows = multihost_utils.process_allgather(padded)
    return [_unpack(row[:length].tobytes()) for row, length in zip(np.asarray(rows), lengths.tolist())]


def make_mesh(sizes: Mapping[str, int], batch: int, say: Callable[[str], Any] = print) -> Mesh:
    """Make the mesh of a trained run, or one that shares out the batch where other devices are here than there were.

    Scores are the same on any mesh. Devices that would have none of a batch are left out: images that are answered one
    by one, each in a frame of its own, cannot share a batch with others.

    Args:
      batch: images answered at once.
    """
    try:
        mesh = shard.make_mesh(sizes)
    except UserError:
        mesh = shard.make_mesh({"data": -1})
        say(f"the mesh of the run does not fit the devices here; scoring with mesh.data={mesh.size}")
    if mesh.shape["data"] > batch and mesh.shape["fsdp"] == 1 and jax.process_count() == 1:
        used = mesh.size // mesh.shape["data"] * batch
        return shard.make_mesh({**mesh.shape, "data": batch}, jax.devices()[:used])
    return mesh


def place(variables: Variables, mesh: Mesh) -> Variables:
    """Put variables on the mesh."""
    places = shard.placement(variables, mesh)
    if jax.process_count() == 1:
        return jax.device_put(variables, places)

    def own(values: Any, sharding: Any) -> jax.Array:
        # JAX puts no array of one process on another's devices: each places its part of what all have read.
        return jax.make_array_from_callback(values.shape, sharding, np.asarray(values).__getitem__)

    return jax.tree.map(own, variables, places)


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
