"""Instance masks from COCO's segmentations: polygons, run lengths, and compressed run lengths."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import hotcoco
import numpy as np
from jaxtyping import Bool, Float

from mapjax.data import fields, geometry, label_images, run_lengths
from mapjax.data.formats import label_maps
from mapjax.data.geometry import Size
from mapjax.data.run_lengths import Mask

_FARTHEST = 1e6  # pixels from the origin to a corner
_STEPS = 16  # sub-pixel positions of polygon corners, as OpenCV's shift=4 counts them


OTHER_SIZE = "run lengths of another size than the image"
CUT_SHORT = "run lengths that do not fill the image, as if cut short"


class Misfit(ValueError):
    """Run lengths that are not those of their image; `reason` is the same for all of a kind."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class Segment(NamedTuple):
    """A segment of a panoptic mask: its file, and its number there."""

    file: str
    number: int


# Run lengths, the corners of polygons, or where a mask is to be read.
Packed = bytes | tuple[Float[np.ndarray, "_ 2"], ...] | Segment


def pack(segmentation: Any, size: Size) -> Packed:
    """Check one COCO segmentation of an image of height, width, and make it small.

    Args:
      segmentation: a list of polygons [x, y, x, y, …], or {"size": [h, w], "counts": list of int or str or bytes};
        anything else, as an annotation without one has, is nothing.

    Raises:
      Misfit: run lengths that are those of an image of another size, or do not fill it.
      ValueError: polygons that are no numbers.
      TypeError: run lengths that are none.
      OverflowError: numbers that are too large.
    """
    if isinstance(segmentation, Segment):
        return segmentation
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
        raise Misfit(OTHER_SIZE, f"run lengths of {drawn} and not of {size[0]}×{size[1]}")
    if isinstance(given, list) and any(fields.whole(count) is None for count in given):
        raise ValueError("run lengths that are no whole numbers")
    counts = run_lengths.decompress(given) if isinstance(given, str | bytes) else np.array(given, np.int64)
    pixels = size[0] * size[1]
    if counts.ndim != 1 or counts.sum() != pixels or counts.min(initial=0) < 0 or counts.max(initial=0) > pixels:
        raise Misfit(CUT_SHORT, f"run lengths add up to {counts.sum()} pixels, not to {size[0]}×{size[1]}")
    return run_lengths.compress(counts)


def lack(segmentation: Any, packed: Packed, size: Size) -> str:
    """Say why what was packed has no pixel, or nothing: as far as that is known without drawing it.

    Args:
      segmentation: of which it was packed.
      size: height, width of the image.
    """
    if isinstance(packed, bytes):
        return "" if run_lengths.area(packed) else "mask without a pixel"
    if isinstance(packed, Segment):
        return ""
    if not packed:
        given = isinstance(segmentation, list) and segmentation
        return "polygon of fewer than three corners" if given else "object without a segmentation"
    x1, y1, x2, y2 = bounds(packed, size).tolist()
    return "polygon outside the image" if x2 <= 0 or y2 <= 0 or x1 >= size[1] or y1 >= size[0] else ""


def bounds(packed: Packed, size: Size) -> Float[np.ndarray, "4"]:
    """Return the smallest box x1,y1,x2,y2 around a mask, in an image of height, width."""
    if isinstance(packed, tuple) and not isinstance(packed, Segment):
        return geometry.bounds(np.concatenate(packed))
    return geometry.mask_bounds(run_lengths.bits(draw(packed, size), size))


def draw(packed: Packed, size: Size) -> Mask:
    """Give a mask in an image of height, width as run lengths: of polygons the pixels that pycocotools draws.

    Raises:
      UserError: a panoptic mask that cannot be read.
    """
    if isinstance(packed, bytes):
        return packed
    if isinstance(packed, Segment):
        return segments(packed.file, size).get(packed.number, run_lengths.encode(np.zeros(size, bool)))
    if not packed:
        return run_lengths.encode(np.zeros(size, bool))
    drawn = hotcoco.mask.frPyObjects([corners.ravel().tolist() for corners in packed], *size)
    return hotcoco.mask.merge(drawn)["counts"]


@functools.lru_cache(maxsize=8)  # for the objects of an image, drawn one after the other, in several threads
def segments(file: str, size: Size) -> Mapping[int, bytes]:
    """Read the segments of a panoptic mask, as run lengths by their numbers.

    Raises:
      UserError: the mask is missing, cannot be read, or is of another size.
    """
    return {one.number: one.mask for one in label_images.objects_in(label_maps.read_segments(file, size))}


def fill(polygons: Sequence[Float[np.ndarray, "_ 2"]], size: Size) -> Bool[np.ndarray, "h w"]:
    """Fill polygons, each of corners x, y in continuous pixel coordinates, and draw their border; give their union.

    So an outline through the centres of a mask's border gives that mask again.
    """
    mask = np.zeros(size, np.uint8)
    for corners in polygons:
        cv2.fillPoly(mask, [np.rint((corners - 0.5) * _STEPS).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)
