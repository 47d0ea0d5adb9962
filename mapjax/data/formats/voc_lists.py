"""The lists of images of a Pascal VOC folder, `ImageSets/*/*.txt`, and its files."""

import collections
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence

from mapjax.data import images, lookup, recognition
from mapjax.errors import UserError
from mapjax.runtime.names import read_list


def read(folder: pathlib.Path, annotated: Sequence[str]) -> dict[str, list[str]]:
    """Read the lists of a folder, except those per class ("cat_train": name and -1, 0 or 1).

    A line is the name of an image, or its path, with or without an extension; more columns may follow.

    Args:
      folder: of the lists.
      annotated: the images that have an annotation, by their paths below its folder without extension.

    Returns:
      The images of each split, as often as they are listed; where there is no list, all that are `annotated` are
      "train".

    Raises:
      UserError: a list that is no text.
    """
    known = _by_name(annotated) | {stem: stem for stem in annotated}
    names = lookup.Names(known)
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.txt")):
        try:
            lines = [line.strip() for line in read_list(file).split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as text ({error}); write one image name a line.") from error
        ends = {line.rsplit(maxsplit=1)[-1] for line in lines}
        if "_" in file.stem and lines and ends <= {"-1", "0", "1"} and not known.keys() >= set(lines):
            continue
        found[file.stem] = [_stem(line, names, known) for line in lines]
    if set(found) == {"default"}:  # as CVAT calls its only list
        found["train"] = found["default"]
    return found or {"train": list(annotated)}


def once(listed: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return each image of a list once, and those that it has again, by the reason to leave them out."""
    seen = set[str]()
    again = [stem for stem in listed if stem in seen or seen.add(stem)]
    return list(dict.fromkeys(listed)), {"image listed twice": again} if again else {}


def files(root: pathlib.Path, folder: str, extensions: tuple[str, ...]) -> dict[str, str]:
    """List the files of a folder and of those in it, by their paths below it without extension."""
    return {os.path.splitext(path)[0]: path for path in _below(root / folder) if path.lower().endswith(extensions)}


def image_files(root: pathlib.Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """List the images likewise, and those that no decoder here reads, by reason."""
    folder = root / "JPEGImages"
    found, unread = recognition.in_folder(folder, list(_below(folder)))
    return {os.path.splitext(path)[0]: path for path in found}, unread


def _below(folder: pathlib.Path) -> Iterator[str]:
    """Yield the paths of all files of a folder and of those in it, but hidden ones."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        below = pathlib.PurePath(place).relative_to(folder)
        yield from ((below / name).as_posix() for name in sorted(names) if name[0] != ".")


def counterparts(stems: Collection[str], others: Mapping[str, str]) -> dict[str, str]:
    """Find the file that goes with each stem: of the same path below its own folder, else the only one of its name."""
    by_name = _by_name(others)
    found = {stem: stem if stem in others else by_name.get(_name(stem)) for stem in (*others, *stems)}
    return {stem: others[other] for stem, other in found.items() if other is not None}


def _by_name(stems: Collection[str]) -> dict[str, str]:
    """Return the stem of each name that only one has."""
    counts = collections.Counter(map(_name, stems))
    return {_name(stem): stem for stem in stems if counts[_name(stem)] == 1}


def _name(stem: str) -> str:
    return stem.rsplit("/", 1)[-1]


def _stem(line: str, names: lookup.Names, known: Mapping[str, str]) -> str:
    """Return the stem that a line means, by any end of a path and with or without the extension; `known` by name."""
    first = line.split()[0]
    for spelling in (line, first):
        path = spelling.replace("\\", "/")
        stem = os.path.splitext(path)[0] if path.lower().endswith((*images.EXTENSIONS, ".xml")) else path
        for one in (path, stem):
            parts = one.split("/")
            for start in range(len(parts)):
                if (found := names.find("/".join(parts[start:]))) is not None:
                    return known[found]
    return first
