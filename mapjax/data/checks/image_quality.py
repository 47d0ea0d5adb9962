"""The start-up check of images without labels, as tasks have them that learn from the images alone."""

from typing import NamedTuple

from rich.console import Group

from mapjax.data.checks import overview
from mapjax.data.checks.overview import Counted
from mapjax.data.source import Source


class ImageSummary(NamedTuple):
    """What one split holds.

    dropped: how many were left out, by reason, and one example.
    noted: how many were kept though they are odd, likewise.
    files: the image files, where they are files.
    """

    name: str
    split: str
    images: int
    dropped: Counted
    noted: Counted
    files: frozenset[str]


def inspect(source: Source) -> ImageSummary:
    """Count what a source holds; no image is decoded."""
    return ImageSummary(
        name=source.name,
        split=source.split,
        images=len(source.records),
        dropped=overview.dropped_of(source),
        noted=overview.noted_of(source),
        files=frozenset(overview.files_of(source)),
    )


def table(*summaries: ImageSummary) -> Group:
    """Lay the summaries of the splits side by side, to print with rich."""
    return overview.side_by_side(summaries, lambda one: {"images": str(one.images)}, (), lambda one: [])
