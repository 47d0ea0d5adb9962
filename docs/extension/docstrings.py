"""A Sphinx extension: mapjax's docstrings as reStructuredText.

They are plain text with sections (Args, Returns, Raises, Example), and names in `backticks`. Nothing in them is markup,
so all else is escaped.
"""

import re
import textwrap
from collections.abc import Iterator
from typing import Any

SECTIONS = {"Args": "Arguments", "Raises": "Raises", "Returns": "Returns", "Yields": "Yields", "Example": "Example"}
HEADING = re.compile(r"(Args|Raises|Returns|Yields|Example):\s*$")
ENTRY = re.compile(r"([*\w][\w*, .]*(?:\([^)]*\))?(?: -> [^:;]+)?): (.*)")
FIELD = re.compile(r"([a-z]\w*(?:, \w+)*|[a-z]\w*\([^)]*\))(: | (?=-> ))(.*)")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace the lines of a docstring by reStructuredText."""
    del app, name, obj, options
    lines[:] = list(render("\n".join(lines), fields=what == "class"))


def render(text: str, *, fields: bool) -> Iterator[str]:
    """Write a docstring as reStructuredText.

    Args:
      text: without its own indentation.
      fields: lines "name: meaning" are those of a class.
    """
    free: list[str] = []
    lines = text.splitlines()
    while lines:
        line = lines.pop(0)
        found = HEADING.match(line)
        if not found:
            free.append(line)
            continue
        yield from prose(free, fields)
        free, inside = [], []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            inside.append(lines.pop(0))
        yield from section(found[1], textwrap.dedent("\n".join(inside)).strip("\n").splitlines())
    yield from prose(free, fields)


def section(kind: str, lines: list[str]) -> Iterator[str]:
    """Write a section as a field of a field list."""
    yield ""
    yield f":{SECTIONS[kind]}:"
    if kind == "Example":
        yield f"   .. code-block:: {'pycon' if lines and lines[0].startswith('>>>') else 'python'}"
        yield ""
        yield from (f"      {line}" for line in lines)
    else:
        for first, more in blocks(lines):
            entry = " ".join([first, *map(str.strip, more)])
            found = ENTRY.match(entry) if kind in ("Args", "Raises") else None
            said = f"**{escape(found[1], names=True)}**: {escape(found[2])}" if found else escape(entry)
            yield f"   * {said}"
    yield ""


def prose(lines: list[str], fields: bool) -> Iterator[str]:
    """Write what is outside sections: paragraphs; fields of a class as a list; what is indented as it stands."""
    listing = False
    for first, more in blocks(lines):
        found = FIELD.match(first) if fields else None
        if found:
            if not listing:
                yield ""
            listing = True
            said = escape(" ".join([found[3], *map(str.strip, more)]))
            yield f"* **{escape(found[1], names=True)}**{found[2]}{said}"
            continue
        if listing:
            yield ""
        listing = False
        yield escape(first)
        if more:
            yield ""
            yield ".. code-block:: text"
            yield ""
            yield from (f"   {line}" for line in textwrap.dedent("\n".join(more)).splitlines())
            yield ""
    yield ""


def blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Give each line at the margin with the indented lines below it."""
    first: str | None = None
    more: list[str] = []
    for line in lines:
        if first is not None and line.startswith("  "):
            more.append(line)
            continue
        if first is not None:
            yield first, more
        first, more = line.strip(), []
    if first is not None:
        yield first, more


def escape(text: str, *, names: bool = False) -> str:
    """Escape markup; names in backticks become literals."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        f"`{part}`" if part.startswith("`") and not names else re.sub(r"([\\*|`_])", r"\\\1", part) for part in parts
    )
