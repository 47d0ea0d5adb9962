"""The lists of images of a Pascal VOC folder, `ImageSets/*/*.txt`, and its files."""

import os
import pathlib
from collections.abc import Sequence

from mapjax.data import images
from mapjax.errors import UserError


def read(folder: pathlib.Path, annotated: Sequence[str]) -> dict[str, list[str]]:
    """Read the lists of a folder, except those per class ("cat_train": name and -1, 0 or 1).

    Returns:
      The images of each split; all that are `annotated` are "train" where there is no list.

    Raises:
      UserError: a list that is no text.
    """
    known = set(annotated)
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.txt")):
        try:
            lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as text ({error}); write one image name a line.") from error
        ends = {line.rsplit(maxsplit=1)[-1] for line in lines}
        if "_" in file.stem and lines and ends <= {"-1", "0", "1"} and not known.issuperset(lines):
            continue
        found[file.stem] = list(dict.fromkeys(_stem(line, known) for line in lines))
    if set(found) == {"default"}:  # as CVAT calls its only list
        found["train"] = found["default"]
    return found or {"train": list(annotated)}


def files(root: pathlib.Path, folder: str, extensions: tuple[str, ...]) -> dict[str, str]:
    """List the files of a folder by their names without extension."""
    names = sorted(entry.name for entry in os.scandir(root / folder))
    return {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(extensions)}


def _stem(line: str, known: set[str]) -> str:
    """The image a line means: its name, or its name with an extension or with more columns behind it."""
    if line in known:
        return line
    stem = os.path.splitext(line)[0] if line.lower().endswith(images.EXTENSIONS) else line
    return stem if stem in known else line.split()[0]
