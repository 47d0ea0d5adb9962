"""From which file of the source each instruction of a compiled program comes, by the tables in the program's text."""

import itertools
import pathlib
import re
from collections.abc import Iterator

PACKAGE = pathlib.Path(__file__).parents[1]

_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_FRAME = re.compile(r"\bstack_frame_id=(\d+)")

Frames = dict[int, tuple[int, int]]  # number → file, and the frame that called it


def files(text: str, *, callers: str = "") -> dict[int, str]:
    """Name, for each stack frame, the innermost file of the package: 12 → "ops/nms". {} where the text has no tables.

    Frames that never pass through the package are left out.

    Args:
      text: of the compiled program.
      callers: of files in this folder that call each other, the outermost is named: with "ops", boxes that suppression
        compares are "ops/nms", not "ops/boxes".
    """
    tables = _read(text)
    names = {number: _within(line.strip('"')) for number, line in tables["FileNames"].items()}
    places = {number: _number(line, "file_name_id") for number, line in tables["FileLocations"].items()}
    frames = {
        number: (places.get(_number(line, "file_location_id"), 0), _number(line, "parent_frame_id") - 1)
        for number, line in tables["StackFrames"].items()
    }
    found, folder = {}, f"{callers}/"
    for number in frames:
        chain = [one for one in _places(number, frames, names) if one]
        if chain:
            calling = itertools.takewhile(lambda one: one.startswith(folder), chain)
            found[number] = [chain[0], *calling][-1]
    return found


def file_of(attributes: str, known: dict[int, str]) -> str:
    """Name the file that an instruction comes from, by its attributes; "" where that is not known."""
    found = _FRAME.search(attributes)
    return known.get(int(found[1]), "") if found else ""


def _places(number: int, frames: Frames, names: dict[int, str]) -> Iterator[str]:
    """Yield the files from a frame outwards; "" for those of another package."""
    seen: set[int] = set()
    while number in frames and number not in seen:
        seen.add(number)
        place, number = frames[number]
        yield names.get(place, "")


def _read(text: str) -> dict[str, dict[int, str]]:
    tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    current = None
    for line in text.splitlines():
        if line in tables:
            current = tables[line]
        elif line.startswith(("%", "ENTRY")):
            break  # the tables come before the first computation
        elif current is not None and (found := re.match(r"(\d+) (.*)", line)):
            current[int(found[1])] = found[2]
    return tables


def _number(line: str, key: str) -> int:
    found = re.search(rf"\b{key}=(\d+)", line)
    return int(found[1]) if found else 0


def _within(path: str) -> str:
    """ "…/mapjax/ops/nms.py" → "ops/nms"; "" for a file of another package.

    A clone may be called mapjax too, and hold scripts and an environment: only files that the package has count.
    """
    rest = path.rpartition(f"/{PACKAGE.name}/")[2]
    return rest.removesuffix(".py") if rest != path and (PACKAGE / rest).is_file() else ""
