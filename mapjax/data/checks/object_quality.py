"""The start-up check of objects: boxes, their sizes and classes, their masks and keypoints, what was left out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Group

from mapjax.data import labels, lookup
from mapjax.data.checks import box_quality, orientation_quality, overview
from mapjax.data.checks.overview import Counted
from mapjax.data.geometry import box_areas
from mapjax.data.labels import KINDS
from mapjax.data.source import Source, name_of, truth_of
from mapjax.errors import UserError

SMALL, MEDIUM = 32**2, 96**2  # COCO's borders between small, medium and large, pixels²
_LOOKED_AT = 300  # records of a source that draws its images when asked; records whose masks and keypoints are counted
_QUANTILES = (0.05, 0.5, 0.95)


class ObjectSummary(NamedTuple):
    """What one split holds; counts are those of the `looked_at` records.

    sides: the 5, 50 and 95 % quantiles of the square root of the boxes' areas, in original pixels.
    sizes: boxes that are small, medium and large by COCO's borders.
    crowded: images with more than `max_boxes` boxes.
    dropped: how many were left out, by reason, and one example.
    noted: how many were kept though they are odd, likewise.
    more: rows of the table on masks and keypoints.
    contradiction: what EXIF and the sizes of labels say against each other, or nothing.
    lacking: what is not there to learn from, or nothing.
    files: paths of the images; none of generated ones.
    """

    name: str
    split: str
    images: int
    looked_at: int
    without_boxes: int
    boxes: int
    crowd: int
    per_class: dict[str, int]
    out_of_range: int
    sizes: tuple[int, int, int]
    sides: tuple[float, ...]
    crowded: int
    max_boxes: int
    more: dict[str, str]
    contradiction: str
    lacking: str
    dropped: Counted
    noted: Counted
    files: frozenset[str]


def inspect(source: Source, max_boxes: int) -> ObjectSummary:
    """Count what a source holds; no image is decoded. Of generated scenes 300 are looked at."""
    length = len(source.records)
    looked_at = _looked_at(source)
    objects, files, measures = _find(source, looked_at)
    files = lookup.real(files)
    boxes, classes, counts = objects["boxes"], objects["classes"], objects["counts"]
    counted = [KINDS[kind].count(found) for kind, found in measures.items()]
    known = (classes >= 0) & (classes < len(source.classes))
    per_class = np.bincount(classes[known], minlength=len(source.classes))
    areas = box_areas(boxes)
    sizes = (areas < SMALL).sum(), ((areas >= SMALL) & (areas < MEDIUM)).sum(), (areas >= MEDIUM).sum()
    return ObjectSummary(
        name=source.name,
        split=source.split,
        images=length,
        looked_at=looked_at,
        without_boxes=int((counts == 0).sum()),
        boxes=len(boxes),
        crowd=int(objects["crowd"].sum()),
        per_class=dict(zip(source.classes, per_class.tolist())),
        out_of_range=int((~known).sum()),
        sizes=(int(sizes[0]), int(sizes[1]), int(sizes[2])),
        sides=tuple(np.quantile(np.sqrt(areas), _QUANTILES).tolist()) if len(boxes) else (),
        crowded=int((counts > max_boxes).sum()),
        max_boxes=max_boxes,
        more={title: figure for rows, _ in counted for title, figure in rows.items()},
        contradiction=orientation_quality.contradiction(source),
        lacking=next((lacking for _, lacking in counted if lacking), ""),
        dropped=overview.dropped_of(source),
        noted=overview.noted_of(source)
        | box_quality.count(objects, lambda index: name_of(source, index))
        | overview.repeated_files(source, files),
        files=frozenset(files),
    )


def class_counts(source: Source) -> Int[np.ndarray, " c"]:
    """Count the boxes of each class; those outside the list of classes are not counted."""
    classes = _find(source, _looked_at(source)).objects["classes"]
    known = classes[(classes >= 0) & (classes < len(source.classes))]
    return np.bincount(known, minlength=len(source.classes))


class _Found(NamedTuple):
    """The objects of some records as `Records.objects` gives them, their image files, and measures of other kinds."""

    objects: Mapping[str, np.ndarray]
    files: Sequence[str]
    measures: dict[str, list[np.ndarray]]


def _find(source: Source, looked_at: int) -> _Found:
    """Gather the objects of the first records, or where they are known of all; then some records are measured."""
    known: Any = getattr(source.records, "objects", lambda: None)()
    nothing = labels.blank((1, 1), "boxes")
    lists = {key: [value] for key, value in nothing.items() if key != "areas"}
    files: list[str] = []
    measures: dict[str, list[np.ndarray]] = {}
    length = len(source.records)
    few = min(length, _LOOKED_AT)
    for row in range(looked_at) if known is None else (np.arange(few) * length // max(few, 1)).tolist():
        record = truth_of(source, row)  # one at a time: it may hold an image or masks
        if isinstance(record.get("image"), str):
            files.append(record["image"])
        beside = {kind: measure for kind in labels.present(record) if (measure := KINDS[kind].measure) is not None}
        labels.require(record, beside)
        for key, parts in lists.items():
            parts.append((record if labels.has(record, "boxes") else nothing)[key])
        for kind, measure in beside.items():
            measures.setdefault(kind, []).append(measure(record))
    if known is not None:
        named: Any = getattr(source.records, "files", lambda: None)()
        return _Found(known, tuple(named or ()), measures)
    counts = np.array([len(one) for one in lists["classes"][1:]], int)
    joined = {key: np.concatenate(parts) for key, parts in lists.items()}
    return _Found({"counts": counts, **joined}, files, measures)


def _looked_at(source: Source) -> int:
    length = len(source.records)
    generated = length > 0 and isinstance(truth_of(source, 0).get("image"), np.ndarray)
    return min(length, _LOOKED_AT) if generated else length


def table(*summaries: ObjectSummary) -> Group:
    """Lay the summaries of the splits side by side, to print with rich."""
    classes = dict.fromkeys(name for summary in summaries for name in summary.per_class)
    return overview.side_by_side(summaries, _rows, classes, _notes)


def _rows(summary: ObjectSummary) -> dict[str, str]:
    rows = {"images": f"{summary.images}"}
    if summary.looked_at < summary.images:
        rows["counted below"] = f"first {summary.looked_at}"
    rows |= {
        "images without boxes": str(summary.without_boxes),
        "boxes": str(summary.boxes),
        "of these crowd or difficult": str(summary.crowd),
        "small / medium / large": " / ".join(map(str, summary.sizes)),
        "side in pixels, 5 / 50 / 95 %": " / ".join(f"{side:.0f}" for side in summary.sides) or "-",
    }
    return rows | summary.more


def _notes(summary: ObjectSummary) -> list[str]:
    notes = [summary.contradiction] if summary.contradiction else []
    if summary.crowded:
        notes.append(
            f"{summary.split}: {summary.crowded} images have more than max_boxes={summary.max_boxes} boxes; "
            "training sees their largest."
        )
    return notes


def require_trainable(source: Source, summary: ObjectSummary) -> None:
    """Stop where there is nothing to learn, or most is odd; called with a source that has images and classes.

    Raises:
      UserError: classes out of range, not one box that is not a crowd, boxes or files of which half are there twice,
        boxes of which half are under a pixel, or masks or keypoints without anything in them.
    """
    where = f"{source.name}, split {source.split!r},"
    if summary.out_of_range:
        known = range(len(source.classes))
        lists = (truth_of(source, index).get("classes", ()) for index in range(len(source.records)))
        first = next(index for index, classes in enumerate(lists) if not set(map(int, classes)).issubset(known))
        raise UserError(
            f"{where} has {summary.out_of_range} boxes whose class is not one of its {len(known)} classes, such as in "
            f"image {truth_of(source, first).get('file', first)}; correct the labels."
        )
    if summary.boxes == summary.crowd:
        every = f": all {summary.crowd} are crowd or difficult, such as in {_crowded(source)}" if summary.crowd else ""
        raise UserError(
            f"{where} has no boxes to learn from, or be scored by, in its {len(source.records)} images{every}; label "
            f"objects in it, or choose another split (splits.train, splits.eval).{overview.why(source)}"
        )
    box_quality.require_plausible(summary.noted, summary.boxes, where)
    overview.require_once(summary.noted, summary.images, where)
    if summary.lacking:
        raise UserError(f"{where} has {summary.lacking} in the images looked at; correct the labels.")


def _crowded(source: Source) -> str:
    """Return the name of the first image with a crowd."""
    records = ({"crowd": False, "file": "", **truth_of(source, index)} for index in range(len(source.records)))
    return next((record["file"] for record in records if np.any(record["crowd"])), "")
