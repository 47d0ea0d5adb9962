"""Label maps on the device: back to original pixels, what is confused with what, and whether contours agree."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt32

from mapjax.stages import VOID

LabelMaps = Integer[Array, "b r s"]
BLOCK = 4096  # pixels counted at once: their one-hots fit in a core's cache


def map_back(
    maps: Float[Array, "b i j c"], matrix: Float[Array, "b 3 3"], frame: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "b r s c"]:
    """Sample maps bilinearly at the pixels of the original images; beyond their border the last value goes on.

    Args:
      maps: over the frame, at any stride.
      matrix: original pixels → pixels of the frame; of each axis by itself, as in evaluation (no rotation or shear).
      frame: its height, width.
      size: r, s of the result.
    """
    rows = _places(matrix[:, 1, 1], matrix[:, 1, 2], size[0], maps.shape[1], frame[0])
    columns = _places(matrix[:, 0, 0], matrix[:, 0, 2], size[1], maps.shape[2], frame[1])
    return jax.lax.platform_dependent(maps, rows, columns, cpu=_by_gather, default=_by_products)


def _places(scale, shift, length: int, places: int, frame: int):
    """Where on a map's axis the pixels along one axis are (b length), from 0 to the last place."""
    at = scale[:, None] * (jnp.arange(length) + 0.5) + shift[:, None]
    return jnp.clip(at * (places / frame) - 0.5, 0, places - 1)


def _by_gather(maps, rows, columns):
    """The two places on either side along each axis, one axis after the other."""

    def along(x, at, axis: int):
        low = jnp.minimum(jnp.floor(at).astype(jnp.int32), max(x.shape[axis] - 2, 0))
        part = jnp.expand_dims(at - low, tuple(i for i in range(3) if i != axis))
        one, other = (jnp.take(x, low + step, axis=axis, mode="clip") for step in (0, 1))
        return one * (1 - part) + other * part

    return jax.vmap(lambda x, rows, columns: along(along(x, columns, 1), rows, 0))(maps, rows, columns)


def _by_products(maps, rows, columns):
    """Products with matrices, where a gather is slow; of whole planes, so that only the small maps are transposed."""
    down, across = (
        jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(places)), 0)
        for at, places in zip((rows, columns), maps.shape[1:3])
    )
    exact = jax.lax.Precision.HIGHEST
    wide = jnp.einsum("bcij,bsj->bcis", jnp.moveaxis(maps, -1, 1), across, precision=exact)
    return jnp.moveaxis(jnp.einsum("bri,bcis->bcrs", down, wide, precision=exact), 1, -1)


def confusion(truth: LabelMaps, predicted: LabelMaps, classes: int) -> Int[Array, "b c c"]:
    """Count the pixels of each true class (rows) that were given each class (columns), in every image, exactly.

    Pixels without a true class do not count.
    """
    return _pairs(truth, predicted, classes, classes)


def _pairs(one: LabelMaps, other: LabelMaps, rows: int, columns: int) -> Int[Array, "b rows columns"]:
    """Count how often the first map has the value of a row where the second has that of a column; VOID is no row."""
    scatter, products = (
        functools.partial(form, rows=rows, columns=columns) for form in (_pairs_by_scatter, _pairs_by_products)
    )
    return jax.lax.platform_dependent(one, other, cpu=scatter, default=products)


def _pairs_by_scatter(one, other, rows: int, columns: int):
    def count(one, other):
        one, other = (x.reshape(-1).astype(jnp.int32) for x in (one, other))
        place = jnp.where((one < rows) & (other < columns), one * columns + other, rows * columns)
        return jnp.zeros(rows * columns, jnp.int32).at[place].add(1, mode="drop").reshape(rows, columns)

    return jax.vmap(count)(one, other)


def _pairs_by_products(one, other, rows: int, columns: int):
    """Products of one-hots: where a scatter to few places is slow. Whole numbers that float32 holds."""
    batch, pixels = len(one), math.prod(one.shape[1:])
    parts = -(-pixels // BLOCK)
    flat = ((0, 0), (0, parts * BLOCK - pixels))
    blocks = [
        jnp.pad(x.reshape(batch, pixels), flat, constant_values=VOID).reshape(batch, parts, BLOCK).swapaxes(0, 1)
        for x in (one, other)
    ]

    def add(total, block):
        first, second = (
            (x[:, None] == jnp.arange(number, dtype=x.dtype)[:, None]).astype(jnp.float32)
            for x, number in zip(block, (rows, columns))
        )
        return total + jnp.einsum("brn,bcn->brc", first, second).astype(jnp.int32), None

    return jax.lax.scan(add, jnp.zeros((batch, rows, columns), jnp.int32), blocks)[0]


def contours(truth: LabelMaps, predicted: LabelMaps, classes: int, radius: float) -> Int[Array, "b c 4"]:
    """Count the pixels on the contours of each class in every image, and those near the other map's contour.

    A pixel is on the contour of its class where one of its four neighbours has another class; pixels without a true
    class, and the image's border, make none. Near is a Euclidean distance of at most `radius` pixels.

    Returns:
      Predicted contour, of it near the true one, true contour, of it near the predicted one: precision and recall of
      the boundary F1 (Csurka et al. 2013).
    """
    known = truth != VOID
    counts = jnp.zeros((len(truth), classes, 4), jnp.int32)
    for first in range(0, classes, 32):
        # A bit for each class: 32 dilations in one.
        bits = [_contour_bits(x, known, first, min(32, classes - first)) for x in (predicted, truth)]
        both = []
        for labels, own, others in zip((predicted, truth), bits, reversed(bits)):
            near = (own & _dilate(others, radius)) != 0
            table = _pairs(jnp.where(own != 0, labels, VOID), near.astype(jnp.uint8), classes, 2)
            both += [table.sum(-1), table[..., 1]]
        counts += jnp.stack(both, -1)
    return counts


def _contour_bits(labels, known, first: int, number: int) -> UInt32[Array, "b r s"]:
    edge = jnp.zeros(labels.shape, bool)
    for axis in (1, 2):
        last = labels.shape[axis]
        (one, one_known), (other, other_known) = (
            [jax.lax.slice_in_dim(x, start, stop, axis=axis) for x in (labels, known)]
            for start, stop in ((0, last - 1), (1, last))
        )
        differs = (one != other) & one_known & other_known
        for pad in ((0, 1), (1, 0)):
            edge |= jnp.pad(differs, [pad if i == axis else (0, 0) for i in range(3)])
    place = labels.astype(jnp.int32) - first
    inside = edge & (place >= 0) & (place < number)
    return jnp.where(inside, jnp.uint32(1) << jnp.clip(place, 0, 31).astype(jnp.uint32), jnp.uint32(0))


def _dilate(words: UInt32[Array, "b r s"], radius: float) -> UInt32[Array, "b r s"]:
    """Set every bit that is set within a disc around."""
    reach, (_, rows, columns) = int(radius), words.shape
    padded = jnp.pad(words, ((0, 0), (reach, reach), (reach, reach)))  # so that all that is shifted is a plain slice
    along = [padded[:, :, reach : reach + columns]]  # by how far to either side
    for half in range(1, reach + 1):
        left, right = (jax.lax.slice_in_dim(padded, at, at + columns, axis=2) for at in (reach - half, reach + half))
        along.append(along[-1] | left | right)
    halves = [int(np.sqrt(radius**2 - down**2)) for down in range(-reach, reach + 1)]
    # Each is computed once, and not again for every row of the disc that it is as wide as.
    spread = dict(zip(used := sorted(set(halves)), jax.lax.optimization_barrier([along[half] for half in used])))
    parts = (jax.lax.slice_in_dim(spread[half], at, at + rows, axis=1) for at, half in enumerate(halves))
    return functools.reduce(jnp.bitwise_or, parts)
