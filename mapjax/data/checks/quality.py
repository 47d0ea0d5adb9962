"""The start-up check of a data set: what is in it, what was left out, and whether training can work at all."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Group

from mapjax.data.checks import label_quality, map_quality
from mapjax.data.checks.label_quality import LabelSummary
from mapjax.data.checks.map_quality import MapSummary
from mapjax.data.geometry import box_areas
from mapjax.data.source import Source, has_label_maps, truth_of
from mapjax.errors import UserError

SMALL, MEDIUM = 32**2, 96**2  # COCO's borders between small, medium and large, pixels²
_GENERATED_LOOKED_AT = 300  # records of a source that draws its images when asked
_QUANTILES = (0.05, 0.5, 0.95)


class Summary(NamedTuple):
    """What one split holds; counts are those of the `looked_at` records.

    sides: the 5, 50 and 95 % quantiles of the square root of the boxes' areas, in original pixels.
    sizes: boxes that are small, medium and large by COCO's borders.
    crowded: images with more than `max_boxes` boxes. dropped: how many were left out, by reason, and one example.
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
    dropped: dict[str, tuple[int, str]]
    files: frozenset[str]


AnySummary = Summary | LabelSummary | MapSummary


def inspect(source: Source, max_boxes: int) -> AnySummary:
    """Count what a source holds; no image is decoded. Of generated scenes, and of masks, 300 are looked at."""
    if has_label_maps(source):
        return map_quality.inspect(source)
    if _is_labelled(source):
        return label_quality.inspect(source)
    length = len(source.records)
    looked_at = _looked_at(source)
    objects, files = _objects(source, looked_at)
    boxes, classes, counts = objects["boxes"], objects["classes"], objects["counts"]
    known = (classes >= 0) & (classes < len(source.classes))
    per_class = np.bincount(classes[known], minlength=len(source.classes))
    areas = box_areas(boxes)
    sizes = (areas < SMALL).sum(), ((areas >= SMALL) & (areas < MEDIUM)).sum(), (areas >= MEDIUM).sum()
    return Summary(
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
        dropped={reason: (len(where), where[0]) for reason, where in source.dropped.items() if where},
        files=frozenset(files),
    )


def class_counts(source: Source) -> Int[np.ndarray, " c"]:
    """Count the images of each class, or the boxes or pixels where the labels are those; no image is decoded.

    Of generated scenes the first 300 are looked at, of masks 2,000. Labels outside the list of classes are not counted.
    """
    if has_label_maps(source):
        return map_quality.pixel_counts(source)[0]
    if _is_labelled(source):
        return label_quality.class_counts(source)
    classes = _objects(source, _looked_at(source))[0]["classes"]
    known = classes[(classes >= 0) & (classes < len(source.classes))]
    return np.bincount(known, minlength=len(source.classes))


def _objects(source: Source, looked_at: int) -> tuple[Mapping[str, np.ndarray], set[str]]:
    """Gather the objects of the first records, as `Records.objects` does, and their image files."""
    known: Any = getattr(source.records, "objects", None)
    if known is not None and (found := known()) is not None:
        return found, set()
    all_boxes, all_classes, crowd = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int32)], [np.zeros(0, bool)]
    files = set()
    for index in range(looked_at):
        record = truth_of(source, index)  # one at a time: it may hold an image or masks
        all_boxes.append(record["boxes"])
        all_classes.append(record["classes"])
        crowd.append(record["crowd"])
        if isinstance(record.get("image"), str):
            files.add(record["image"])
    counts = np.array([len(one) for one in all_classes[1:]], int)
    joined = {"boxes": all_boxes, "classes": all_classes, "crowd": crowd}
    return {"counts": counts} | {key: np.concatenate(parts) for key, parts in joined.items()}, files


def _is_labelled(source: Source) -> bool:
    """Tell whether the labels are of whole images."""
    known: Any = getattr(source.records, "labels", None)
    if known is not None and known() is not None:
        return True
    return len(source.records) > 0 and "boxes" not in truth_of(source, 0)


def _looked_at(source: Source) -> int:
    length = len(source.records)
    generated = length > 0 and isinstance(truth_of(source, 0).get("image"), np.ndarray)
    return min(length, _GENERATED_LOOKED_AT) if generated else length


def overlap(one: AnySummary, other: AnySummary) -> str:
    """Say that two splits share image files, or nothing."""
    shared = len(one.files & other.files)
    return (
        f"{shared} of the {other.images} images of {other.split!r} are in {one.split!r} too: "
        "scores on them say nothing about new images."
        if shared
        else ""
    )


def table(*summaries: AnySummary) -> Group:
    """Lay the summaries of the splits side by side, to print with rich."""
    labels = [summary for summary in summaries if isinstance(summary, LabelSummary)]
    maps = [summary for summary in summaries if isinstance(summary, MapSummary)]
    boxes = [summary for summary in summaries if isinstance(summary, Summary)]
    sheets = [label_quality.table(*labels)] if labels else []
    sheets += [map_quality.table(*maps)] if maps else []
    return Group(*sheets, *([_box_table(*boxes)] if boxes else []))


def _box_table(*summaries: Summary) -> Group:
    classes = dict.fromkeys(name for summary in summaries for name in summary.per_class)
    return label_quality.side_by_side(summaries, _rows, classes, _notes)


def _rows(summary: Summary) -> dict[str, str]:
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
    return rows


def _notes(summary: Summary) -> list[str]:
    if not summary.crowded:
        return []
    return [
        f"{summary.split}: {summary.crowded} images have more than max_boxes={summary.max_boxes} boxes; "
        "training sees their largest."
    ]


def require_trainable(source: Source, summary: AnySummary) -> None:
    """Stop where training or scoring on this source could not work; `summary` is what `inspect` found.

    Raises:
      UserError: no images, classes out of range, not one box that is not a crowd, or nothing to tell apart.
    """
    where = f"{source.name}, split {source.split!r},"
    why = "; ".join(f"{len(lost)} × {reason}" for reason, lost in source.dropped.items())
    left_out = f" Left out were {why}." if why else ""
    if len(source.records) == 0:
        raise UserError(f"{where} has no images; check the path and the split.{left_out}")
    if not source.classes:
        raise UserError(f"{where} has no classes; its annotations name none.{left_out}")
    if isinstance(summary, LabelSummary):
        return label_quality.require_trainable(source, summary)
    if isinstance(summary, MapSummary):
        return map_quality.require_trainable(source, summary)
    if summary.out_of_range:
        raise UserError(
            f"{where} has {summary.out_of_range} boxes whose class is not one of its {len(source.classes)} classes; "
            "correct the labels."
        )
    if summary.boxes == summary.crowd:
        raise UserError(f"{where} has no boxes to learn from in its {len(source.records)} images.{left_out}")
