"""Proposals of a record in the frame of its example: moved by the one matrix, as its boxes are."""

import functools
import logging

import numpy as np
from jaxtyping import Bool, Float

from mapjax.data import geometry, selective_search
from mapjax.data.source import Record

_LEAST = 1.0  # pixel of a proposal's sides in the frame
_log = logging.getLogger(__name__)


def in_view(boxes: Float[np.ndarray, "n 4"], matrix: geometry.Matrix, frame: geometry.Size) -> Float[np.ndarray, "m 4"]:
    """Move boxes into a frame of height, width and clip them to it; those that are not in view are left out."""
    moved = geometry.clip_boxes(geometry.map_boxes(matrix, boxes), frame)
    return moved[((moved[:, 2:] - moved[:, :2]) >= _LEAST).all(1)]


def rows(
    record: Record, matrix: geometry.Matrix, frame: geometry.Size, count: int, *, searched: str
) -> dict[str, Float[np.ndarray, "p 4"] | Bool[np.ndarray, " p"]]:
    """Give the first `count` proposals in view, and which rows are real; the others are zeros.

    Args:
      record: with its image read.
      searched: the mode of selective search that finds those of a record without any of its own.
    """
    boxes = record.get("proposals")
    if boxes is None:
        _say_once()
        boxes = selective_search.search(record["image"], searched)
    seen = in_view(boxes, matrix, frame)[:count]
    padded = np.zeros((count, 4), np.float32)
    padded[: len(seen)] = seen
    return {"proposals": padded, "proposals_valid": np.arange(count) < len(seen)}


@functools.cache
def _say_once() -> None:
    _log.warning(
        "proposals are searched for as images come, which takes about a second each; for a data set, find them once "
        "with mapjax prepare --proposals."
    )
