"""Instance masks from COCO's segmentations: polygons, run lengths, and compressed run lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool

from mapjax.data.geometry import Size

_STEPS = 16  # sub-pixel positions of polygon corners, as OpenCV's shift=4 counts them


def draw(segmentation: Any, size: Size) -> Bool[np.ndarray, "h w"]:
    """Draw one COCO segmentation in an image of height, width.

    Args:
      segmentation: a list of polygons [x, y, x, y, …], or {"size": [h, w], "counts": list of int or str or bytes};
        anything else, as an annotation without one has, draws nothing.

    Raises:
      ValueError: run lengths that are those of an image of another size.
    """
    if isinstance(segmentation, Mapping) and "counts" in segmentation:
        counts = segmentation["counts"]
        return from_runs(counts if isinstance(counts, list) else decompress(counts), size)
    if isinstance(segmentation, list):
        return from_polygons(segmentation, size)
    return np.zeros(size, bool)


def from_polygons(polygons: Sequence[Sequence[float | int]], size: Size) -> Bool[np.ndarray, "h w"]:
    """Fill polygons, each a flat list x, y, x, y, … in continuous pixel coordinates; their union."""
    mask = np.zeros(size, np.uint8)
    for polygon in polygons:
        if len(polygon) < 6:
            continue
        corners = np.asarray(polygon[: len(polygon) // 2 * 2], np.float64).reshape(-1, 2) - 0.5
        cv2.fillPoly(mask, [np.rint(corners * _STEPS).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def from_runs(counts: Sequence[int], size: Size) -> Bool[np.ndarray, "h w"]:
    """Undo COCO's run lengths: pixels column by column, runs of 0 and 1 in turn, beginning with 0.

    Raises:
      ValueError: the runs do not add up to the pixels of the image.
    """
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths add up to {sum(counts)} pixels, not to {size[0]}×{size[1]}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(pixels.reshape(size[1], size[0]).T)


def decompress(text: str | bytes) -> list[int]:
    """Undo COCO's compression of run lengths: 6 bits a character, 5 of them data, low first, the sign in the last;
    from the fourth run on the difference from the run before the previous one."""
    counts: list[int] = []
    value = shift = 0
    for character in text.encode() if isinstance(text, str) else text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
