"""The masks of the objects of an image as label images, encoded as PNG: what formats/ reads as objects again."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int

from mapjax.data import label_images, run_lengths
from mapjax.data.geometry import Size
from mapjax.data.run_lengths import Mask
from mapjax.stages import VOID

DIVISOR = 1000  # objects of a class in an image, and one more: Cityscapes' numbers


def numbered(masks: Sequence[Mask], classes: Int[np.ndarray, " n"], size: Size, count: int) -> bytes:
    """Number objects from 1 on in their order; where there are several classes, from 1 on after class × DIVISOR.

    Where masks overlap the smaller is on top. 16 bits a pixel, or RGB as red + 256 green + 65536 blue.

    Args:
      count: of classes.

    Raises:
      ValueError: more objects than can be numbered.
    """
    numbers = np.arange(1, len(masks) + 1)
    if count > 1:
        numbers = np.zeros(len(masks), np.int64)
        for k in np.unique(classes).tolist():
            rows = np.flatnonzero(classes == k)
            if len(rows) >= DIVISOR:
                raise ValueError(
                    f"a label image holds at most {DIVISOR - 1} objects of a class, and there are {len(rows)}"
                )
            numbers[rows] = k * DIVISOR + np.arange(1, len(rows) + 1)
    ids = painted(masks, numbers, size)
    if ids.max(initial=0) <= label_images.MOST:
        return _png(ids.astype(np.uint16))
    return _png(np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8))  # OpenCV: blue first


def voc(masks: Sequence[Mask], classes: Int[np.ndarray, " n"], size: Size) -> tuple[bytes, bytes]:
    """Draw SegmentationObject, numbers from 1 on without 255, and SegmentationClass, 1 for the first class."""
    numbers = np.arange(1, len(masks) + 1)
    numbers += numbers >= VOID
    ids = painted(masks, numbers, size)
    table = np.zeros(ids.max(initial=0) + 1, np.uint8)
    shown = numbers[numbers < len(table)]
    table[shown] = np.asarray(classes)[: len(shown)] + 1
    return _png(ids.astype(np.uint16 if len(masks) >= VOID else np.uint8)), _png(table[ids])


def painted(masks: Sequence[Mask], numbers: Int[np.ndarray, " n"], size: Size) -> Int[np.ndarray, "h w"]:
    """Give each mask's pixels its number; where masks overlap the smaller is on top, and of equals the first."""
    ids = np.zeros(size, np.int64)
    areas = [run_lengths.area(mask) for mask in masks]
    for row in sorted(range(len(masks)), key=lambda row: (-areas[row], -row)):
        ids[run_lengths.bits(masks[row], size)] = numbers[row]
    return ids


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
