"""Folders of images by class: `DIR/train/CLASS/*.jpg` with `DIR/val`, `DIR/test`, or `DIR/CLASS/*.jpg`.

A `.zip` or an uncompressed `.tar` of such a folder is read in place. A single folder around everything is looked
through; folders below that of a class belong to it. Names that begin with a dot are passed over. For a task that learns
from the images alone they may lie in `DIR` itself, or anywhere below it or its folders of splits.
"""

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mapjax.data import images, labelled, splits
from mapjax.data.formats import archive
from mapjax.data.labelled import ImageAccess
from mapjax.data.source import Source
from mapjax.errors import UserError

ABOUT = "folder:DIR_OR_ZIP (labels)"

_FORM = "it needs DIR/train/CLASS/*.jpg or DIR/CLASS/*.jpg"


class _Tree(NamedTuple):
    """What a folder or an archive holds, below the one folder around everything.

    images: names of the image files, sorted.
    others: of other files.
    folders: of folders, maybe only the empty ones.
    images: positions in `images` → the images.
    sizes: bytes of each as stored; empty where they are not known.
    """

    image_files: list[str]
    others: list[str]
    folders: list[str]
    images: Callable[[np.ndarray], ImageAccess]
    sizes: np.ndarray


class Paths(Sequence[str]):
    """Paths of files below a folder."""

    def __init__(self, root: str, files: Sequence[str]):
        """Take the folder, and the files' names relative to it."""
        self.root, self.files = root, files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return os.path.join(self.root, self.files[index])


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    classes: str | Sequence[str] | None = None,
    hold_out: float | int = 0.1,
    needs: str = "label",
) -> Source:
    """Read one split of a folder or an archive of images by class; no image is opened.

    Counted in `dropped`: files that are no images, images outside a class folder, empty class folders.

    Args:
      split: a folder's name; "val" is held out of "train" where there is none. Without folders of splits, all is
        "train".
      seed: of the held-out part.
      path: the folder or archive.
      classes: their names in order, for all class folders of the training split; by default these, sorted.
      hold_out: share of each class of "train" that becomes "val" if there is no such folder; 0 for none.
      needs: what the task learns from; with "" records have no label, and the images may lie anywhere in the split.

    Raises:
      UserError: nothing there, no class folders, no such split, or a class that training has no images of.

    Example:
      >>> import pathlib, tempfile
      >>> import cv2, numpy as np
      >>> from mapjax.data.formats import folder
      >>> with tempfile.TemporaryDirectory() as path:
      ...     for name in ("cat", "dog"):
      ...         (pathlib.Path(path) / "train" / name).mkdir(parents=True)
      ...         _ = cv2.imwrite(f"{path}/train/{name}/1.png", np.zeros((4, 6, 3), np.uint8))
      ...     folder.make(split="train", path=path, hold_out=0).classes
      ('cat', 'dog')
    """
    where = f"folder:{path}"
    tree = _read_archive(path) if pathlib.Path(path).is_file() else _read_folder(path)
    if not needs:
        return _without_labels(tree, split, seed, where, hold_out)
    prefixes = _prefixes(tree, where)
    found, part = splits.locate(split, prefixes, where, hold_out)
    mine = _below(tree, prefixes[found])
    trained = mine if (train := splits.find("train", prefixes)) in (None, found) else _below(tree, prefixes[train])
    if not trained.rows:
        raise UserError(f"{where} has no images in class folders; {_FORM}.")
    names = labelled.choose_classes(trained.classes, classes, where)
    labelled.require_trained(mine.classes, names, where, found)
    numbers = np.array([names.index(name) for name in mine.classes], np.int32)
    labels = numbers[np.array(mine.codes, np.int64)]
    kept = labelled.rows_of(part, [tree.image_files[row] for row in mine.rows], labels, seed, hold_out)
    rows = np.array(mine.rows, np.int64)[kept]
    return _source(tree, rows, labels[kept], where=where, split=split, classes=names, dropped=mine.dropped)


def _without_labels(tree: _Tree, split: str, seed: int, where: str, hold_out: float | int) -> Source:
    """Open all images of a split, whatever folders they are in."""
    tops = {name.partition("/")[0] for name in tree.image_files if "/" in name}
    prefixes = {top: f"{top}/" for top in tops} if any(map(_is_split, tops)) else {"train": ""}
    found, part = splits.locate(split, prefixes, where, hold_out)
    prefix = prefixes[found]
    rows = np.array([row for row, name in enumerate(tree.image_files) if name.startswith(prefix)], np.int64)
    files = [tree.image_files[row] for row in rows]
    kept = rows[labelled.rows_of(part, files, np.zeros(len(files), np.int32), seed, hold_out)]
    dropped = {"not an image file": [name for name in tree.others if name.startswith(prefix)]}
    return _source(tree, kept, None, where=where, split=split, classes=(), dropped=dropped)


def _source(
    tree: _Tree,
    rows: np.ndarray,
    labels: np.ndarray | None,
    *,
    where: str,
    split: str,
    classes: Sequence[str],
    dropped: dict[str, list[str]],
) -> Source:
    """Make the source of some of a tree's images."""
    files = [tree.image_files[row] for row in rows]
    content = (tree.sizes[rows] if len(tree.sizes) else tree.sizes).tobytes()
    return labelled.make_source(
        where, split, classes, files, labels, tree.images(rows), dropped=dropped, content=content
    )


def _read_folder(path: str) -> _Tree:
    root = pathlib.Path(path)
    if not root.is_dir():
        raise UserError(f"{path} is not there: --data folder:PATH needs a folder of images by class, or an archive.")
    files, folders, seen = [], [], set()
    for place, inner, names in os.walk(root, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link back up, which would never end
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = "" if place == str(root) else os.path.relpath(place, root).replace(os.sep, "/") + "/"
        folders += [below + name for name in inner]
        files += [below + name for name in names]
    around = _around(files := sorted(_visible(files)), folders)
    files, folders = _inside(files, around), _inside(sorted(folders), around)
    image_files, others = _image_files(files)
    top = str(root / around)
    return _Tree(
        [files[row] for row in image_files],
        others,
        folders,
        lambda rows: Paths(top, [files[image_files[row]] for row in rows]),
        np.zeros(0, np.int64),
    )


def _read_archive(path: str) -> _Tree:
    listing = archive.read_listing(path)
    folders = list(_visible(listing.folders))
    around = _around(list(_visible(listing.files)), folders)
    shown = [row for row, name in enumerate(listing.files) if _is_visible(name) and name.startswith(around)]
    files, folders = _inside([listing.files[row] for row in shown], around), _inside(folders, around)
    image_files, others = _image_files(files)
    members = listing.members.take(np.array(shown, np.int64)[image_files])
    return _Tree([files[row] for row in image_files], others, folders, members.take, members.sizes)


def _is_visible(name: str) -> bool:
    return not (name.startswith((".", "__MACOSX")) or "/." in name)


def _visible(names: Iterable[str]) -> Iterable[str]:
    return filter(_is_visible, names)


def _shows(name: str) -> bool:
    return name.lower().endswith(images.EXTENSIONS)


def _inside(names: Iterable[str], around: str) -> list[str]:
    """Names as seen from within a folder, of what is in it."""
    return [name[len(around) :] for name in names if name.startswith(around) and len(name) > len(around)]


def _image_files(files: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the positions of the image files, and the other files."""
    are = [_shows(name) for name in files]
    return [row for row, yes in enumerate(are) if yes], [name for name, yes in zip(files, are) if not yes]


def _around(files: Sequence[str], folders: Sequence[str]) -> str:
    """Return the path of the folders around everything, "" for none; files beside them that are no images are passed.

    So a data set stays one whose author put a LICENSE beside its only folder.
    """
    around = ""
    while True:
        inner, places = _inside(files, around), _inside(folders, around)
        counted = [*places, *(name for name in inner if "/" in name or _shows(name))]
        tops = {name.partition("/")[0] for name in counted}
        top = next(iter(tops), "")
        below = _inside(inner, f"{top}/")
        direct = any("/" not in name and _shows(name) for name in below)
        if len(tops) != 1 or _is_split(top) or direct or not any("/" in name for name in below):
            return around
        around += f"{top}/"


def _prefixes(tree: _Tree, where: str) -> dict[str, str]:
    """Return what the names of each split begin with; all is "train" where no folder is that of a split."""
    direct, nested = set[str](), set[str]()
    for name in tree.image_files:
        top, _, rest = name.partition("/")
        if rest:
            (nested if "/" in rest else direct).add(top)
    if any(map(_is_split, nested)):
        return {name: f"{name}/" for name in nested}
    if direct and all(map(_is_split, direct)):
        raise UserError(f"{where} has images in {', '.join(sorted(direct))} but no class folders there; {_FORM}.")
    return {"train": ""}


def _is_split(name: str) -> bool:
    return any(splits.find(split, (name,)) for split in ("train", "val", "test"))


class _Split(NamedTuple):
    """The images of one split: rows of the tree, the class of each as a position in `classes`; what was left out."""

    rows: list[int]
    codes: list[int]
    classes: list[str]
    dropped: dict[str, list[str]]


def _below(tree: _Tree, prefix: str) -> _Split:
    """Sort out the images whose names begin with `prefix`; the next folder is their class."""
    rows, codes, outside = [], [], []
    numbers: dict[str, int] = {}
    for row, name in enumerate(tree.image_files):
        if name.startswith(prefix):
            top, slash, _ = name[len(prefix) :].partition("/")
            if slash:
                rows.append(row)
                codes.append(numbers.setdefault(top, len(numbers)))
            else:
                outside.append(name)
    folders = [name for name in tree.folders if name.startswith(prefix) and len(name) > len(prefix)]
    others = [name for name in tree.others if name.startswith(prefix) and "/" in name[len(prefix) :]]
    empty = {name[len(prefix) :].partition("/")[0] for name in (*folders, *others)}.difference(numbers)
    dropped = {
        "empty class folder": [prefix + name for name in sorted(empty)],
        "image outside a class folder": outside,
        "not an image file": others,
    }
    return _Split(rows, codes, list(numbers), dropped)
