"""The start-up check of a data set: what is in it, what was left out, and whether training can work at all.

What is counted depends on what has the labels (data/labels.py): `CHECKS` has the module for each.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Group

from mapjax.data.checks import image_quality, label_quality, map_quality, object_quality, overview
from mapjax.data.checks.image_quality import ImageSummary
from mapjax.data.checks.label_quality import LabelSummary
from mapjax.data.checks.map_quality import MapSummary
from mapjax.data.checks.object_quality import ObjectSummary
from mapjax.data.labels import KINDS
from mapjax.data.source import Source, kind_of
from mapjax.errors import UserError

AnySummary = ObjectSummary | LabelSummary | MapSummary | ImageSummary


class Check(NamedTuple):
    """The check of what labels belong to.

    summary: the type of its summaries.
    inspect(source, max_boxes) -> summary
    class_counts(source) -> (c)
    table(*summaries) -> what rich prints
    require_trainable(source, summary): raises UserError where there is nothing to learn.
    """

    summary: type
    inspect: Callable[[Source, int], Any]
    class_counts: Callable[[Source], np.ndarray]
    table: Callable[..., Group]
    require_trainable: Callable[[Source, Any], None]


# By the thing that has the labels, `of` in their row, or "" for none; in the order of the tables.
CHECKS = {
    "image": Check(
        LabelSummary,
        lambda source, max_boxes: label_quality.inspect(source),
        label_quality.class_counts,
        label_quality.table,
        label_quality.require_trainable,
    ),
    "pixel": Check(
        MapSummary,
        lambda source, max_boxes: map_quality.inspect(source),
        lambda source: map_quality.pixel_counts(source)[0],
        map_quality.table,
        map_quality.require_trainable,
    ),
    "object": Check(
        ObjectSummary,
        object_quality.inspect,
        object_quality.class_counts,
        object_quality.table,
        object_quality.require_trainable,
    ),
    "": Check(
        ImageSummary,
        lambda source, max_boxes: image_quality.inspect(source),
        lambda source: np.zeros(len(source.classes), int),
        image_quality.table,
        lambda source, summary: None,
    ),
}


def inspect(source: Source, max_boxes: int) -> AnySummary:
    """Count what a source holds; no image is decoded. Of generated scenes, and of masks, 300 are looked at."""
    return _check_of(source).inspect(source, max_boxes)


def class_counts(source: Source) -> Int[np.ndarray, " c"]:
    """Count the images of each class, or the boxes or pixels where the labels are those; no image is decoded.

    Of generated scenes the first 300 are looked at, of masks 2,000. Labels outside the list of classes are not counted.
    """
    return _check_of(source).class_counts(source)


def _check_of(source: Source) -> Check:
    """Choose the check; records without labels though there are classes are told so, by that of whole images."""
    kind = kind_of(source)
    if kind is None:
        return CHECKS["" if not source.classes else "image" if len(source.records) else "object"]
    return CHECKS[KINDS[kind].of]


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
    alike = [(check, [one for one in summaries if isinstance(one, check.summary)]) for check in CHECKS.values()]
    return Group(*(check.table(*found) for check, found in alike if found))


def require_trainable(source: Source, summary: AnySummary) -> None:
    """Stop where training or scoring on this source could not work; `summary` is what `inspect` found.

    Raises:
      UserError: no images, classes out of range, not one box that is not a crowd, or nothing to tell apart.
    """
    where = f"{source.name}, split {source.split!r},"
    if len(source.records) == 0:
        raise UserError(f"{where} has no images; check the path and the split.{overview.why(source)}")
    if not source.classes and not isinstance(summary, ImageSummary):
        raise UserError(f"{where} has no classes; its annotations name none.{overview.why(source)}")
    next(one for one in CHECKS.values() if isinstance(summary, one.summary)).require_trainable(source, summary)
