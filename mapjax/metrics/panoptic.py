"""Panoptic quality (Kirillov et al. 2019, "Panoptic Segmentation", arXiv:1801.00868), of whatever answers with masks.

Every pixel belongs to one segment: an object, or all of a class that has no objects, such as sky. A segment of an
answer finds a true one of its class from an IoU above 0.5 on, which no two can reach. PQ is the mean IoU of those found
(SQ) times their F1 (RQ), averaged over the classes.

A result holds "masks" beside its boxes (instances.py); where it holds a "label_map" too, the classes that are no
objects are taken from it. Masks that overlap are made disjoint as in the paper: by falling score, each keeps what is
free, and is left out where that is less than half of it. True masks that overlap are laid with the smaller on top.

counts  {index of the record: of each class the sum of IoU, segments found, false and missed}
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.data import labels, run_lengths
from mapjax.data.geometry import Size
from mapjax.data.object_labels import size_of
from mapjax.data.source import Source, truth_of
from mapjax.errors import UserError, near
from mapjax.metrics import instances, precision
from mapjax.task import Batch, Counts, Metric, Result


class Segments(NamedTuple):
    """The segments of an image.

    places: of each pixel the row of its segment, -1 for none.
    classes: of each segment.
    crowd: of each, whether it is many objects at once, which are neither found nor missed.
    """

    places: Int[np.ndarray, "h w"]
    classes: Int[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]


def make(source: Source, things: Sequence[str] = (), score: float = 0.5, least: int = 0) -> Metric:
    """Make the metric against the truth of `source`, whose records have masks, and perhaps label maps beside them.

    It gives PQ, SQ and RQ, and PQ of each class; where there are label maps, PQ_things and PQ_stuff too; -1 without a
    segment.

    Args:
      things: the classes that are objects; by default all, where records have no label maps.
      score: from here on an answer is laid.
      least: pixels; smaller segments of classes that are no objects are left out of an answer (4096 for COCO).

    Raises:
      UserError: the records have no masks; label maps and no `things`; a name that is no class.
    """
    instances.require(source, "masks", "panoptic")
    if not things and len(source.records) and labels.has(truth_of(source, 0), "label_map"):
        raise UserError(f"panoptic: {source.name} has label maps beside masks; say which classes are objects: things=.")
    if unknown := [name for name in things if name not in source.classes]:
        raise UserError(f"panoptic: things={unknown[0]!r} is no class of the data.{near(unknown[0], source.classes)}")
    stuff = np.array([bool(things) and name not in things for name in source.classes])

    def measure(result: Result, batch: Batch) -> Counts:
        found = precision.measure(result, batch, needs="masks")
        rows = dict(zip(np.asarray(batch["index"]).tolist(), range(len(batch["index"]))))
        counts = {}
        for index, one in found.items():
            record = truth_of(source, index)
            beside = result["label_map"][rows[index]] if labels.has(result, "label_map") else None
            answer = laid(one, size_of(record), None if beside is None else np.asarray(beside), stuff, score, least)
            counts[index] = count(truth(record, stuff), answer, len(stuff))
        return counts

    def summarize(counts: Counts) -> dict[str, float]:
        total = sum((np.asarray(one) for one in counts.values()), np.zeros((len(stuff), 4)))
        scalars = quality(total)
        if stuff.any():
            scalars |= {
                f"PQ_{name}": quality(total[rows])["PQ"] for name, rows in (("things", ~stuff), ("stuff", stuff))
            }
        return scalars | {f"PQ/{name}": quality(row[None])["PQ"] for name, row in zip(source.classes, total)}

    return Metric(measure, precision.merge, summarize, lambda counts: {}, best="PQ")


def quality(counts: Float[np.ndarray, "c 4"]) -> dict[str, float]:
    """Give PQ, SQ and RQ, averaged over the classes that have a segment; -1 where none has.

    Example:
      >>> import numpy as np
      >>> from mapjax.metrics import panoptic
      >>> panoptic.quality(np.array([[1.6, 2, 1, 1]]))  # two segments found, of IoU 0.8; one is false, one is missed
      {'PQ': 0.5333333333333333, 'SQ': 0.8, 'RQ': 0.6666666666666666}
    """
    overlap, found, false, missed = counts[counts[:, 1:].any(axis=1)].T
    each = found + (false + missed) / 2
    if not each.size:
        return {"PQ": -1.0, "SQ": -1.0, "RQ": -1.0}
    shares = {"PQ": overlap / each, "SQ": overlap / np.maximum(found, 1), "RQ": found / each}
    return {name: float(values.mean()) for name, values in shares.items()}


def count(truth: Segments, found: Segments, classes: int) -> Float[np.ndarray, "c 4"]:
    """Compare the segments of one image: of each class the sum of IoU, segments found, false and missed."""
    many, others = len(truth.classes), len(found.classes)
    # One row and one column more, for pixels without a segment.
    codes = np.where(truth.places < 0, many, truth.places) * (others + 1)
    codes = codes + np.where(found.places < 0, others, found.places)
    pairs = np.bincount(codes.ravel(), minlength=(many + 1) * (others + 1)).reshape(many + 1, others + 1)
    inside, void = pairs[:many, :others], pairs[many, :others]
    union = pairs[:many].sum(1)[:, None] + pairs[:, :others].sum(0) - inside - void
    same = truth.classes[:, None] == found.classes
    overlap = np.where(same & ~truth.crowd[:, None], inside / np.maximum(union, 1), 0)
    hits = overlap > 0.5
    ignored = void + np.where(same & truth.crowd[:, None], inside, 0).sum(axis=0)
    false = ~hits.any(axis=0) & (ignored <= 0.5 * pairs[:, :others].sum(axis=0))
    missed = ~hits.any(axis=1) & ~truth.crowd
    counts = np.zeros((classes, 4))
    rows, columns = np.nonzero(hits)
    np.add.at(counts[:, 0], truth.classes[rows], overlap[rows, columns])
    for place, which in ((1, truth.classes[rows]), (2, found.classes[false]), (3, truth.classes[missed])):
        np.add.at(counts[:, place], which, 1)
    return counts


def truth(record: Mapping[str, Any], stuff: Bool[np.ndarray, " c"]) -> Segments:
    """Lay the true masks of a record, the smaller on top, over the classes of its label map that are no objects."""
    size = size_of(dict(record))
    order = np.argsort([-run_lengths.area(mask) for mask in record["masks"]], kind="stable").tolist()
    masks = [run_lengths.bits(record["masks"][row], size) for row in order]
    places = np.full(size, -1, np.int64)
    for number, mask in enumerate(masks):
        places[mask] = number
    beside = record["label_map"] if labels.has(record, "label_map") else None
    rows = np.array(order, np.int64)
    return _joined(
        places, np.asarray(record["classes"])[rows], np.asarray(record["crowd"], bool)[rows], beside, stuff, 0
    )


def laid(
    found: Mapping[str, Any],
    size: Size,
    label_map: np.ndarray | None,
    stuff: Bool[np.ndarray, " c"],
    score: float,
    least: int,
) -> Segments:
    """Lay the masks of one image by falling score, and classes that are no objects where they leave room.

    Args:
      found: as counts of precision.py hold it.
      size: height, width.
      label_map: whose top left is the image, or none.
      stuff: of each class, whether it is no object.
      score, least: as for `make`.
    """
    places, classes = np.full(size, -1, np.int64), []
    masks, scores = instances.masks_of(found), np.asarray(found["scores"])
    for row in np.argsort(-scores, kind="stable").tolist():
        mask = run_lengths.bits(masks[row], size)
        free = mask & (places < 0)
        if scores[row] < score or not mask.any() or 2 * free.sum() < mask.sum() or not free.any():
            continue
        places[free] = len(classes)
        classes.append(int(np.asarray(found["classes"])[row]))
    beside = None if label_map is None else label_map[: size[0], : size[1]]
    return _joined(places, np.array(classes, np.int64), np.zeros(len(classes), bool), beside, stuff, least)


def _joined(
    places: np.ndarray, classes: np.ndarray, crowd: np.ndarray, label_map: Any, stuff: np.ndarray, least: int
) -> Segments:
    """Add a segment of each class that is no object, where objects leave room; take out segments without a pixel."""
    for number in [] if label_map is None else np.flatnonzero(stuff).tolist():
        free = (label_map == number) & (places < 0)
        if free.any() and free.sum() >= least:
            places[free] = len(classes)
            classes, crowd = np.append(classes, number), np.append(crowd, False)
    kept = np.unique(places[places >= 0])
    table = np.full(len(classes) + 1, -1, np.int64)
    table[kept] = np.arange(len(kept))
    return Segments(table[places], classes[kept].astype(np.int64), crowd[kept].astype(bool))
