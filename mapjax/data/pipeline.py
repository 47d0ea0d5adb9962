"""From examples to batches that are already on the devices, in an order that is a pure function of (seed, step).

Training sees an endless stream: a new seeded permutation of the source for every epoch, one after the other, cut into
batches (one may straddle two epochs). Element g of the stream is augmented by a generator seeded with (seed, g), and
those of further streams likewise (streams.py). So batch n is the same whatever the number of processes, threads and
workers, and the state of the data is the step.
Every process reads only the rows that its own devices hold. Decoding and augmenting happen in grain's threads (or
worker processes); one more thread collates and puts the next batches on the devices.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import cv2
import jax
import numpy as np

from mapjax.data import labels, streams
from mapjax.data.batches import Batches
from mapjax.data.checks import overview
from mapjax.data.sampling import Sampler
from mapjax.data.source import Source, kind_of, name_of, truth_of
from mapjax.data.streams import Loaded, Stream
from mapjax.data.transforms.boxes import Example, Transform
from mapjax.errors import UserError
from mapjax.task import Batch

cv2.setNumThreads(0)  # the pipeline's own threads are the parallelism


def train_batches(
    source: Source,
    transform: Transform | Sequence[tuple[int, Transform]],
    *,
    batch: int,
    seed: int,
    sampler: Sampler | None = None,
    further: Sequence[Stream] = (),
    start: int = 0,
    sharding: jax.sharding.Sharding | None = None,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Iterate over training batches without end.

    An unreadable image is replaced by the next readable record, counted in `.replaced` and logged once.

    Args:
      transform: of a record; or several, each with the batch from which on it holds, the first with 0.
      batch: examples in a batch, over all processes.
      seed: of the order and of the augmentation.
      sampler: which records an epoch shows, in which order; by default each once.
      further: streams whose examples a batch holds too, each in a dict of its own under its name.
      start: batches already consumed; the first one returned is batch `start`.
      sharding: of the batch axis over devices; None puts everything on the default device.
      threads: that decode and augment, in this process or in each worker; 0: one for each core.
      workers: processes that decode and augment; 0 does it in threads here.
      prefetch: batches kept ready on the devices.

    Raises:
      UserError: an empty source, or a batch that the devices cannot share evenly; from `next`, when 100 records in a
        row are unreadable.
    """
    main = streams.make("", source, transform, batch=batch, seed=seed, sampler=sampler)
    # All that a batch takes of each stream here, one stream after the other: place → stream, row.
    local = [(one, row) for one in (main, *further) for row in _local_rows(one.batch, sharding)]
    parts = [(one.name, len(_local_rows(one.batch, sharding))) for one in (main, *further)]

    def load(position: int) -> Loaded:
        step, place = divmod(position, len(local))
        stream, row = local[place]
        return streams.element(stream, start + step, row)

    sizes = {one.name: one.batch for one in (main, *further)}
    return _batches(
        load, 2**62 // len(local) * len(local), parts, _placing(sizes, sharding), threads, workers, prefetch
    )


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    batch: int,
    sharding: jax.sharding.Sharding | None = None,
    threads: int = 2,
    prefetch: int = 2,
) -> Batches:
    """Iterate once over a source in order, the same number of batches on every process.

    The last batch is filled up with rows whose `mask` is False; so is the row of an unreadable image, which is
    counted in `.replaced` and logged.

    Args and errors: as for `train_batches`.
    """
    rows = _local_rows(batch, sharding)
    length = _length(source)

    def load(position: int) -> Loaded:
        step, row = divmod(position, len(rows))
        element = step * batch + rows[row]
        return _in_order(source, transform, element)

    count = math.ceil(length / batch)
    return _batches(load, count * len(rows), [("", len(rows))], _placing({"": batch}, sharding), threads, 0, prefetch)


def _in_order(source: Source, transform: Transform, position: int) -> Loaded:
    """Load one row of an evaluation batch; past the end, and for an unreadable image, a blank row."""
    rng = np.random.default_rng(0)  # an evaluation's transform draws nothing
    index = min(position, len(source.records) - 1)
    replaced: dict[str, str] = {}
    if position == index:
        try:
            return _numbered(transform(source.records[index], rng), index, real=True), {}
        except UserError as error:
            replaced = {name_of(source, index): str(error)}
    record = truth_of(source, index)
    height, width = map(int, record.get("size", (1, 1)))
    blank = record | {"image": np.zeros((height, width, 3), np.uint8)}
    if labels.leading(record) is None and (kind := kind_of(source)) is not None:  # a label map is in whole records only
        blank |= labels.blank((height, width), kind)
    return _numbered(transform(blank, rng), index, real=False), replaced


def _numbered(example: Example, index: int, *, real: bool) -> Example:
    return example | {"index": np.array(index, np.int32), "mask": np.array(real)}


def stack(examples: Sequence[Example]) -> Example:
    """Stack examples of one shape.

    Raises:
      UserError: their images have frames of their own, or only some have labels of a kind.
    """
    every, common = (way(*map(set, examples)) for way in (set.union, set.intersection))
    if every != common:
        raise UserError(
            f"records of which only some give {', '.join(sorted(every - common))} cannot share a batch; give all the "
            "records of a source labels of the same kinds, empty ones where an image has none."
        )
    frames = {example["image"].shape[:2] for example in examples}
    if len(frames) > 1:
        some = ", ".join(f"{height}×{width}" for height, width in sorted(frames)[:3])
        raise UserError(
            f"images in frames of {some} cannot share a batch: set eval_batch=1 (on one device), or "
            "transform.multiple=0 for one frame of image_size."
        )
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _collate(parts: Sequence[tuple[str, int]], loaded: Sequence[Loaded]) -> Loaded:
    """Stack examples to a batch, and gather what was unreadable; `parts` say how many of each stream there are."""
    examples = iter(example for example, _ in loaded)
    replaced = {file: reason for _, lost in loaded for file, reason in lost.items()}
    stacked = {name: stack(list(islice(examples, count))) for name, count in parts}
    return stacked.pop("") | stacked, replaced


def _batches(
    load: Callable[[int], Loaded],
    length: int,
    parts: Sequence[tuple[str, int]],
    place: Callable[[Example], Batch],
    threads: int,
    workers: int,
    prefetch: int,
) -> Batches:
    """Run `load` over positions 0 … length - 1 in grain's threads or processes.

    Args:
      parts: the streams, and how many positions of a batch each has, in their order.
    """
    import grain  # takes a second, and evaluation of a few images does without
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads its flags, and mapjax also runs outside absl.app
    threads = threads or cores(workers)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    rows, collate = sum(count for _, count in parts), partial(_collate, parts)

    def dataset_from(first: int) -> Any:
        positions = grain.MapDataset.range(first * rows, length)
        made = positions.map(load).batch(rows, batch_fn=collate).to_iter_dataset(options)
        if workers <= 0:
            return made
        return made.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))

    if workers <= 0:
        return Batches(dataset_from, place, prefetch)
    # Copied, because a device array on CPU may share its memory, and grain frees what workers send.
    return Batches(dataset_from, lambda arrays: place(jax.tree.map(np.array, arrays)), prefetch)


def cores(workers: int = 0) -> int:
    """Give a thread to each core that this process may use, shared among the workers; more than 16 gain nothing."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // max(workers, 1), 16))


def _length(source: Source) -> int:
    if len(source.records) == 0:
        raise UserError(
            f"{source.name} has no images in its split {source.split!r}; check the path and the split."
            f"{overview.why(source)}"
        )
    return len(source.records)


def _local_rows(batch: int, sharding: jax.sharding.Sharding | None) -> list[int]:
    """Rows of the global batch that the devices of this process hold."""
    if sharding is None:
        return list(range(batch))
    try:
        indices = sharding.addressable_devices_indices_map((batch,))
    except ValueError as error:
        raise UserError(
            f"batch={batch} cannot be shared evenly by {sharding.num_devices} devices; choose a multiple."
        ) from error
    held = np.zeros(batch, bool)
    for index in indices.values():
        held[index] = True
    return np.flatnonzero(held).tolist()


def _placing(sizes: Mapping[str, int], sharding: jax.sharding.Sharding | None) -> Callable[[Example], Batch]:
    """Return the function that puts this process's rows on its devices; sizes: of each stream's whole batch."""
    if sharding is None:
        return jax.device_put

    def place(arrays: Example, name: str = "") -> Batch:
        return {
            key: place(rows, key)
            if isinstance(rows, dict)
            else jax.make_array_from_process_local_data(sharding, rows, (sizes[name], *rows.shape[1:]))
            for key, rows in arrays.items()
        }

    return place
