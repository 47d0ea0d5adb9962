"""The formats of data that there are: the modules of data/formats/ with a function `make`, found by their files.

None is imported. A format says for people what it is called by, and in brackets what it holds, in
`ABOUT = "voc:DIR (boxes or label maps)"`; `EMBEDDED = True` is one that needs no path.
"""

import ast
import functools
import pathlib
from typing import NamedTuple

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "formats"


# What a folder of a format has in it, in the order in which they are told apart; upper and lower case count.
SIGNS = (
    ("yolo", ("data.yaml",)),
    ("yolo", ("images", "labels")),
    ("voc", ("Annotations", "JPEGImages")),
    ("coco", ("annotations",)),
    ("masks", ("images", "masks")),
    ("array_record", ("index.json",)),
)


class Format(NamedTuple):
    """What a format says of itself."""

    about: str
    embedded: bool


@functools.cache
def known(folder: pathlib.Path = FOLDER) -> dict[str, Format]:
    """Find the formats in a folder of modules, by name: first those that need no path."""
    found = {file.stem: _read(file) for file in sorted(folder.glob("*.py"))}
    formats = {name: one for name, one in found.items() if one is not None}
    return dict(sorted(formats.items(), key=lambda item: not item[1].embedded))


def is_embedded(name: str) -> bool:
    """Tell whether a format needs no path."""
    return name in known() and known()[name].embedded


def likely(place: pathlib.Path) -> str | None:
    """Return the format that a folder seems to be of, by what it has in it, or a file; None where nothing tells.

    Example:
      >>> import pathlib
      >>> from mapjax.config import formats
      >>> formats.likely(pathlib.Path("somewhere/data.yaml")), formats.likely(pathlib.Path("nowhere"))
      ('yolo', None)
    """
    if place.suffix in (".yaml", ".yml"):
        return "yolo"
    return next((name for name, signs in SIGNS if all((place / sign).exists() for sign in signs)), None)


def _read(file: pathlib.Path) -> Format | None:
    """Read what a module says of itself; None for one that is no format."""
    constants: dict[str, object] = {}
    makes = False
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            makes |= node.name == "make"
        elif isinstance(node, ast.ImportFrom):
            makes |= any((alias.asname or alias.name) == "make" for alias in node.names)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            constants |= {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
    if not makes:
        return None
    return Format(str(constants.get("ABOUT", f"{file.stem}:PATH")), bool(constants.get("EMBEDDED", False)))
