"""The start-up check of a data set: what is in it, what was left out, and whether training can work at all.

What is counted depends on the kind of label: `CHECKS` has the module for each.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Group

from mapjax.data.checks import label_quality, map_quality, object_quality
from mapjax.data.checks.label_quality import LabelSummary
from mapjax.data.checks.map_quality import MapSummary
from mapjax.data.checks.object_quality import ObjectSummary
from mapjax.data.source import Source, kind_of
from mapjax.errors import UserError

AnySummary = ObjectSummary | LabelSummary | MapSummary


class Check(NamedTuple):
    """The check of one kind of label.

    inspect(source, max_boxes) -> summary · class_counts(source) -> (c) · table(*summaries) -> what rich prints
    require_trainable(source, summary): raises UserError where there is nothing to learn.
    """

    inspect: Callable[[Source, int], Any]
    class_counts: Callable[[Source], np.ndarray]
    table: Callable[..., Group]
    require_trainable: Callable[[Source, Any], None]


_LABELS = Check(
    lambda source, max_boxes: label_quality.inspect(source),
    label_quality.class_counts,
    label_quality.table,
    label_quality.require_trainable,
)
_OBJECTS = Check(
    object_quality.inspect, object_quality.class_counts, object_quality.table, object_quality.require_trainable
)
_MAPS = Check(
    lambda source, max_boxes: map_quality.inspect(source),
    lambda source: map_quality.pixel_counts(source)[0],
    map_quality.table,
    map_quality.require_trainable,
)
CHECKS = {"label": _LABELS, "labels": _LABELS, "label_map": _MAPS, "boxes": _OBJECTS}  # by the kind that leads
_BY_SUMMARY = {LabelSummary: _LABELS, MapSummary: _MAPS, ObjectSummary: _OBJECTS}  # in the order of their tables


def inspect(source: Source, max_boxes: int) -> AnySummary:
    """Count what a source holds; no image is decoded. Of generated scenes, and of masks, 300 are looked at."""
    return _check_of(source).inspect(source, max_boxes)


def class_counts(source: Source) -> Int[np.ndarray, " c"]:
    """Count the images of each class, or the boxes or pixels where the labels are those; no image is decoded.

    Of generated scenes the first 300 are looked at, of masks 2,000. Labels outside the list of classes are not counted.
    """
    return _check_of(source).class_counts(source)


def _check_of(source: Source) -> Check:
    """Choose the check; records without any label are told so by that of labels."""
    return CHECKS[kind_of(source) or ("label" if len(source.records) else "boxes")]


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
    alike = {kind: [one for one in summaries if isinstance(one, kind)] for kind in _BY_SUMMARY}
    return Group(*(_BY_SUMMARY[kind].table(*found) for kind, found in alike.items() if found))


def require_trainable(source: Source, summary: AnySummary) -> None:
    """Stop where training or scoring on this source could not work; `summary` is what `inspect` found.

    Raises:
      UserError: no images, classes out of range, not one box that is not a crowd, or nothing to tell apart.
    """
    where = f"{source.name}, split {source.split!r},"
    if len(source.records) == 0:
        raise UserError(f"{where} has no images; check the path and the split.{label_quality.why(source)}")
    if not source.classes:
        raise UserError(f"{where} has no classes; its annotations name none.{label_quality.why(source)}")
    _BY_SUMMARY[type(summary)].require_trainable(source, summary)
