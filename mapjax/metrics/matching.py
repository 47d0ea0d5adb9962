"""Detections matched to the truth of their images as COCO does it, for a whole split at once.

All detections stand end to end, and so do all truths; what overlaps is a list of pairs.
"""

import weakref
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.data.source import Records, Source, truth_of
from mapjax.task import Counts

IOU = 0.5  # from here on a detection finds an object
_MOST = 2**20  # pairs of boxes that are compared at once


class Objects(NamedTuple):
    """The objects of a split end to end; those of record i are rows starts[i] to starts[i + 1]."""

    starts: Int[np.ndarray, " images+1"]
    boxes: Float[np.ndarray, "m 4"]
    classes: Int[np.ndarray, " m"]
    crowd: Bool[np.ndarray, " m"]


class Found(NamedTuple):
    """The detections of the measured images end to end, in order of their indexes.

    image: the place of a detection's image among the sorted indexes.
    """

    image: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


class Overlaps(NamedTuple):
    """Detections, truths, and the pairs of them in one image that overlap.

    scores, labels: of the detections, as `found` gives them.
    classes, crowd: of the truths of the measured images.
    detection, truth, iou: of the pairs, the most confident detection first and, of one detection, the largest overlap.
      With a crowd it is the share of the detection, as in COCO.
    """

    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    classes: Int[np.ndarray, " m"]
    crowd: Bool[np.ndarray, " m"]
    detection: Int[np.ndarray, " p"]
    truth: Int[np.ndarray, " p"]
    iou: Float[np.ndarray, " p"]


_OBJECTS: weakref.WeakKeyDictionary[Records, Objects] = weakref.WeakKeyDictionary()


def objects(source: Source) -> Objects:
    """Gather the objects of a split, once for a source."""
    if not isinstance(source.records, Records):  # a plain list cannot be remembered by
        return _gathered(source)
    if source.records not in _OBJECTS:
        _OBJECTS[source.records] = _gathered(source)
    return _OBJECTS[source.records]


def _gathered(source: Source) -> Objects:
    records = [truth_of(source, index) for index in range(len(source.records))]
    counts = [len(record["classes"]) for record in records]
    boxes = [np.zeros((0, 4)), *(np.asarray(record["boxes"], np.float64).reshape(-1, 4) for record in records)]
    classes = [np.zeros(0, np.int32), *(np.asarray(record["classes"], np.int32) for record in records)]
    crowd = [np.zeros(0, bool), *(np.asarray(record["crowd"], bool) for record in records)]
    return Objects(np.cumsum([0, *counts]), np.concatenate(boxes), np.concatenate(classes), np.concatenate(crowd))


def overlaps(source: Source, counts: Counts, *, least: float = IOU, same_class: bool = True) -> Overlaps:
    """Compare the detections of the measured images with their truths.

    Args:
      counts: {index: {"boxes", "scores", "classes"}}, as mapjax.metrics.precision has them.
      least: pairs of a smaller IoU are left out.
      same_class: pairs of different classes are left out.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.source import Source
      >>> from mapjax.metrics import matching
      >>> truth = {"boxes": np.array([[0, 0, 10, 10]]), "classes": np.array([1]), "crowd": np.array([False])}
      >>> source = Source("mine", "val", ("cat", "dog"), (1, 2), [truth], {}, "1")
      >>> found = {"boxes": np.array([[0, 0, 10, 8]]), "scores": np.array([0.9]), "classes": np.array([1])}
      >>> matching.overlaps(source, {0: found}).iou.tolist()
      [0.8]
    """
    indexes = sorted(counts)
    image, boxes, scores, labels = found(counts)
    known = objects(source)
    starts = known.starts.tolist()
    spans = [np.arange(starts[i], starts[i + 1]) for i in indexes]
    rows = np.concatenate([np.zeros(0, np.intp), *spans])
    truths, classes, crowd = known.boxes[rows], known.classes[rows], known.crowd[rows]
    beside = np.repeat(np.arange(len(indexes)), [len(span) for span in spans])
    keys = (image * len(source.classes) + labels, beside * len(source.classes) + classes)
    parts = [np.zeros((3, 0))]
    for detection, truth in _equal(*(keys if same_class else (image, beside))):
        iou = _iou(boxes[detection], truths[truth], crowd[truth])
        keep = iou >= least
        parts.append(np.stack([detection[keep], truth[keep], iou[keep]]))
    detection, truth, iou = np.concatenate(parts, axis=1)
    detection, truth = detection.astype(np.intp), truth.astype(np.intp)
    by = np.lexsort((-truth, -iou, detection, -scores[detection]))  # of equal overlaps the later truth, as pycocotools
    return Overlaps(scores, labels, classes, crowd, detection[by], truth[by], iou[by])


def match(pairs: Overlaps, *, same_class: bool = True) -> Int[np.ndarray, " n"]:
    """Match each detection to a truth, the most confident first: to that of largest overlap which is still free.

    Args:
      pairs: that overlap enough; crowds among them are matched to nothing.
      same_class: only truths of its class.

    Returns:
      The row of its truth, -1 for none.
    """
    able = ~pairs.crowd[pairs.truth]
    if same_class:
        able &= pairs.labels[pairs.detection] == pairs.classes[pairs.truth]
    taken: dict[int, int] = {}  # truth → detection
    matched: set[int] = set()
    for detection, truth in zip(pairs.detection[able].tolist(), pairs.truth[able].tolist()):
        if truth not in taken and detection not in matched:
            taken[truth] = detection
            matched.add(detection)
    found = np.full(len(pairs.scores), -1, np.intp)
    found[list(taken.values())] = list(taken)
    return found


def ignored(pairs: Overlaps, matched: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Tell which detections do not count: those without a truth that lie in a crowd of their class."""
    inside = np.zeros(len(matched), bool)
    same = pairs.labels[pairs.detection] == pairs.classes[pairs.truth]
    inside[pairs.detection[same & pairs.crowd[pairs.truth]]] = True
    return inside & (matched < 0)


def found(counts: Counts) -> Found:
    """Lay the detections of the measured images end to end; numbers as float64 and int64."""
    indexes = sorted(counts)
    boxes = np.concatenate([np.zeros((0, 4)), *(np.reshape(counts[i]["boxes"], (-1, 4)) for i in indexes)])
    scores = np.concatenate([np.zeros(0), *(counts[i]["scores"] for i in indexes)])
    labels = np.concatenate([np.zeros(0, np.int64), *(counts[i]["classes"] for i in indexes)], dtype=np.int64)
    image = np.repeat(np.arange(len(indexes)), [len(counts[i]["scores"]) for i in indexes])
    return Found(image, boxes, scores, labels)


def _equal(ones: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of rows whose keys are equal, as many at once as memory is meant to hold."""
    order = np.argsort(others, kind="stable")
    keys = others[order]
    starts, ends = (np.searchsorted(keys, ones, side) for side in ("left", "right"))
    numbers = ends - starts
    rows = np.flatnonzero(numbers)
    groups = np.cumsum(numbers[rows]) // _MOST
    for part in np.split(rows, np.flatnonzero(np.diff(groups)) + 1):
        number = numbers[part]
        one = np.repeat(part, number)
        within = np.arange(len(one)) - np.repeat(np.cumsum(number) - number, number)
        yield one, order[np.repeat(starts[part], number) + within]


def _iou(boxes: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> Float[np.ndarray, " p"]:
    """Compute the overlap of pairs; with a crowd the intersection over the detection's area."""
    (x1, y1, x2, y2), (left, top, right, bottom) = boxes.T, truths.T
    width, height = np.minimum(x2, right) - np.maximum(x1, left), np.minimum(y2, bottom) - np.maximum(y1, top)
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    area, other = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0), (right - left) * (bottom - top)
    union = np.where(crowd, area, area + other - inter)
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
