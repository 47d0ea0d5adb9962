"""The start-up check of label maps: how much of the images each class covers, which never occur, what was left out.

A few hundred masks tell the shares well enough, and to read all of a large data set would take minutes: those looked at
are spread evenly over the split.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from rich.console import Group

from mapjax.data import lookup, splits
from mapjax.data.checks import orientation_quality, overview
from mapjax.data.checks.overview import Counted
from mapjax.data.source import Source, label_map_of, largest_size, truth_of
from mapjax.errors import UserError
from mapjax.stages import VOID

_LOOKED_AT = 300  # masks at start-up
_COUNTED = 2_000  # masks whose pixels are counted for weights of classes
_THREADS = 8


class MapSummary(NamedTuple):
    """What one split holds; pixels are those of the `looked_at` masks.

    per_class: pixels of each class.
    void: pixels without one.
    out_of_range: with one outside the list of classes.
    largest: height, width of the least frame that holds every image.
    contradiction: what EXIF and the sizes of labels say against each other, or nothing.
    unreadable: masks that could not be read, with the reason of the first.
    dropped: how many were left out, by reason, and one example.
    noted: how many were kept though they are odd, likewise.
    files: the image files, where they are files.
    """

    name: str
    split: str
    images: int
    looked_at: int
    per_class: dict[str, int]
    void: int
    out_of_range: int
    largest: tuple[int, int]
    contradiction: str
    unreadable: tuple[int, str]
    dropped: Counted
    noted: Counted
    files: frozenset[str]


def inspect(source: Source) -> MapSummary:
    """Count what a source holds, from at most 300 masks; no image is decoded."""
    counts, reasons = _counts(source, _LOOKED_AT)
    files = lookup.real(_files(source))
    pixels = counts.sum(0)
    known = len(source.classes)
    return MapSummary(
        name=source.name,
        split=source.split,
        images=len(source.records),
        looked_at=len(counts) + len(reasons),
        per_class=dict(zip(source.classes, pixels.tolist())),
        void=int(pixels[VOID]),
        out_of_range=int(pixels[known:VOID].sum()),
        largest=largest_size(source),
        contradiction=orientation_quality.contradiction(source),
        unreadable=(len(reasons), reasons[0] if reasons else ""),
        dropped=overview.dropped_of(source),
        noted=overview.noted_of(source) | overview.repeated_files(source, files),
        files=frozenset(files),
    )


def pixel_counts(source: Source) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Count pixels for weights of classes, as median-frequency balancing needs them (Eigen & Fergus 2015).

    At most 2,000 masks are read; those that cannot be read are passed over.

    Returns:
      The pixels of each class, and all pixels of the images that have the class.
    """
    counts, _ = _counts(source, _COUNTED)
    classes = counts[:, : len(source.classes)]
    return classes.sum(0), ((classes > 0) * counts.sum(1, keepdims=True)).sum(0)


def _counts(source: Source, most: int) -> tuple[Int64[np.ndarray, "n 256"], list[str]]:
    """Count the pixels of each value in some masks, and say why others could not be read."""
    length = len(source.records)
    rows = (np.arange(min(length, most)) * length // max(min(length, most), 1)).tolist()
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(partial(_count, source), rows))
    read = [one for one in found if not isinstance(one, str)]
    return np.array(read, np.int64).reshape(-1, 256), [one for one in found if isinstance(one, str)]


def _count(source: Source, index: int) -> np.ndarray | str:
    try:
        return np.bincount(label_map_of(source, index).ravel(), minlength=256)
    except UserError as error:
        return str(error)


def _files(source: Source) -> list[str]:
    if len(source.records) == 0 or not isinstance(truth_of(source, 0).get("image"), str):
        return []
    return [truth_of(source, index)["image"] for index in range(len(source.records))]


def table(*summaries: MapSummary) -> Group:
    """Lay the summaries of the splits side by side, to print with rich."""
    return overview.side_by_side(summaries, _rows, overview.shown(summaries[0]), _notes, _share)


def _rows(summary: MapSummary) -> dict[str, str]:
    rows = {"images": str(summary.images)}
    if summary.images:
        rows["the largest, height × width"] = "×".join(map(str, summary.largest))
    return rows | {
        "masks looked at, evenly spread": str(summary.looked_at),
        "classes": str(len(summary.per_class)),
        "pixels without a class": _percent(summary.void, summary),
    }


def _share(summary: MapSummary, name: str) -> str:
    return _percent(summary.per_class.get(name, 0), summary)


def _percent(pixels: int, summary: MapSummary) -> str:
    every = sum(summary.per_class.values()) + summary.void + summary.out_of_range
    return f"{100 * pixels / every:.2f} %" if pixels else "0"


def _notes(summary: MapSummary) -> list[str]:
    notes = [summary.contradiction] if summary.contradiction else []
    never = [name for name, count in summary.per_class.items() if not count]
    if never:
        notes.append(
            f"{summary.split}: {len(never)} of {len(summary.per_class)} classes never occur in the "
            f"{summary.looked_at} masks looked at: {_some(never)}"
        )
    if summary.unreadable[0]:
        notes.append(
            f"{summary.split}: {summary.unreadable[0]} of {summary.looked_at} masks cannot be used; training leaves "
            f"them out, such as: {summary.unreadable[1]}"
        )
    return notes


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def require_trainable(source: Source, summary: MapSummary) -> None:
    """Stop where there is nothing to learn; called with a source that has images and classes.

    Raises:
      UserError: no mask that can be used, pixels outside the list of classes, none with a class, one class only, or, in
        training, pixels of one only.
    """
    where = f"{source.name}, split {source.split!r},"
    masks = f"the {summary.looked_at} masks looked at"
    overview.require_once(summary.noted, summary.images, where)
    if summary.unreadable[0] == summary.looked_at:
        raise UserError(f"{where} has no mask that can be used among {masks}, such as: {summary.unreadable[1]}")
    if summary.out_of_range:
        raise UserError(
            f"{where} has {summary.out_of_range} pixels in {masks} whose class is not one of its {len(source.classes)} "
            f"classes nor {VOID}; correct the label maps."
        )
    if len(source.classes) == 1:
        raise UserError(
            f"{where} has one class only, {source.classes[0]!r}, so there is nothing to tell apart; add another."
        )
    present = [name for name, count in summary.per_class.items() if count]
    if not present:
        raise UserError(f"{where} has not one pixel with a class in {masks}; all are {VOID}, or void by the list.")
    if len(present) == 1 and splits.find("train", (source.split,)):
        raise UserError(
            f"{where} has pixels of one class only, {present[0]!r}, in {masks}; the ids must be 0, 1, 2, … ({VOID} is "
            "void), and masks of others must be there."
        )
