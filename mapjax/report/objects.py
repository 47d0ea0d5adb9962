"""What the answers of a detector have beside their boxes: as values for JSON, as marks, and as a label image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapjax.data import labels
from mapjax.data.prepared import drawn
from mapjax.report import detection_images, draw


def values(result: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Give some rows of a result's masks, as COCO's run lengths, and keypoints x,y,score: what it has, for JSON."""
    found: dict[str, Any] = {}
    if labels.has(result, "masks"):
        masks = [result["masks"][row] for row in rows]
        found["masks"] = [{"size": list(map(int, one["size"])), "counts": _text(one["counts"])} for one in masks]
    if labels.has(result, "keypoints"):
        points = [np.asarray(result["keypoints"][row], np.float64) for row in rows]
        found["keypoints"] = [np.round(one, 2).tolist() for one in points]
    return found


def beside(found: Mapping[str, Any], size: tuple[int, int], lines: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Give what marks have beside their boxes, of what `values` gave; each object has a colour of its own.

    Keypoints are shown where the network is confident of them.
    """
    masks = [one["counts"].encode("ascii") for one in found.get("masks", ())]
    held = dict(found) | ({"masks": masks} if labels.has(found, "masks") else {})
    count = max(map(len, found.values()), default=0)
    shown = [detection_images.beside(held, row, size, lines, detection_images.CONFIDENT) for row in range(count)]
    return [{"colour": draw.colour(row)} | one for row, one in enumerate(shown)]


def label_image(found: Mapping[str, Any], size: tuple[int, int]) -> bytes | None:
    """Encode masks as a PNG of 16 bits, a pixel's number that of its object from 1 on; None without masks."""
    if not labels.has(found, "masks"):
        return None
    masks = [one["counts"].encode("ascii") for one in found["masks"]]
    return drawn.numbered(masks, np.zeros(len(masks), np.int64), size, 1)


def _text(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode("ascii")
