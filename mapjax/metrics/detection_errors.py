"""What keeps a detector from a higher AP, by cause (TIDE; Bolya et al. 2020, arXiv:2008.08115).

Each detection that is not right has one cause, and so has each truth that no mended detection would find. The weight of
a cause is what AP50 would gain if it alone were mended:

wrong class, badly placed   the detection gets the class, or the place, of its truth, unless one of a higher score, or a
                            right one, has it already: then the detection is dropped
both wrong, duplicate, false    the detection is dropped
missed                      the truth is no longer asked for
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.data.source import Source
from mapjax.metrics import matching, ranking
from mapjax.metrics.matching import IOU, Overlaps
from mapjax.task import Counts

NEAR = 0.1  # below this IoU a detection has nothing to do with a truth
KINDS = ("wrong class", "badly placed", "both wrong", "duplicate", "false", "missed")


class Errors(NamedTuple):
    """Of each of KINDS how often it is, and what AP50 gains by mending it; and AP50 as it is, -1 without truth."""

    ap50: float
    numbers: dict[str, int]
    gains: dict[str, float]


class Causes(NamedTuple):
    """The cause of each detection, by number in KINDS, -1 where it is right or ignored; and what mending takes.

    target: the truth that the detection would be right for, were it mended; -1 for none that is still to be found.
    missed: whether a truth is found by no detection, mended or not.
    """

    kind: Int[np.ndarray, " n"]
    target: Int[np.ndarray, " n"]
    missed: Bool[np.ndarray, " m"]


def of(source: Source, counts: Counts) -> Errors:
    """Find the causes among all detections of the measured images.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.source import Source
      >>> from mapjax.metrics import detection_errors
      >>> truth = {"boxes": np.array([[0, 0, 9, 9]]), "classes": np.array([1]), "crowd": np.array([False])}
      >>> source = Source("mine", "val", ("cat", "dog"), (1, 2), [truth], {}, "1")
      >>> found = {"boxes": np.array([[0, 0, 9, 8]]), "scores": np.array([0.9]), "classes": np.array([0])}
      >>> errors = detection_errors.of(source, {0: found})
      >>> errors.ap50, errors.gains["wrong class"], errors.numbers["missed"]
      (0.0, 1.0, 0)
    """
    pairs = matching.overlaps(source, counts, least=NEAR, same_class=False)
    enough = pairs.iou >= IOU
    close = pairs._replace(detection=pairs.detection[enough], truth=pairs.truth[enough], iou=pairs.iou[enough])
    matched = matching.match(close)
    ignored = matching.ignored(close, matched)
    found = causes(pairs, matched, ignored)
    order = np.argsort(-pairs.scores, kind="stable")
    numbers = {kind: int((found.kind == number).sum()) for number, kind in enumerate(KINDS)}
    numbers["missed"] = int(found.missed.sum())
    ap50, gains = _gains(pairs, matched, ignored, found, order, len(source.classes))
    return Errors(ap50, numbers, gains)


def confusion(source: Source, counts: Counts, least: Float[np.ndarray, " c"]) -> Int[np.ndarray, "c+1 c+1"]:
    """Count which truths are found as which class; rows are the truth, columns the answer, the last is background.

    A detection belongs to the truth that it overlaps most, of IoU 0.5 and of any class, the most confident first.

    Args:
      least: from this score on detections of each class count.
    """
    kept = {}
    for index, found in counts.items():
        rows = found["scores"] >= least[found["classes"]]
        kept[index] = {name: found[name][rows] for name in ("boxes", "scores", "classes")}
    pairs = matching.overlaps(source, kept, same_class=False)
    matched = matching.match(pairs, same_class=False)
    alone = (matched < 0) & ~matching.ignored(pairs, matched)
    missed = ~pairs.crowd
    missed[matched[matched >= 0]] = False
    last = len(source.classes)
    table = np.zeros((last + 1, last + 1), np.int64)
    np.add.at(table, (pairs.classes[matched[matched >= 0]], pairs.labels[matched >= 0]), 1)
    np.add.at(table[last], pairs.labels[alone], 1)
    np.add.at(table[:, last], pairs.classes[missed], 1)
    return table


def causes(pairs: Overlaps, matched: Int[np.ndarray, " n"], ignored: Bool[np.ndarray, " n"]) -> Causes:
    """Give each detection its cause, in TIDE's order of asking.

    Args:
      pairs: of IoU 0.1 and more, of any classes.
      matched, ignored: what `matching` says of the detections.
    """
    single = ~pairs.crowd[pairs.truth]
    same = pairs.labels[pairs.detection] == pairs.classes[pairs.truth]
    (own, own_iou), (other, other_iou) = (_largest(pairs, single & among) for among in (same, ~same))
    tests = {
        "badly placed": (own_iou >= NEAR) & (own_iou < IOU),
        "wrong class": other_iou >= IOU,
        "duplicate": own_iou >= IOU,
        "both wrong": np.maximum(own_iou, other_iou) >= NEAR,
    }
    order = [KINDS.index(kind) for kind in tests]
    kind = np.select(list(tests.values()), order, KINDS.index("false"))
    kind = np.where((matched >= 0) | ignored, -1, kind)
    target = np.select([kind == KINDS.index("badly placed"), kind == KINDS.index("wrong class")], [own, other], -1)
    taken = np.zeros(len(pairs.classes) + 1, bool)  # the last for no truth
    taken[matched] = True
    taken[-1] = True
    target = np.where(taken[target], -1, target)
    taken[target] = True
    return Causes(kind, target, ~taken[:-1] & ~pairs.crowd)


def average_precision(
    labels: Int[np.ndarray, " n"], right: Bool[np.ndarray, " n"], totals: Int[np.ndarray, " c"]
) -> Float[np.ndarray, " c"]:
    """Compute the average precision of each class at 101 recalls, as COCO; 0 for one without truth.

    Args:
      labels: of detections, the highest score first.
      right: which of them are.
      totals: truths of each class.
    """
    labels = labels.astype(np.min_scalar_type(len(totals)))
    order = np.argsort(labels, kind="stable")  # of 16 bits, in linear time
    ends = np.searchsorted(labels[order], np.arange(len(totals) + 1))
    found = np.zeros(len(totals))
    for k in np.flatnonzero(totals):
        found[k] = ranking.under_curve(right[order[ends[k] : ends[k + 1]]], int(totals[k]))
    return found


def _largest(pairs: Overlaps, among: Bool[np.ndarray, " p"]) -> tuple[np.ndarray, np.ndarray]:
    """Give the truth of largest overlap of each detection, and the overlap; -1 and 0 for none."""
    truth, iou = np.full(len(pairs.scores), -1), np.zeros(len(pairs.scores))
    detection, at = np.unique(pairs.detection[among], return_index=True)  # the first is the largest
    truth[detection], iou[detection] = pairs.truth[among][at], pairs.iou[among][at]
    return truth, iou


def _gains(
    pairs: Overlaps, matched: np.ndarray, ignored: np.ndarray, found: Causes, order: np.ndarray, classes: int
) -> tuple[float, dict[str, float]]:
    """Compute AP50, and what it gains by mending each kind of error alone."""
    right, counts = matched >= 0, ~ignored
    totals = np.bincount(pairs.classes[~pairs.crowd], minlength=classes)

    def mean(labels: np.ndarray, right: np.ndarray, counts: np.ndarray, asked: np.ndarray) -> float:
        rows = order[counts[order]]
        values = average_precision(labels[rows], right[rows], asked)
        # What is asked for no more, and never answered, is no class of the mean.
        known = (totals > 0) & ((asked > 0) | (np.bincount(labels[counts], minlength=classes) > 0))
        return float(values[known].mean()) if known.any() else -1.0

    best = np.zeros(len(right), bool)  # of those that would be right for one truth, the highest score
    able = order[found.target[order] >= 0]
    best[able[np.unique(found.target[able], return_index=True)[1]]] = True
    ap50, gains = mean(pairs.labels, right, counts, totals), {}
    for number, kind in enumerate(KINDS[:-1]):
        wrong = found.kind == number
        mended = wrong & best
        labels = np.where(mended, pairs.classes[found.target], pairs.labels) if mended.any() else pairs.labels
        gains[kind] = mean(labels, right | mended, counts & (mended | ~wrong), totals) - ap50
    asked = totals - np.bincount(pairs.classes[found.missed], minlength=classes)
    gains["missed"] = mean(pairs.labels, right, counts, asked) - ap50
    return ap50, {kind: max(gain, 0.0) if ap50 >= 0 else -1.0 for kind, gain in gains.items()}
