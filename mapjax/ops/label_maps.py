"""Label maps on the device: back to original pixels, what is confused with what, and whether contours agree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt32

from mapjax.stages import VOID

LabelMaps = Integer[Array, "b r s"]


def map_back(
    maps: Float[Array, "b i j c"], matrix: Float[Array, "b 3 3"], frame: tuple[int, int], size: tuple[int, int]
) -> Float[Array, "b r s c"]:
    """Sample maps bilinearly at the pixels of the original pictures; beyond their border the last value goes on.

    Args:
      maps: over the frame, at any stride. matrix: original pixels → pixels of the frame; of each axis by itself, as in
        evaluation (no rotation or shear). frame: its height, width. size: r, s of the result.
    """
    down = _weights(matrix[:, 1, 1], matrix[:, 1, 2], size[0], maps.shape[1], frame[0])
    across = _weights(matrix[:, 0, 0], matrix[:, 0, 2], size[1], maps.shape[2], frame[1])
    # Products with matrices, where a gather of the four neighbours would be slow on every platform.
    exact = jax.lax.Precision.HIGHEST
    rows = jnp.einsum("bri,bijc->brjc", down, maps, precision=exact)
    return jnp.einsum("bsj,brjc->brsc", across, rows, precision=exact)


def _weights(scale, shift, length: int, places: int, frame: int):
    """Weights (b length places) of a map's places in the pixels along one axis."""
    at = scale[:, None] * (jnp.arange(length) + 0.5) + shift[:, None]
    at = jnp.clip(at * (places / frame) - 0.5, 0, places - 1)
    return jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(places)), 0)


def confusion(truth: LabelMaps, predicted: LabelMaps, classes: int) -> Int[Array, "b c c"]:
    """Count the pixels of each true class (rows) that were given each class (columns), in every picture, exactly.

    Pixels without a true class do not count.
    """
    pixels = math.prod(truth.shape[1:])
    rows, columns = (labels.reshape(len(labels), pixels) for labels in (truth, predicted))
    # One-hot products: whole numbers, exact in float32 up to 2^24 pixels a part, and fast on every platform.
    parts = -(-pixels // 2**23)
    padded = -(-pixels // parts) * parts - pixels
    rows = jnp.pad(rows, ((0, 0), (0, padded)), constant_values=VOID).reshape(len(rows), parts, -1)
    columns = jnp.pad(columns, ((0, 0), (0, padded))).reshape(len(columns), parts, -1)
    one, other = (jax.nn.one_hot(x, classes, dtype=jnp.float32) for x in (rows, columns))
    return jnp.einsum("bpnk,bpnl->bpkl", one, other).astype(jnp.int32).sum(1)


def contours(truth: LabelMaps, predicted: LabelMaps, classes: int, radius: float) -> Int[Array, "b c 4"]:
    """Count the pixels on the contours of each class in every picture, and those near the other map's contour.

    A pixel is on the contour of its class where one of its four neighbours has another class; pixels without a true
    class, and the picture's border, make none. Near is a Euclidean distance of at most `radius` pixels.

    Returns:
      Predicted contour, of it near the true one, true contour, of it near the predicted one: precision and recall of
      the boundary F1 (Csurka et al. 2013).
    """
    known = truth != VOID
    groups = [(first, min(32, classes - first)) for first in range(0, classes, 32)]
    counts = []
    for first, number in groups:
        # A bit for each class: 32 dilations in one.
        drawn, meant = (_contour_bits(x, known, first, number) for x in (predicted, truth))
        words = (drawn, drawn & _dilate(meant, radius), meant, meant & _dilate(drawn, radius))
        bits = jnp.arange(number, dtype=jnp.uint32)
        counts.append(jnp.stack([((w[..., None] >> bits) & 1).sum((1, 2), dtype=jnp.int32) for w in words], -1))
    return jnp.concatenate(counts, 1)


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
    half, spread, found = 0, words, jnp.zeros_like(words)
    for down in range(int(radius), -1, -1):  # from the ends of the disc to its middle, where it is widest
        while half < int(np.sqrt(radius**2 - down**2)):
            half += 1
            spread |= _shift(words, half, 2) | _shift(words, -half, 2)
        found |= _shift(spread, down, 1) | _shift(spread, -down, 1)
    return found


def _shift(words, by: int, axis: int):
    """Shift along an axis; zeros come in."""
    if abs(by) >= words.shape[axis]:
        return jnp.zeros_like(words)
    kept = jax.lax.slice_in_dim(words, max(-by, 0), words.shape[axis] - max(by, 0), axis=axis)
    return jnp.pad(kept, [(max(by, 0), max(-by, 0)) if i == axis else (0, 0) for i in range(3)])
