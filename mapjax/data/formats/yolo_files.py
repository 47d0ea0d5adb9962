"""The folders of YOLO data sets: `data.yaml`, or `images/` and `labels/` alone; which images a split has, and where the
labels of each are."""

import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mapjax.data import lookup, recognition
from mapjax.data.formats import yolo_yaml
from mapjax.data.formats.yolo_yaml import Layout
from mapjax.errors import UserError
from mapjax.runtime.names import read_list, shown

FORM = "--data yolo:DIR needs a folder with data.yaml, or with images/ and labels/"
_YAML = (".yaml", ".yml")
_CLASSES = ("classes.txt", "labels/classes.txt", "obj.names")


class Images(NamedTuple):
    """The images of a split: paths below the root; and what is left out of it, by reason."""

    files: list[str]
    dropped: dict[str, list[str]]


def find(path: str) -> Layout:
    """Find what a folder, or a data.yaml, says of a data set.

    Raises:
      UserError: neither is there, or what is written cannot be.
    """
    place = pathlib.Path(path)
    if place.is_file():
        return yolo_yaml.read(place)
    if not place.is_dir():
        raise UserError(f"{path} is not there; {FORM}.")
    files = sorted(entry for entry in place.iterdir() if entry.suffix.lower() in _YAML)
    named = [file for file in files if file.stem.lower() == "data"] or files
    if len(named) > 1:
        listed = ", ".join(shown(file.name) for file in named[:5])
        raise UserError(f"{path} has {listed}; name the one that describes the data: --data yolo:{named[0]}.")
    return yolo_yaml.read(named[0]) if named else _bare(place)


def images_of(layout: Layout, split: str) -> Images:
    """List the images of a split, each once; those of folders sorted, with all folders below.

    Raises:
      UserError: an entry that is not there or leaves the data folder, or a list that is no text.
    """
    found: list[str] = []
    dropped: dict[str, list[str]] = {}
    for entry in layout.splits[split]:
        place = _entry(layout, split, entry)
        if (layout.root / place).is_dir():
            some, unread = recognition.in_folder(layout.root, list(_below(layout.root, place)))
            lost = unread | {"label file without an image": _orphans(layout.root, place, some)}
        else:
            some, lost = _listed(layout.root, place)
        found += some
        for reason, names in lost.items():
            dropped[reason] = dropped.get(reason, []) + names
    once = list(dict.fromkeys(found))
    if len(once) < len(found):
        seen = set[str]()
        dropped["image listed twice"] = [name for name in found if name in seen or seen.add(name)]
    return Images(once, {reason: names for reason, names in dropped.items() if names})


def label_files(root: pathlib.Path, image: str) -> list[str]:
    """Return where the labels of an image may be, the first that is there holds: labels/ for the last images/, beside.

    Example:
      >>> import pathlib
      >>> from mapjax.data.formats import yolo_files
      >>> yolo_files.label_files(pathlib.Path("x"), "train/images/a.jpg")
      ['train/labels/a.txt', 'train/images/a.txt']
    """
    stem = os.path.splitext(image)[0] + ".txt"
    other = _labels_of(os.path.dirname(image))
    beside = [] if other is None else [f"{other}/{os.path.basename(stem)}"]
    return [*beside, stem]


def _labels_of(folder: str) -> str | None:
    """Return the folder of labels that goes with one of images; None where no part of its path is called images."""
    parts = folder.split("/")
    last = next((n for n in range(len(parts) - 1, -1, -1) if parts[n].casefold() == "images"), None)
    return None if last is None else "/".join([*parts[:last], "labels", *parts[last + 1 :]])


def _bare(root: pathlib.Path) -> Layout:
    """Find images/ and labels/ without a data.yaml: images/train, train/images or images alone."""
    inner = [f"{name}/images" for name in _folders(root) if (root / name / "images").is_dir()]
    if (root / "images").is_dir():
        below = [name for name in _folders(root / "images") if yolo_yaml.is_split(name)]
        found = {name: [f"images/{name}"] for name in below} or {"train": ["images"]}
    else:
        found = {place.split("/")[0]: [place] for place in inner if (root / str(_labels_of(place))).is_dir()}
    if not found or not ((root / "labels").is_dir() or "/images" in next(iter(found.values()))[0]):
        raise UserError(f"{root} is no YOLO data set: {FORM}.")
    named = next((root / name for name in _CLASSES if (root / name).is_file()), None)
    return Layout(root, str(root), found, None if named is None else yolo_yaml.names_in(named))


def _entry(layout: Layout, split: str, entry: str) -> str:
    """Return where an entry is, below the root: as written, or any end of its path, as of what was moved."""
    found = next((way for way in _ways(layout.root, "", entry) if os.path.exists(layout.root / way)), None)
    if found is not None:
        return found
    if os.path.exists(layout.root / entry):
        raise UserError(
            f"{layout.where}: {split}: {entry!r} leaves the data folder {layout.root}; set path: above both."
        )
    hint = lookup.Files(layout.root, ()).hint(entry) if entry.endswith(".txt") else ""
    raise UserError(f"{layout.where}: {split}: {entry!r} is not there, below {layout.root}{hint}; correct it, or path.")


def _ways(root: pathlib.Path, folder: str, written: str) -> Iterator[str]:
    """Yield the paths below the root that one may mean that is written in a folder of it; nothing above the root."""
    path = written.strip().replace("\\", "/")
    whole = os.path.normpath(path if os.path.isabs(path) else os.path.join(root, folder, path))
    top = os.path.normpath(root)
    if whole == top or whole.startswith(top.rstrip("/") + "/"):
        yield os.path.relpath(whole, top).replace(os.sep, "/")
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    yield from ("/".join(parts[start:]) for start in range(len(parts)))


def _listed(root: pathlib.Path, place: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the images of a list of files, and those that are not there, or leave the root."""
    try:
        lines = [line.strip() for line in read_list(root / place).split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{root / place} cannot be read as text ({error}); write the path of an image a line."
        ) from error
    files, folder = lookup.Files(root), os.path.dirname(place)
    found: list[str] = []
    missing: list[str] = []
    strays: list[str] = []
    for line in lines:
        ways = (files.find(way) for way in _ways(root, folder, line) if "\0" not in way)
        one = next((way for way in ways if way is not None), None)
        if one is not None:
            found.append(os.path.normpath(one))
        elif "\0" not in line and os.path.isfile(os.path.join(root, folder, line)):
            strays.append(line)
        else:
            missing.append(line + ("" if missing else files.hint(line)))
    if lines and not found:
        wrong = "leaves the data folder" if strays else "is there"
        one = (strays or missing)[0]
        none = "" if strays else "none of "
        raise UserError(
            f"{root / place}: {none}its {len(lines)} images, such as {shown(one)!r}, {wrong} {root}; write their paths "
            "relative to it."
        )
    return found, {"missing image": missing, "image name that leaves the data folder": strays}


def _orphans(root: pathlib.Path, place: str, images: Iterable[str]) -> list[str]:
    """Return the label files of a folder of images that no image has."""
    folder = _labels_of(place)
    if folder is None:
        return []
    known = {label_files(root, image)[0] for image in images}
    texts = (name for name in _below(root, folder) if name.endswith(".txt"))
    return [name for name in texts if name not in known and os.path.basename(name) != "classes.txt"]


def _below(root: pathlib.Path, place: str) -> Iterator[str]:
    """Yield the paths, below the root, of all files of a folder and of those in it, but hidden ones."""
    for folder, folders, names in os.walk(root / place):
        folders.sort()
        below = pathlib.PurePath(folder).relative_to(root)
        yield from ((below / name).as_posix() for name in sorted(names) if name[0] != ".")


def _folders(place: pathlib.Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir())
