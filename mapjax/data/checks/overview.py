"""What the checks of all labels share: the image files, what was left out, and a table with a column for each split."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mapjax.data.source import Source, truth_of
from mapjax.errors import UserError
from mapjax.runtime.names import shown as shown_name

_SHOWN = 30  # classes with a row each; of more, the extremes
_EXTREMES = 3
_FEWEST = 4  # images of which half may be there twice by chance
_FILE_AGAIN = "image file listed before"

Counted = dict[str, tuple[int, str]]  # by reason: how many, and one example


def files_of(source: Source) -> list[str]:
    """Return the paths of the images, where they are files."""
    known: Any = getattr(source.records, "files", None)
    if known is not None:
        return list(known() or ())
    return [record["image"] for record in source.records if isinstance(record["image"], str)]


def dropped_of(source: Source) -> Counted:
    """Count what was left out, by reason, each with an example."""
    return _counted(source.dropped)


def noted_of(source: Source) -> Counted:
    """Count what was kept though it is odd, by reason, each with an example."""
    return _counted(source.noted)


def _counted(lists: Mapping[str, Sequence[str]]) -> Counted:
    return {reason: (len(where), where[0]) for reason, where in lists.items() if where}


def repeated_files(source: Source, files: Sequence[str]) -> Counted:
    """Count the images of a split whose file, as `lookup.real` gives it, came before, with an example."""
    seen = set[str]()
    again = [row for row, file in enumerate(files) if file in seen or seen.add(file)]
    if not again:
        return {}
    return {_FILE_AGAIN: (len(again), truth_of(source, again[0]).get("file", files[again[0]]))}


def require_once(counted: Counted, images: int, where: str) -> None:
    """Stop where half of the images of a split, or more, are files that it lists twice.

    Raises:
      UserError: naming how many there are, an example, and the likely cause.
    """
    number, example = counted.get(_FILE_AGAIN, (0, ""))
    if images >= _FEWEST and 2 * number >= images:
        raise UserError(
            f"{where} lists {images} images, {number} of them × {_FILE_AGAIN}, such as {example}: the lists were "
            "probably merged with a copy of themselves, so keep one."
        )


def shown(summary: Any) -> list[str]:
    """Return the classes of a summary that get a row: all, or the largest and the smallest of many."""
    names = list(summary.per_class)
    if len(names) <= _SHOWN:
        return names
    ranked = sorted(names, key=lambda name: -summary.per_class[name])
    return [*ranked[:_EXTREMES], *ranked[-_EXTREMES:]]


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
        sheet.add_row(Text(f"class {shown_name(name)}"), *(value(summary, name) for summary in summaries))
    said = (note for one in summaries for note in [*left_out(one), *noted(one), *notes(one)])
    return Group(sheet, *map(Text, said))


def left_out(summary: Any) -> list[str]:
    """Say what was left out of a split, a sentence for each reason."""
    return [
        f"left out of {summary.split}: {count} × {reason}, such as {where}"
        for reason, (count, where) in summary.dropped.items()
    ]


def noted(summary: Any) -> list[str]:
    """Say what is odd and was kept, a sentence for each reason."""
    return [
        f"noted in {summary.split}: {count} × {reason}, such as {where}"
        for reason, (count, where) in summary.noted.items()
    ]


def why(source: Source) -> str:
    """Say what was left out of a source, at the end of a sentence on what is not there."""
    reasons = "; ".join(f"{count} × {reason}, such as {where}" for reason, (count, where) in dropped_of(source).items())
    return f" Left out were {reasons}." if reasons else ""
