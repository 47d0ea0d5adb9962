"""A table of images: a CSV file with the columns `path` and `label`, or `labels`, and maybe `split`.

    path,label,split            path,labels
    cats/1.jpg,cat,train        beach.jpg,sea;sand

Paths are relative to the file, and may be spelled as on other systems (mapjax.data.lookup). Columns are separated by
comma, semicolon or tab; several labels of an image by ; or | or spaces, whichever comes first in this list and is in
the column.
"""

import collections
import csv
import io
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mapjax.data import labelled, lookup, splits
from mapjax.data.formats.folder_tree import Paths
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.runtime.names import is_text, read_list, shown

ABOUT = "table:FILE.csv (labels)"

_SEPARATORS = (",", ";", "\t")
_TWICE, _OTHERWISE = "image listed twice", "image listed before with another label"
_FEWEST = 4  # images of which half may be there with another label by chance

Dropped = dict[str, list[str]]


class _Row(NamedTuple):
    """A line of the table: its number, the path and the label as written."""

    line: int
    path: str
    label: str


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    classes: str | Sequence[str] | None = None,
    hold_out: float | int = 0.1,
) -> Source:
    """Read one split of a table; no image is opened.

    Left out and counted in `dropped`: lines without a path, a `label` or a `split`, or with too many or too few cells;
    images that are missing, or that the split has twice, maybe with another label.

    Args:
      split: as the column `split` names it; without that column all is "train". "val" is held out of "train" where
        there is none.
      seed: of the held-out part.
      path: the file.
      classes: their names in order; by default all labels of the training split, sorted.
      hold_out: share of each class of "train" that becomes "val"; 0 for none.

    Raises:
      UserError: no such file or split, no header, half of the images again with another label, a label outside the
        list, or one that training does not have.

    Example:
      >>> import pathlib, tempfile
      >>> import cv2, numpy as np
      >>> from mapjax.data.formats import table
      >>> with tempfile.TemporaryDirectory() as path:
      ...     _ = cv2.imwrite(f"{path}/a.png", np.zeros((4, 6, 3), np.uint8))
      ...     file = pathlib.Path(path) / "labels.csv"
      ...     _ = file.write_text("path,label\\na.png,cat\\n")
      ...     table.make(split="train", path=str(file), hold_out=0).records[0]["file"]
      'a.png'
    """
    where = f"table:{path}"
    file = pathlib.Path(path)
    several, by_split, dropped = _read(file)
    found, part = splits.locate(split, by_split, where, hold_out)
    left_out: Dropped = collections.defaultdict(list, {reason: list(lines) for reason, lines in dropped.items()})
    images = lookup.Files(file.parent)
    _require_text(by_split, file, images)
    rows = _present(by_split[found], images, left_out)
    _require_one_line(rows, left_out[_OTHERWISE], f"{where}, split {found!r},")
    train = splits.find("train", by_split)
    trained = rows if train in (None, found) else _present(by_split[train], images, collections.defaultdict(list))
    separator = _label_separator(row.label for group in by_split.values() for row in group) if several else ""
    names = labelled.choose_classes((name for row in trained for name in _names(row, separator)), classes, where)
    numbers = {name: number for number, name in enumerate(names)}
    labelled.require_trained((name for row in rows for name in _names(row, separator)), names, where, found)
    if several:
        labels = np.zeros((len(rows), len(names)), bool)
        for position, row in enumerate(rows):
            labels[position, [numbers[name] for name in _names(row, separator)]] = True
    else:
        labels = np.array([numbers[row.label] for row in rows], np.int32)
    files = [row.path for row in rows]
    kept = labelled.rows_of(part, files, labels, seed, hold_out)
    chosen = [files[row] for row in kept]
    paths = Paths(str(file.parent), chosen)
    real = lookup.real(paths)
    return labelled.make_source(where, split, names, chosen, labels[kept], paths, dropped=left_out, on_disk=real)


def _read(file: pathlib.Path) -> tuple[bool, dict[str, list[_Row]], Dropped]:
    """Return whether an image has several labels, the lines of every split, and what is wrong with others."""
    lines = csv.reader(io.StringIO(text := _text(file), newline=""), delimiter=_separator(text))
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        columns = {name: header.index(name) for name in ("path", "label", "labels", "split") if name in header}
        key = next((key for key in ("labels", "label") if key in columns), None)
        if "path" not in columns or key is None:
            raise UserError(
                f"{file}: the first line must name the columns path and label (or labels, for several), and maybe "
                f"split; found {', '.join(header) or 'nothing'}."
            )
        found: dict[str, list[_Row]] = {} if "split" in columns else {"train": []}
        spelled: dict[str, str] = {}  # names of splits that differ in capitals only are one
        dropped: Dropped = collections.defaultdict(list)
        for cells in lines:
            place = f"line {lines.line_num}"
            if not any(cells):
                continue
            if len(cells) != len(header):
                dropped["line of another length"].append(place)
                continue
            row = _Row(lines.line_num, cells[columns["path"]].strip(), cells[columns[key]].strip())
            split = cells[columns["split"]].strip() if "split" in columns else "train"
            missing = "path" if not row.path else "label" if key == "label" and not row.label else "split"
            if row.path and (row.label or key == "labels") and split:
                found.setdefault(spelled.setdefault(split.casefold(), split), []).append(row)
            else:
                dropped[f"line without a {missing}"].append(place)
    except csv.Error as error:
        raise UserError(f"{file}, line {lines.line_num}: {error}; correct that line.") from error
    return key == "labels", found, dropped


def _text(file: pathlib.Path) -> str:
    try:
        return read_list(file)
    except FileNotFoundError as error:
        raise UserError(f"{file}: there is no such table.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from error


def _require_text(by_split: Mapping[str, Sequence[_Row]], file: pathlib.Path, images: lookup.Files) -> None:
    """Stop at a table in another encoding, unless it has the bytes of files' names, as lists of old archives do."""
    odd = [row for rows in by_split.values() for row in rows if not is_text(row.path + row.label)]
    if odd and not any(images.find(row.path) for row in odd if not is_text(row.path)):
        where = f"{file}, line {odd[0].line}, is not text in UTF-8 ({shown(odd[0].path)}, {shown(odd[0].label)})"
        raise UserError(f"{where}; save it as CSV in UTF-8.")


def _require_one_line(rows: Sequence[_Row], again: Sequence[str], where: str) -> None:
    """Stop where half of the images, or more, are listed again with another label."""
    if len(rows) >= _FEWEST and 2 * len(again) >= len(rows):
        raise UserError(
            f"{where} has {len(rows)} images, and {len(again)} × {_OTHERWISE}, such as {again[0]}; several labels of "
            "an image belong into one cell of a column 'labels', as sea;sand."
        )


def _separator(text: str) -> str:
    """Return the separator of columns, the one that the header has most often."""
    header = text.partition("\n")[0]
    return max(_SEPARATORS, key=header.count)


def _label_separator(labels: Iterable[str]) -> str:
    used = {mark for label in labels for mark in ";|" if mark in label}
    return next((mark for mark in ";|" if mark in used), " ")


def _names(row: _Row, separator: str) -> list[str]:
    if not separator:
        return [row.label]
    return [name.strip() for name in row.label.split(None if separator == " " else separator) if name.strip()]


def _present(rows: Sequence[_Row], files: lookup.Files, dropped: Dropped) -> list[_Row]:
    """Leave out the images that are not there or that came before; the others get the path of their file."""
    kept, seen = [], dict[str, str]()
    for row in rows:
        path = files.find(row.path)
        if path is None:
            hint = "" if dropped["missing image"] else files.hint(row.path)  # once, because it takes its time
            dropped["missing image"].append(row.path + hint)
        elif (file := os.path.normpath(path)) in seen:
            dropped[_TWICE if seen[file] == row.label else _OTHERWISE].append(f"{row.path} (line {row.line})")
        else:
            seen[file] = row.label
            kept.append(row._replace(path=path))
    return kept
