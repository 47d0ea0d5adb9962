"""PCK, the share of correct keypoints (Yang & Ramanan 2013, doi:10.1109/TPAMI.2012.261).

A keypoint is correct where it is no farther from the truth than a share of the diagonal of the object's true box. Each
answer, by falling score, takes the free truth of its class whose box overlaps its own most, from an IoU of 0.5 on;
keypoints of a truth that none takes are wrong. Keypoints that are not labelled, and crowds, do not count.

counts  {index of the record: correct and labelled of each keypoint}
"""

from collections.abc import Mapping
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Int

from mapjax.data.source import Source, truth_of
from mapjax.errors import UserError
from mapjax.metrics import instances, precision
from mapjax.task import Batch, Counts, Metric, Result

_IOU = 0.5


def make(source: Source, share: float | int = 0.05) -> Metric:
    """Make the metric against the truth of `source`, whose records have keypoints.

    It gives PCK over all keypoints of all objects, and PCK of each keypoint; -1 without a labelled one.

    Args:
      share: of the diagonal of the true box, within which a keypoint is correct.

    Raises:
      UserError: the records have no keypoints; a share that is not above 0.
    """
    instances.require(source, "keypoints", "pck")
    if not 0 < share <= 1:
        raise UserError(f"pck: share={share} must be a share of the box's diagonal, above 0 and up to 1.")

    def measure(result: Result, batch: Batch) -> Counts:
        found = precision.measure(result, batch, needs="keypoints")
        return {index: count(truth_of(source, index), one, share) for index, one in found.items()}

    def summarize(counts: Counts) -> dict[str, float]:
        total = sum((np.asarray(one) for one in counts.values()), np.zeros((len(source.keypoints), 2), np.int64))
        each = {f"PCK/{name}": _share(row) for name, row in zip(source.keypoints, total, strict=True)}
        return {"PCK": _share(total.sum(axis=0)), **each}

    return Metric(measure, precision.merge, summarize, lambda counts: {}, best="PCK")


def count(record: Mapping[str, Any], found: Mapping[str, Any], share: float | int) -> Int[np.ndarray, "k 2"]:
    """Count the correct and the labelled keypoints of one image.

    Args:
      record: boxes, classes, crowd, keypoints.
      found: boxes, scores, classes, keypoints (n k 3), as counts of precision.py hold them.
    """
    boxes, points = np.asarray(record["boxes"], np.float64), np.asarray(record["keypoints"], np.float64)
    labelled = (points[..., 2] > 0) & ~np.asarray(record["crowd"], bool)[:, None]
    correct = np.zeros_like(labelled)
    reach = share * np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T)
    for row, at in matched(record, found).items():
        apart = np.asarray(found["keypoints"][at], np.float64)[:, :2] - points[row, :, :2]
        correct[row] = labelled[row] & (np.hypot(*apart.T) <= reach[row])
    return np.stack([correct.sum(axis=0), labelled.sum(axis=0)], axis=1)


def matched(record: Mapping[str, Any], found: Mapping[str, Any]) -> dict[int, int]:
    """Return the row of the answer that takes each truth that is taken, and is no crowd."""
    boxes, answers = (np.asarray(one["boxes"], np.float64).reshape(-1, 4) for one in (record, found))
    same = np.asarray(found["classes"])[:, None] == np.asarray(record["classes"])[None]
    sides = [np.concatenate([one[:, :2], one[:, 2:] - one[:, :2]], axis=1) for one in (answers, boxes)]
    found_iou = hotcoco.mask.iou(sides[0], sides[1], [False] * len(boxes)) if same.size else same.astype(float)
    iou = np.asarray(found_iou).reshape(same.shape)
    overlap = np.where(same & ~np.asarray(record["crowd"], bool), iou, -1)
    taken: dict[int, int] = {}
    for row in np.argsort(-np.asarray(found["scores"]), kind="stable").tolist() if boxes.size else ():
        best = int(overlap[row].argmax())
        if overlap[row, best] >= _IOU:
            taken[best] = row
            overlap[:, best] = -1
    return taken


def _share(counts: Int[np.ndarray, "2"]) -> float:
    return float(counts[0] / counts[1]) if counts[1] else -1.0
