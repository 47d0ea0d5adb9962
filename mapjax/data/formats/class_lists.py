"""Lists of the classes of masks, as files have them: names, or names with their colours."""

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mapjax.config import regular
from mapjax.errors import UserError

VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore", "ignored")  # of what is no class, in any case of letters

_LINE = re.compile(
    r"(.*\S)[\s,:;]+(\d{1,9})[\s,]+(\d{1,9})[\s,]+(\d{1,9})[\s:]*"
)  # "name r g b", and CVAT's "name:r,g,b::"
_DIGITS = 9  # of a value that need be read: from 256 on it is refused
_TURNED = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)")  # "r g b name", as CamVid has it

Colour = tuple[str, int, int, int]  # a name, and red, green, blue


def read_names(file: pathlib.Path) -> list[str]:
    """Read a list of classes, one name a line; lines that are empty or begin with # are passed over.

    Raises:
      UserError: no such file, not text, or a name that is there twice.
    """
    names = [line for line in _lines(file) if line]
    repeated = next((name for name in names if names.count(name) > 1 and name.lower() not in VOID_NAMES), None)
    if repeated is not None:
        raise UserError(f"{file} names {repeated!r} twice; a class has one line, whose number is its id in the masks.")
    return names


def read_palette(file: pathlib.Path) -> list[Colour]:
    """Read the colours of classes, "name r g b" a line (or "r g b name", or CVAT's "name:r,g,b::").

    Raises:
      UserError: no such file, not text, or a line of another form.
    """
    return palette_of(_lines(file), str(file))


def palette_of(lines: Iterable[Any], origin: str) -> list[Colour]:
    """Read colours: each line a text as in `read_palette`, or a name and red, green, blue.

    Raises:
      UserError: a line of another form, or one colour for two names.
    """
    found: list[Colour] = []
    names: dict[tuple[int, int, int], str] = {}
    for line in lines:
        if isinstance(line, str) and (not line or line.startswith("#")):
            continue
        one = _colour(line)
        if one is None or max(one[1:]) > 255:
            raise UserError(
                f"{origin}: {line!r} must be a name and red, green, blue from 0 to 255, as in 'sky 0 0 255'."
            )
        if names.setdefault(one[1:], one[0]) != one[0]:
            raise UserError(f"{origin} gives {one[0]!r} and {names[one[1:]]!r} the same colour {one[1:]}; change one.")
        found.append(one)
    return found


def _colour(line: Any) -> Colour | None:
    if not isinstance(line, str):
        cells: tuple[Any, ...] = tuple(line) if isinstance(line, Sequence) else ()
        good = len(cells) == 4 and all(isinstance(value, int) and value >= 0 for value in cells[1:])
        return (str(cells[0]), *cells[1:]) if good else None  # pyright: ignore[reportReturnType]
    if (match := _LINE.fullmatch(line)) is not None:
        name, *values = match.groups()
    elif (match := _TURNED.fullmatch(line)) is not None:
        *values, name = match.groups()
    else:
        return None
    red, green, blue = (int(value) if len(value) <= _DIGITS else 10**_DIGITS for value in values)
    return name.strip().rstrip(",:;"), red, green, blue


def _lines(file: pathlib.Path) -> list[str]:
    try:
        lines = [line.strip() for line in regular.read_text(file).splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"{file} is not there: write the names of the classes to it, one a line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text ({error}); save it in UTF-8.") from error
    return [line for line in lines if not line.startswith("#")]
