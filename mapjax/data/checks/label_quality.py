"""The start-up check of labels of whole images: images of each class, how uneven they are, what was left out."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Group

from mapjax.data import splits
from mapjax.data.checks import overview
from mapjax.data.checks.overview import Counted
from mapjax.data.source import Source, labels_of
from mapjax.errors import UserError


class LabelSummary(NamedTuple):
    """What one split holds.

    per_class: images of each class.
    several: an image may have any number of classes.
    without_label: images without any class.
    labels: over all images.
    out_of_range: labels outside the list of classes.
    dropped: how many were left out, by reason, and one example.
    noted: how many were kept though they are odd, likewise.
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
    dropped: Counted
    noted: Counted
    files: frozenset[str]


def inspect(source: Source) -> LabelSummary:
    """Count what a source holds; no image is decoded."""
    labels = labels_of(source)
    several = labels.ndim == 2
    files = overview.files_of(source)
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
        dropped=overview.dropped_of(source),
        noted=overview.noted_of(source) | overview.repeated_files(source, files),
        files=frozenset(files),
    )


def class_counts(source: Source) -> Int[np.ndarray, " c"]:
    """Count the images of each class; labels outside the list of classes are not counted."""
    labels = labels_of(source)
    if labels.ndim == 2:
        return labels.sum(0)
    known = labels[(labels >= 0) & (labels < len(source.classes))]
    return np.bincount(known, minlength=len(source.classes))


def table(*summaries: LabelSummary) -> Group:
    """Lay the summaries of the splits side by side, to print with rich."""
    return overview.side_by_side(summaries, _rows, overview.shown(summaries[0]), _notes)


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
        labels = labels_of(source)
        first = int(np.flatnonzero((labels < 0) | (labels >= len(source.classes)))[0])
        raise UserError(
            f"{where} has {summary.out_of_range} images whose label is outside the list of its {len(source.classes)} "
            f"classes, such as {labels[first]} of image {first}, counted from 0; correct the labels."
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
