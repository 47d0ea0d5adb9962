"""What each detection got right or wrong, in the categories of TIDE (Bolya et al. 2020, arXiv:2008.08115).

The kind of a detection depends only on the truth and on detections of higher score, never on the score threshold;
which truths are missed does.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

KINDS = {
    "correct": "right class, IoU ≥ 0.5 with a truth not yet taken",
    "wrong class": "IoU ≥ 0.5 with a truth of another class",
    "badly placed": "right class, but 0.1 ≤ IoU < 0.5",
    "both wrong": "another class and 0.1 ≤ IoU < 0.5",
    "duplicate": "a truth that a detection of higher score has taken",
    "false": "background: IoU < 0.1 with every single truth",
    "missed": "a truth that no detection found, nor a misplaced or misnamed one",
    "ignored": "inside a crowd region of its class, so it does not count",
}


class Finding(NamedTuple):
    """One detection and what became of it, or one missed truth.

    kind: a key of KINDS.
    index: the record in its source.
    row: the detection's row in the counts, or for a missed truth its row in the record.
    box: x1,y1,x2,y2 in original pixels.
    label: its class.
    score: 0 for a missed truth.
    truth: the row of the truth concerned, -1 without one.
    iou: with that truth.
    """

    kind: str
    index: int
    row: int
    box: Float[np.ndarray, "4"]
    label: int
    score: float
    truth: int
    iou: float


def survey(
    records: Mapping[int, Mapping[str, Any]], counts: Mapping[int, Mapping[str, Any]], score: float = 0.5
) -> list[Finding]:
    """Classify the detections of all images and list the truths missed at a score threshold.

    Args:
      records: boxes, classes and crowd by index; only images that are in both count.
      counts: boxes, scores and classes by index, as mapjax.metrics.precision counts them.
      score: detections below it are left out, so what only they found is missed.
    """
    return [
        f for index in sorted(counts) if index in records for f in classify(index, records[index], counts[index], score)
    ]


def classify(index: int, record: Mapping[str, Any], found: Mapping[str, Any], score: float = 0.5) -> list[Finding]:
    """Classify the detections of one image, highest score first, then list its missed truths."""
    boxes = np.asarray(found["boxes"], np.float32).reshape(-1, 4)
    scores, labels = np.asarray(found["scores"]), np.asarray(found["classes"])
    truth = np.asarray(record["boxes"], np.float32).reshape(-1, 4)
    same = labels[:, None] == np.asarray(record["classes"])[None, :]
    crowd = np.asarray(record["crowd"], bool)
    iou = overlaps(boxes, truth, crowd)

    taken = np.zeros(len(truth), bool)
    findings = []
    for row in np.argsort(-scores, kind="stable"):
        if scores[row] < score:
            break
        kind, at = _judge(iou[row], same[row], taken, crowd)
        if kind == "correct":
            taken[at] = True
        overlap = float(iou[row, at]) if at >= 0 else 0.0
        findings.append(Finding(kind, index, int(row), boxes[row], int(labels[row]), float(scores[row]), at, overlap))

    explained = {f.truth for f in findings if f.kind in ("correct", "badly placed", "wrong class")}
    for at in np.flatnonzero(~crowd):
        if at not in explained:
            findings.append(Finding("missed", index, int(at), truth[at], int(record["classes"][at]), 0.0, int(at), 0.0))
    return findings


def worst(findings: Iterable[Finding], kind: str) -> list[Finding]:
    """List the findings of one kind, the worst first: the most confident detection, the largest missed truth."""
    chosen = [finding for finding in findings if finding.kind == kind]
    if kind == "missed":
        return sorted(chosen, key=lambda finding: -_area(finding.box))
    return sorted(chosen, key=lambda finding: -finding.score)


def overlaps(
    boxes: Float[np.ndarray, "n 4"], truth: Float[np.ndarray, "m 4"], crowd: Any = None
) -> Float[np.ndarray, "n m"]:
    """Compute IoU; with a crowd region the intersection over the detection's own area, as COCO does."""
    corner = np.minimum(boxes[:, None, 2:], truth[None, :, 2:]) - np.maximum(boxes[:, None, :2], truth[None, :, :2])
    inter = np.prod(np.maximum(corner, 0), axis=2)
    area, other = (np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (boxes, truth))
    union = area[:, None] + other[None, :] - inter
    if crowd is not None:
        union = np.where(np.asarray(crowd, bool)[None, :], area[:, None], union)
    return np.where(union > 0, inter / np.maximum(union, 1e-9), 0).astype(np.float32)


def _judge(iou: np.ndarray, same: np.ndarray, taken: np.ndarray, crowd: np.ndarray) -> tuple[str, int]:
    """Name the kind of a detection and the truth concerned, from its row of overlaps."""
    single = ~crowd
    apart = (iou[same & single] < 0.5).all()  # TIDE places a box badly only if no truth of its class is at hand
    tests = (
        ("correct", iou >= 0.5, same & single & ~taken),
        ("ignored", iou >= 0.5, same & crowd),
        ("badly placed", (iou >= 0.1) & apart, same & single),
        ("wrong class", iou >= 0.5, ~same & single),
        ("duplicate", iou >= 0.5, same & single),
        ("both wrong", iou >= 0.1, single),
    )
    for kind, near, among in tests:
        if (near & among).any():
            return kind, int(np.argmax(np.where(near & among, iou, -1)))
    return "false", -1


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
