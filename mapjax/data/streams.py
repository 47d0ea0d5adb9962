"""A stream: records in an endless order that is a pure function of (seed, number of the element), made into examples.

A batch may hold elements of several streams. The main one stands at the top of the batch; each further one is a dict
of its own under its name, `batch["unlabelled"]["image"]`, with its own `mask` and `index`. Element g of a stream does
not depend on the other streams, nor on processes, threads and workers.

A transform may draw companions, other records of its stream that it mixes with the one at hand (mosaic, MixUp, pairs):
it has an attribute `companions`, their number, and is called as `transform(record, rng, companions)`. Which ones they
are is a function of (seed, g) too.
"""

import bisect
import contextlib
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from mapjax.data import sampling
from mapjax.data.sampling import Sampler
from mapjax.data.source import Source, name_of
from mapjax.data.transforms.boxes import Example, Transform
from mapjax.errors import UserError

_TRIES = 100  # unreadable images in a row before giving up
_COMPANIONS = 1  # what tells the generator of companions from that of the augmentation

Loaded = tuple[Example, dict[str, str]]  # an example or stacked examples, and what was unreadable: file → reason


class Stream(NamedTuple):
    """What a stream is made of.

    name: of the dict in a batch; "" for the main stream.
    batch: elements in a batch, over all processes.
    transforms: of a record, each with the batch from which on it holds, the first with 0.
    sampler: which records an epoch shows, in which order.
    seed: of the augmentation.
    """

    name: str
    source: Source
    batch: int
    transforms: Sequence[tuple[int, Transform]]
    sampler: Sampler
    seed: tuple[int, ...]


def make(
    name: str,
    source: Source,
    transform: Transform | Sequence[tuple[int, Transform]],
    *,
    batch: int,
    seed: int,
    sampler: Sampler | None = None,
) -> Stream:
    """Make a stream; the same seed gives streams of other names other orders and augmentations.

    Args:
      name: "" for the main stream.
      transform: of a record; or several, as `Stream` has them.
      batch: elements in a batch, over all processes.
      sampler: by default each record comes once an epoch.

    Raises:
      UserError: an empty source.
    """
    if len(source.records) == 0:
        raise UserError(f"{source.name} has no images in its split {source.split!r}; check the path and the split.")
    own = (seed, zlib.crc32(name.encode())) if name else (seed,)
    order = seed if not name else int(np.random.SeedSequence(own).generate_state(1)[0])
    chosen = sampler or sampling.make("uniform", None, len(source.records), order)
    transforms = [(0, transform)] if callable(transform) else list(transform)
    return Stream(name, source, batch, transforms, chosen, own)


def element(stream: Stream, number: int, row: int) -> Loaded:
    """Load the element at a row of batch `number`.

    An unreadable image is replaced by the next readable record; which, and why, is given with the example.

    Raises:
      UserError: 100 records in a row are unreadable.
    """
    place = number * stream.batch + row
    index = stream.sampler.order(place // stream.sampler.length)[place % stream.sampler.length]
    transform = stream.transforms[bisect.bisect_right(stream.transforms, number, key=lambda one: one[0]) - 1][1]
    return _readable(stream, transform, int(index), place)


def _readable(stream: Stream, transform: Callable[..., Example], index: int, place: int) -> Loaded:
    """Load the record at `index`, or else the next that can be read; other companions where one cannot be.

    Each turn that fails finds one more that cannot be read, which is not tried again.
    """
    records, replaced, broken = stream.source.records, dict[str, str](), set[int]()
    rng = np.random.default_rng((stream.seed[0], place, *stream.seed[1:]))
    for step in range(min(_TRIES, len(records))):
        index = _whole(index, broken, len(records))
        drawn = [_whole(other, broken, len(records)) for other in _companions(stream, transform, place, step)]
        try:
            others = [[records[other] for other in drawn]] if drawn else []
            example = transform(records[index], rng, *others)
        except UserError as error:
            wrong = _unreadable_of(stream, transform, [index, *drawn]) if drawn else index
            replaced[name_of(stream.source, wrong)] = str(error)
            broken.add(wrong)
            continue
        return example | {"index": np.array(index, np.int32), "mask": np.array(True)}, replaced
    raise UserError(
        f"{len(replaced)} images of {stream.source.name} in a row are unreadable, such as: {replaced.popitem()[1]}"
    )


def _whole(index: int, broken: Collection[int], length: int) -> int:
    """Give the record at `index`, or else the next of `length` that has not been found broken; one of them is left."""
    return next(row % length for row in range(index, index + length) if row % length not in broken)


def _companions(stream: Stream, transform: Callable[..., Example], place: int, step: int) -> list[int]:
    """Draw the records that a transform mixes with the one at hand, if it asks for any."""
    count = int(getattr(transform, "companions", 0))
    if not count:
        return []
    rng = np.random.default_rng((*stream.seed, place, step, _COMPANIONS))
    return rng.integers(0, len(stream.source.records), count).tolist()


def _unreadable_of(stream: Stream, transform: Callable[..., Example], tried: Sequence[int]) -> int:
    """Say which of some records cannot be read: each is mixed with itself."""
    for position in tried:
        with contextlib.suppress(UserError):
            record = stream.source.records[position]
            transform(record, np.random.default_rng(0), [record] * (len(tried) - 1))
            continue
        return position
    return tried[0]
