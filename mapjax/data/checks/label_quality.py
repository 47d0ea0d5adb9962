"""The start-up check of labels of whole images: images of each class, how uneven they are, what was left out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mapjax.data import splits
from mapjax.data.source import Source, labels_of
from mapjax.errors import UserError

_SHOWN = 30  # classes with a row each; of more, the extremes
_EXTREMES = 3


class LabelSummary(NamedTuple):
    """What one split holds.

    per_class: images of each class.
    several: an image may have any number of classes.
    without_label: images without any class.
    labels: over all images.
    out_of_range: labels outside the list of classes.
    dropped: how many were left out, by reason, and one example.
    files: the image files, where they are files.
    """

    name: str
    split: str
    images: int
    several: bool
    per_class: dict[str, int]
    without_label: int
    labels: int
    out_of_range: int
    dropped: dict[str, tuple[int, str]]
    files: frozenset[str]


def inspect(source: Source) -> LabelSummary:
    """Count what a source holds; no image is decoded."""
    labels = labels_of(source)
    several = labels.ndim == 2
    outside = 0 if several else int(((labels < 0) | (labels >= len(source.classes))).sum())
    return LabelSummary(
        name=source.name,
        split=source.split,
        images=len(labels),
        several=several,
        per_class=dict(zip(source.classes, class_counts(source).tolist())),
        without_label=int((~labels.any(1)).sum()) if several else 0,
        labels=int(labels.sum()) if several else len(labels),
        out_of_range=outside,
        dropped={reason: (len(where), where[0]) for reason, where in source.dropped.items() if where},
        files=files_of(source),
    )


def class_counts(source: Source) -> Int[np.ndarray, " c"]:
    """Count the images of each class; labels outside the list of classes are not counted."""
    labels = labels_of(source)
    if labels.ndim == 2:
        return labels.sum(0)
    known = labels[(labels >= 0) & (labels < len(source.classes))]
    return np.bincount(known, minlength=len(source.classes))


def files_of(source: Source) -> frozenset[str]:
    """Return the paths of the images, where they are files."""
    known: Any = getattr(source.records, "files", None)
    if known is not None:
        return frozenset(known() or ())
    return frozenset(record["image"] for record in source.records if isinstance(record["image"], str))


def table(*summaries: LabelSummary) -> Group:
    """Lay the summaries of the splits side by side, to print with rich."""
    return side_by_side(summaries, _rows, shown(summaries[0]), _notes)


def _count(summary: Any, name: str) -> str:
    return str(summary.per_class.get(name, 0))


def side_by_side(
    summaries: Sequence[Any],
    rows: Callable[[Any], dict[str, str]],
    classes: Iterable[str],
    notes: Callable[..., Any],
    value: Callable[[Any, str], str] = _count,
) -> Group:
    """Lay out summaries with a column each: their `rows`, the `value` of each of `classes`, and `notes` below."""
    sheet = Table(title=Text(summaries[0].name) if summaries else None, title_justify="left")
    sheet.add_column("")
    for summary in summaries:
        sheet.add_column(summary.split, justify="right")
    found = [rows(summary) for summary in summaries]
    for label in dict.fromkeys(label for row in found for label in row):
        sheet.add_row(label, *(row.get(label, "0") for row in found))
    sheet.add_section()
    for name in classes:
        sheet.add_row(Text(f"class {name}"), *(value(summary, name) for summary in summaries))
    return Group(sheet, *(Text(note) for summary in summaries for note in [*left_out(summary), *notes(summary)]))


def left_out(summary: Any) -> list[str]:
    """Say what was left out of a split, a sentence for each reason."""
    return [
        f"left out of {summary.split}: {count} × {reason}, such as {where}"
        for reason, (count, where) in summary.dropped.items()
    ]


def why(source: Source) -> str:
    """Say what was left out of a source, at the end of a sentence on what is not there."""
    reasons = "; ".join(f"{len(lost)} × {reason}" for reason, lost in source.dropped.items())
    return f" Left out were {reasons}." if reasons else ""


def shown(summary: Any) -> list[str]:
    """Return the classes of a summary that get a row: all, or the largest and the smallest of many."""
    names = list(summary.per_class)
    if len(names) <= _SHOWN:
        return names
    ranked = sorted(names, key=lambda name: -summary.per_class[name])
    return [*ranked[:_EXTREMES], *ranked[-_EXTREMES:]]


def _rows(summary: LabelSummary) -> dict[str, str]:
    rows = {"images": str(summary.images), "classes": str(len(summary.per_class))}
    if summary.several:
        rows["labels an image, mean"] = f"{summary.labels / max(summary.images, 1):.2f}"
        rows["images without a label"] = str(summary.without_label)
    counts = sorted(summary.per_class.values())
    if counts and counts[-1]:
        rows["images a class, least / median / most"] = f"{counts[0]} / {np.median(counts):g} / {counts[-1]}"
        smallest = next(count for count in counts if count)
        rows["largest class to smallest"] = f"{counts[-1] / smallest:.1f}"
    return rows


def _notes(summary: LabelSummary) -> list[str]:
    empty = [name for name, count in summary.per_class.items() if not count]
    said = f"{summary.split}: {len(empty)} of {len(summary.per_class)} classes have no images, such as "
    return [said + empty[0]] if empty else []


def require_trainable(source: Source, summary: LabelSummary) -> None:
    """Stop where there is nothing to learn; called with a source that has images and classes.

    Raises:
      UserError: labels outside the list of classes, no labels, one class only, or, in training, images of one only.
    """
    where = f"{source.name}, split {source.split!r},"
    if summary.out_of_range:
        raise UserError(
            f"{where} has {summary.out_of_range} images whose label is outside the list of its {len(source.classes)} "
            "classes; correct the labels."
        )
    if summary.several:
        if not summary.labels:
            raise UserError(f"{where} has not one label in its {summary.images} images; correct the labels.")
        return
    if len(source.classes) == 1:
        raise UserError(
            f"{where} has one class only, {source.classes[0]!r}, so there is nothing to tell apart; add another."
        )
    present = [name for name, count in summary.per_class.items() if count]
    if len(present) == 1 and splits.find("train", (source.split,)):
        raise UserError(f"{where} has images of one class only, {present[0]!r}; add images of the others.")
