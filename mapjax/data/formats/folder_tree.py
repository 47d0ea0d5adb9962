"""The files below a folder, or in an archive, as names; links are followed."""

import collections
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mapjax.data import headers, recognition
from mapjax.data.formats import archive, folder_layout
from mapjax.data.labelled import ImageAccess
from mapjax.errors import UserError
from mapjax.runtime.names import shown

_MOST_VISITS = 100  # times that links may lead to one folder


class Tree(NamedTuple):
    """What a folder or an archive holds, below the folder around everything.

    image_files: their names, sorted.
    others: of other files, each with the reason why it is none (recognition.py).
    folders: of folders, maybe only the empty ones.
    beside: of images beside the folder around everything.
    closed: of folders that cannot be read.
    images: positions in `image_files` → the images.
    sizes: bytes of each as stored; empty where they are not known.
    real: of each image the file that links lead to; empty where there are no links.
    """

    image_files: list[str]
    others: dict[str, str]
    folders: list[str]
    beside: list[str]
    closed: list[str]
    images: Callable[[np.ndarray], ImageAccess]
    sizes: np.ndarray
    real: list[str]


class Paths(Sequence[str]):
    """Paths of files below a folder."""

    def __init__(self, root: str, files: Sequence[str]):
        """Take the folder, and the files' names relative to it."""
        self.root, self.files = root, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return os.path.join(self.root, self.files[index])


def read(path: str, labelled: bool, classes: Collection[str]) -> Tree:
    """List a folder or an archive; no image is opened.

    Args:
      path: of it.
      labelled, classes: as for `folder_layout.around`.

    Raises:
      UserError: it is not there, cannot be read, or has folders of splits in several places.
    """
    where, real, closed = f"folder:{path}", {}, []
    if pathlib.Path(path).is_file():
        listing = archive.read_listing(path)
        files, folders = listing.files, list(_visible(listing.folders))
        places = {name: row for row, name in enumerate(files)}
        begin = lambda name: listing.members.begin(places[name], headers.BEGIN)  # noqa: E731
    else:
        listing = None
        files, folders, real, closed = _walk(path)
        begin = recognition.of_folder(path)
    rows = [row for row, name in enumerate(files) if _is_visible(name)]
    names = [files[row] for row in rows]
    passed = recognition.others(names, begin)
    around = folder_layout.around([name for name in names if name not in passed], where, labelled, classes)
    shown_rows = [row for row, name in zip(rows, names) if name.startswith(around) and name not in passed]
    image_files = [files[row][len(around) :] for row in shown_rows]
    beside = [name for name in names if not name.startswith(around) and name not in passed]
    others = {name[len(around) :]: reason for name, reason in passed.items() if name.startswith(around)}
    folders = folder_layout.inside(folders, around)
    if listing is not None:
        members = listing.members.take(np.array(shown_rows, np.int64))
        starts = members.starts.tolist()
        real = [f"{path} at {start}" for start in starts] if len(set(starts)) < len(starts) else []
        return Tree(image_files, others, folders, beside, [], members.take, members.sizes, real)
    top = os.path.join(path, around.rstrip("/")) if around else path
    root = os.path.realpath(path)
    targets = [real.get(files[row]) or os.path.join(root, files[row]) for row in shown_rows] if real else []
    return Tree(
        image_files,
        others,
        folders,
        beside,
        closed,
        lambda rows: Paths(top, [image_files[row] for row in rows]),
        np.zeros(0, np.int64),
        targets,
    )


def _walk(path: str) -> tuple[list[str], list[str], dict[str, str], list[str]]:
    """List the files and the folders below a folder, sorted; where those are that links lead to; what is closed.

    A link back to a folder that it lies in would never end and is passed over; a folder that is found several times is
    there several times.
    """
    if not os.path.isdir(path):
        raise UserError(f"{path} is not there: --data folder:PATH needs a folder of images by class, or an archive.")
    files, folders, real, closed = list[str](), list[str](), dict[str, str](), list[str]()
    visits: dict[tuple[int, int], int] = collections.Counter()
    waiting: list[tuple[str, str, frozenset[tuple[int, int]]]] = [("", "", frozenset())]
    while waiting:
        below, target, above = waiting.pop()
        place = os.path.join(path, below)
        try:
            entries, identity = list(os.scandir(place)), _identity(place)
        except OSError:
            closed.append(below or path)
            continue
        above |= {identity}
        visits[identity] += 1
        if visits[identity] > _MOST_VISITS:
            raise UserError(f"{shown(place)}: links lead to this folder more than {_MOST_VISITS} times; remove some.")
        for entry in entries:
            name = below + entry.name
            leads = os.path.realpath(entry.path) if entry.is_symlink() else f"{target}/{entry.name}" if target else ""
            if not os.path.isdir(entry.path) if entry.is_symlink() else not entry.is_dir():
                files.append(name)
                real |= {name: leads} if leads else {}
            elif not entry.name.startswith(".") and not (entry.is_symlink() and _identity(entry.path) in above):
                folders.append(name)
                waiting.append((f"{name}/", leads, above))
    return sorted(files), sorted(folders), real, closed


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_visible(name: str) -> bool:
    return not (name.startswith((".", "__MACOSX")) or "/." in name)


def _visible(names: Iterable[str]) -> Iterable[str]:
    return filter(_is_visible, names)
