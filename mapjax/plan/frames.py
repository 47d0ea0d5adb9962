"""From which file of the source each instruction of a compiled program comes, by the tables in the program's text."""

import re

PACKAGE = "mapjax"

_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_FRAME = re.compile(r"\bstack_frame_id=(\d+)")


def files(text: str, package: str = PACKAGE) -> dict[int, str]:
    """Name, for each stack frame, the innermost file of the package: 12 → "ops/nms". {} where the text has no tables.

    Frames that never pass through the package are left out.
    """
    tables = _read(text)
    names = {number: line.strip('"') for number, line in tables["FileNames"].items()}
    places = {number: _number(line, "file_name_id") for number, line in tables["FileLocations"].items()}
    frames = {
        number: (places.get(_number(line, "file_location_id"), 0), _number(line, "parent_frame_id") - 1)
        for number, line in tables["StackFrames"].items()
    }
    found = {}
    for number in frames:
        seen, current = set(), number
        while current in frames and current not in seen:
            seen.add(current)
            place, parent = frames[current]
            within = _within(names.get(place, ""), package)
            if within:
                found[number] = within
                break
            current = parent
    return found


def file_of(attributes: str, known: dict[int, str]) -> str:
    """Name the file that an instruction comes from, by its attributes; "" where that is not known."""
    found = _FRAME.search(attributes)
    return known.get(int(found[1]), "") if found else ""


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


def _within(path: str, package: str) -> str:
    """ "…/mapjax/ops/nms.py" → "ops/nms"; "" for a file of another package."""
    before, mark, rest = path.rpartition(f"/{package}/")
    return rest.removesuffix(".py") if mark or before else ""
