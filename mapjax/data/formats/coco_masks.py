"""Instance masks from COCO's segmentations: polygons, run lengths, and compressed run lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mapjax.data import fields, geometry, run_lengths
from mapjax.data.geometry import Size
from mapjax.data.run_lengths import Mask

_FARTHEST = 1e6  # pixels from the origin to a corner
_STEPS = 16  # sub-pixel positions of polygon corners, as OpenCV's shift=4 counts them


Packed = bytes | tuple[Float[np.ndarray, "_ 2"], ...]  # run lengths, or the corners of polygons


def pack(segmentation: Any, size: Size) -> Packed:
    """Check one COCO segmentation of an image of height, width, and make it small.

    Args:
      segmentation: a list of polygons [x, y, x, y, …], or {"size": [h, w], "counts": list of int or str or bytes};
        anything else, as an annotation without one has, is nothing.

    Raises:
      ValueError: run lengths that are those of an image of another size, or polygons that are no numbers.
      TypeError: run lengths that are none.
      OverflowError: numbers that are too large.
    """
    if isinstance(segmentation, Mapping) and "counts" in segmentation:
        return _pack_runs(segmentation["counts"], segmentation.get("size"), size)
    polygons = segmentation if isinstance(segmentation, list) else []
    if not all(isinstance(one, list | tuple) for one in polygons):
        raise ValueError("a polygon is no list")
    corners = [np.array(one[: len(one) // 2 * 2], np.float64).reshape(-1, 2) for one in polygons]
    if not all((np.abs(one) <= _FARTHEST).all() for one in corners):
        raise ValueError("a polygon is not finite, or far outside")
    return tuple(one for one in corners if len(one) >= 3)


def _pack_runs(given: Any, drawn: Any, size: Size) -> bytes:
    """Check run lengths, and the height, width that they say they were drawn on."""
    if drawn is not None and fields.numbers(drawn, 2) != size:
        raise ValueError(f"run lengths of {drawn} and not of {size[0]}×{size[1]}")
    if isinstance(given, list) and any(fields.whole(count) is None for count in given):
        raise ValueError("run lengths that are no whole numbers")
    counts = run_lengths.decompress(given) if isinstance(given, str | bytes) else np.array(given, np.int64)
    pixels = size[0] * size[1]
    if counts.ndim != 1 or counts.sum() != pixels or counts.min(initial=0) < 0 or counts.max(initial=0) > pixels:
        raise ValueError(f"run lengths add up to {counts.sum()} pixels, not to {size[0]}×{size[1]}")
    return run_lengths.compress(counts)


def bounds(packed: Packed, size: Size) -> Float[np.ndarray, "4"]:
    """Return the smallest box x1,y1,x2,y2 around a mask, in an image of height, width."""
    if isinstance(packed, bytes):
        return geometry.mask_bounds(run_lengths.bits(packed, size))
    return geometry.bounds(np.concatenate(packed))


def draw(packed: Packed, size: Size) -> Mask:
    """Draw polygons as bits, in an image of height, width; run lengths stay what they are."""
    return packed if isinstance(packed, bytes) else from_polygons(packed, size)


def from_polygons(polygons: Sequence[Float[np.ndarray, "_ 2"]], size: Size) -> Bool[np.ndarray, "h w"]:
    """Fill polygons, each of corners x, y in continuous pixel coordinates; their union."""
    mask = np.zeros(size, np.uint8)
    for corners in polygons:
        cv2.fillPoly(mask, [np.rint((corners - 0.5) * _STEPS).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)
