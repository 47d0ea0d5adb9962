"""The score threshold of each class that is best for F1 on a split: what is found from there on is kept by default."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.data.source import Source
from mapjax.metrics import matching
from mapjax.metrics.matching import Overlaps
from mapjax.task import Counts

FIGURE = "threshold"  # as scalars name it, with the class behind a slash


class Best(NamedTuple):
    """Of each class: the threshold, and F1, precision and recall of what has that score or a higher one.

    -1 for a class without truth, and where nothing right was found.
    """

    threshold: Float[np.ndarray, " c"]
    f1: Float[np.ndarray, " c"]
    precision: Float[np.ndarray, " c"]
    recall: Float[np.ndarray, " c"]


def scalars(source: Source, counts: Counts) -> dict[str, float]:
    """Give "F1", the mean over classes with truth, "F1/CLASS" and "threshold/CLASS"; 0 and -1 where nothing is right.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.source import Source
      >>> from mapjax.metrics import best_f1
      >>> truth = {"boxes": np.array([[0, 0, 9, 9]]), "classes": np.array([0]), "crowd": np.array([False])}
      >>> source = Source("mine", "val", ("cat",), (1,), [truth], {}, "1")
      >>> boxes, classes = np.array([[0, 0, 9, 8], [20, 20, 30, 30]]), np.array([0, 0])
      >>> best_f1.scalars(source, {0: {"boxes": boxes, "scores": np.array([0.75, 0.25]), "classes": classes}})
      {'F1': 1.0, 'F1/cat': 1.0, 'threshold/cat': 0.5}
    """
    best = of(source, counts)
    known = best.f1[best.f1 >= 0]
    found = {"F1": float(known.mean()) if known.size else -1.0}
    for figure, values in (("F1", best.f1), (FIGURE, best.threshold)):
        found |= {f"{figure}/{name}": float(value) for name, value in zip(source.classes, values)}
    return found


def of(source: Source, counts: Counts) -> Best:
    """Find the thresholds on the measured images of a split, at IoU 0.5."""
    pairs = matching.overlaps(source, counts)
    matched = matching.match(pairs)
    return find(pairs, matched, matching.ignored(pairs, matched), len(source.classes))


def find(pairs: Overlaps, matched: Int[np.ndarray, " n"], ignored: Bool[np.ndarray, " n"], classes: int) -> Best:
    """Find the thresholds of matched detections.

    A threshold lies in the middle between the last score that is kept and the next lower one; of equal F1 the highest
    is taken.
    """
    totals = np.bincount(pairs.classes[~pairs.crowd], minlength=classes)
    every, hits = (_by_class(pairs, keep, classes) for keep in (~ignored, matched >= 0))
    best = Best(*(np.where(totals > 0, start, -1.0) for start in (-1.0, 0.0, 0.0, 0.0)))
    for k in range(classes):
        if not len(hits[k]):
            continue
        right = np.searchsorted(hits[k], hits[k], "right")  # F1 is largest where a right one is the last that is kept
        kept = np.searchsorted(every[k], hits[k], "right")
        f1 = 2 * right / (kept + totals[k])
        at = int(np.argmax(f1))
        last = every[k][kept[at] - 1]
        after = every[k][kept[at]] if kept[at] < len(every[k]) else last
        best.threshold[k], best.f1[k] = -(last + after) / 2, f1[at]
        best.precision[k], best.recall[k] = right[at] / kept[at], right[at] / totals[k]
    return best


def _by_class(pairs: Overlaps, keep: Bool[np.ndarray, " n"], classes: int) -> list[np.ndarray]:
    """Part the scores of some detections by class; negative, so that they ascend."""
    labels, scores = pairs.labels[keep].astype(np.min_scalar_type(classes)), -pairs.scores[keep]
    order = np.argsort(labels, kind="stable")  # of 16 bits, in linear time
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    return [np.sort(part) for part in np.split(scores[order], ends[:-1])]
