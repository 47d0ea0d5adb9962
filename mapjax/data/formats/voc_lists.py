"""The lists of images of a Pascal VOC folder, `ImageSets/*/*.txt`, and its files."""

import os
import pathlib
from collections.abc import Sequence

from mapjax.data import images, lookup, recognition
from mapjax.errors import UserError
from mapjax.runtime.names import read_list


def read(folder: pathlib.Path, annotated: Sequence[str]) -> dict[str, list[str]]:
    """Read the lists of a folder, except those per class ("cat_train": name and -1, 0 or 1).

    Returns:
      The images of each split; all that are `annotated` are "train" where there is no list.

    Raises:
      UserError: a list that is no text.
    """
    known = set(annotated)
    names = lookup.Names(known)
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.txt")):
        try:
            lines = [line.strip() for line in read_list(file).split("\n") if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as text ({error}); write one image name a line.") from error
        ends = {line.rsplit(maxsplit=1)[-1] for line in lines}
        if "_" in file.stem and lines and ends <= {"-1", "0", "1"} and not known.issuperset(lines):
            continue
        found[file.stem] = list(dict.fromkeys(_stem(line, names) for line in lines))
    if set(found) == {"default"}:  # as CVAT calls its only list
        found["train"] = found["default"]
    return found or {"train": list(annotated)}


def masks(folder: pathlib.Path) -> dict[str, str]:
    """List the PNGs of a folder by their names without extension."""
    names = sorted(entry.name for entry in os.scandir(folder))
    return {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(".png")}


def image_files(root: pathlib.Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """List the images by their names without extension, and those that no decoder here reads, by reason."""
    folder = root / "JPEGImages"
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.is_dir())
    found, unread = recognition.in_folder(folder, names)
    return {os.path.splitext(name)[0]: name for name in found}, unread


def _stem(line: str, names: lookup.Names) -> str:
    """The image a line means: its name, or its name with an extension or with more columns behind it."""
    stem = os.path.splitext(line)[0] if line.lower().endswith(images.EXTENSIONS) else line
    found = (names.find(one) for one in (line, stem, line.split()[0]))
    return next(filter(None, found), line.split()[0])
