"""Where in a file a network's weights are: below which keys and prefix, under whose names, for which part of ours.

No list of prefixes is needed. Each one that many tensors have, as "state_dict.module." or "teacher.backbone.", is tried
as a module's, with and without the renamings of other projects, at each place of our network; that under which most
tensors fit is taken. Where several fit as well, as "model." and "model_ema.", it is the averaged one.
"""

import heapq
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mapjax.errors import UserError
from mapjax.weights import huggingface, stored, timm, yolox
from mapjax.weights.stored import Stored, shown
from mapjax.weights.translate import new_names

Shapes = Mapping[str, tuple[int, ...]]
POSITIONS = ("pos_embedding", "pos_embed")  # which may be of another size
_PREFIXES = 64  # that are tried, the most common
_PARTS = 8  # of a name that may be its prefix
_log = logging.getLogger(__name__)


class Part(NamedTuple):
    """What of a file is taken.

    prefix: what the names of its tensors begin with in the file.
    place: where in our network they belong, as "backbone.body."; "" where they are the whole.
    tensors: under our torchvision names; one that fits nowhere may have only its shape.
    outside: names of the file's other tensors, as in the file.
    """

    prefix: str
    place: str
    tensors: dict[str, np.ndarray]
    outside: Sequence[str]


class _Found(NamedTuple):
    """A way to read a file: how many tensors of ours it gives, the prefix, the number of the renaming, the place."""

    fits: int
    averaged: bool
    prefix: str
    reading: int
    place: str


def readings(tensors: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Give the tensors under their own names, then under torchvision's where they may be another project's."""
    counted = new_names(tensors)
    yield counted
    yield from timm.renamings(counted)
    yield from huggingface.renamings(counted)
    yield from yolox.renamings(counted)


def best(file: Stored, wanted: Shapes, source: str) -> Part:
    """Find what of a file fits most of a network's tensors, and read it.

    Args:
      wanted: shapes of the network's tensors, under torchvision's names.
      source: of the tensors, for messages: which keys were taken is logged.

    Raises:
      UserError: a tensor that fits holds no numbers, or it cannot be read.
    """
    shapes = {name: shape for name, shape in file.shapes.items() if not stored.counts(name)}
    found = list(_ways(shapes, file.groups, wanted))
    chosen = max(found, key=lambda way: (way.fits, way.averaged and way.fits > 0, -len(way.prefix)))
    _say(chosen, found, file, source)
    inside = [name for name in shapes if name.startswith(chosen.prefix)]
    sizes = {math.prod(shape) for shape in wanted.values()}
    useful = [name for name in inside if math.prod(shapes[name]) in sizes or name.endswith(POSITIONS)]
    read = file.read(useful)
    arrays = {name.removeprefix(chosen.prefix): read.get(name, _like(shapes[name])) for name in inside}
    arrays = next(itertools.islice(readings(arrays), chosen.reading, None))
    tensors = {chosen.place + name: array for name, array in arrays.items()}
    for name, shape in wanted.items():
        if name in tensors and (tensors[name].shape == shape or name.endswith(POSITIONS)):
            tensors[name] = _numbers(name, tensors[name], source)
    outside = sorted(name for name in shapes if not name.startswith(chosen.prefix))
    return Part(chosen.prefix, chosen.place, tensors, outside)


def prefixes(names: Mapping[str, object]) -> list[str]:
    """List the prefixes of names that may be those of a network, by how many names have them; "" is the first."""
    counts = Counter({"": len(names)})
    for name in names:
        parts = name.split(".", _PARTS)[:-1]
        counts.update(".".join(parts[:end]) + "." for end in range(1, len(parts) + 1))
    return heapq.nsmallest(_PREFIXES, counts, key=lambda prefix: (-counts[prefix], len(prefix)))


def _ways(shapes: Shapes, groups: Mapping[str, str], wanted: Shapes) -> Iterator[_Found]:
    """Give the ways to read a file, of which the first are of most tensors, as long as they may be the best.

    What cuts a state dict must be most of our network: else two tensors that fit by chance would be taken.
    """
    most, whole = 0, Counter(groups[name] for name in shapes)
    for prefix in prefixes(shapes):
        inside = [name for name in shapes if name.startswith(prefix)]
        if len(inside) < most:
            return
        uncut = all(count == whole[group] for group, count in Counter(groups[name] for name in inside).items())
        tensors = {name.removeprefix(prefix): _like(shapes[name]) for name in inside}
        for number, reading in enumerate(readings(tensors)):
            fits, place = _best_place({name: array.shape for name, array in reading.items()}, wanted)
            if uncut or 2 * fits >= len(wanted):
                most = max(most, fits)
                yield _Found(fits, stored.is_averaged(prefix), prefix, number, place)


def _best_place(given: Shapes, wanted: Shapes) -> tuple[int, str]:
    """Where in our network another one stands, as "backbone.body.", and how many of its tensors fit there."""
    fits = Counter({"": 0})
    for name, shape in wanted.items():
        parts = name.split(".")
        for i in range(len(parts)):
            if given.get(".".join(parts[i:])) == shape:
                fits["".join(f"{part}." for part in parts[:i])] += 1
    place = max(fits, key=lambda place: (fits[place], -len(place)))
    return fits[place], place


def _say(chosen: _Found, found: Sequence[_Found], file: Stored, source: str) -> None:
    """Log which of several weights in a file are taken; averaged ones that are not are always told."""
    if not chosen.prefix or not chosen.fits:
        return
    fitting = {way.prefix for way in found if way.fits == chosen.fits}
    averaged = {prefix for prefix in prefixes(file.shapes) if stored.is_averaged(prefix)}
    others: list[str] = []
    for other in sorted(fitting | averaged):  # of one within another the outer
        if not other.startswith((chosen.prefix, *others)) and not chosen.prefix.startswith(other):
            others.append(other)
    beside = f", and not those under {', '.join(shown(other[:-1]) for other in others[:3])}" if others else ""
    kind = " (averaged over the training)" if chosen.averaged else ""
    _log.warning("%s: taking the weights under %s%s%s", source, shown(chosen.prefix[:-1]), kind, beside)


def _like(shape: tuple[int, ...]) -> np.ndarray:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def _numbers(name: str, tensor: np.ndarray, source: str) -> np.ndarray:
    """Give a tensor as float32, if it holds numbers."""
    if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.kind != "V":
        raise UserError(
            f"{source}: tensor {shown(name)} is of {tensor.dtype}, where a network has floating point; save the "
            "weights before they are quantised or converted."
        )
    with np.errstate(over="ignore"):
        values = np.asarray(tensor, np.float32)
    if strange := values.size - np.count_nonzero(np.isfinite(values)):
        raise UserError(
            f"{source}: {strange} of the {values.size} numbers in tensor {shown(name)} are NaN or infinite; take "
            "weights from before the training diverged."
        )
    return values
