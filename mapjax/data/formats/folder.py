"""Folders of images by class: `DIR/train/CLASS/*.jpg` with `DIR/val`, `DIR/test`, or `DIR/CLASS/*.jpg`.

The folders of splits may be called in any way that mapjax.data.splits knows. A `.zip` or uncompressed `.tar` of such a
folder is read in place. A single folder around everything is looked through; folders below that of a class belong to
it. Names that begin with a dot are passed over, and links are followed. For a task that learns from the images alone
they may lie in `DIR` itself, or anywhere below it or its folders of splits.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mapjax.data import labelled, recognition, splits
from mapjax.data.formats import folder_layout, folder_tree
from mapjax.data.formats.folder_tree import Tree
from mapjax.data.source import Source
from mapjax.errors import UserError

ABOUT = "folder:DIR_OR_ZIP (labels)"


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

    Counted in `dropped`: files that are no images, images outside a class folder or outside the folders of splits,
    empty class folders, folders that cannot be read.

    Args:
      split: a folder's name; "val" is held out of "train" where there is none. Without folders of splits, all is
        "train".
      seed: of the held-out part.
      path: the folder or archive.
      classes: their names in order, for all class folders of the training split; by default these, sorted. A folder
        called as a split is, such as "train", is a class where it is among them.
      hold_out: share of each class of "train" that becomes "val" if there is no such folder; 0 for none.
      needs: what the task learns from; with "" records have no label, and the images may lie anywhere in the split.

    Raises:
      UserError: nothing there, no class folders, no such split, folders that may be splits or classes, or a class that
        training has no images of.

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
    known = () if classes is None else labelled.class_names(classes)
    tree = folder_tree.read(path, bool(needs), known)
    if not needs:
        return _without_labels(tree, split, seed, where, hold_out)
    layout = folder_layout.find(tree.image_files, split, where, known)
    folder_layout.require_class_folders(layout, split, hold_out, where)
    prefixes = layout.prefixes
    found, part = splits.locate(split, prefixes, where, hold_out)
    mine = _below(tree, prefixes[found])
    trained = mine if (train := splits.find("train", prefixes)) in (None, found) else _below(tree, prefixes[train])
    if not trained.rows:
        raise UserError(f"{where} has no images in class folders; {folder_layout.FORM}.")
    names = labelled.choose_classes(trained.classes, classes, where)
    labelled.require_trained(mine.classes, names, where, found)
    numbers = np.array([names.index(name) for name in mine.classes], np.int32)
    labels = numbers[np.array(mine.codes, np.int64)]
    kept = labelled.rows_of(part, [tree.image_files[row] for row in mine.rows], labels, seed, hold_out)
    rows = np.array(mine.rows, np.int64)[kept]
    dropped = mine.dropped | _passed_over(tree, found, prefixes)
    return _source(tree, rows, labels[kept], where=where, split=split, classes=names, dropped=dropped)


def _without_labels(tree: Tree, split: str, seed: int, where: str, hold_out: float | int) -> Source:
    """Open all images of a split, whatever folders they are in."""
    prefixes = folder_layout.splits_anywhere(tree.image_files, where)
    found, part = splits.locate(split, prefixes, where, hold_out)
    prefix = prefixes[found]
    rows = np.array([row for row, name in enumerate(tree.image_files) if name.startswith(prefix)], np.int64)
    files = [tree.image_files[row] for row in rows]
    kept = rows[labelled.rows_of(part, files, np.zeros(len(files), np.int32), seed, hold_out)]
    dropped = recognition.by_reason(tree.others, [name for name in tree.others if name.startswith(prefix)])
    dropped |= _passed_over(tree, found, prefixes)
    return _source(tree, kept, None, where=where, split=split, classes=(), dropped=dropped)


def _source(
    tree: Tree,
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
    real = [tree.real[row] for row in rows] if tree.real else None
    return labelled.make_source(
        where, split, classes, files, labels, tree.images(rows), dropped=dropped, content=content, on_disk=real
    )


def _passed_over(tree: Tree, found: str, prefixes: Mapping[str, str]) -> dict[str, list[str]]:
    """List the images that are in no split, and those in other folders that are called as the split `found` is."""
    known = splits.kind_of(found) is not None  # then a folder of another name is none, unless it is asked for
    every = tuple(path for name, path in prefixes.items() if splits.kind_of(name) or not known)
    alike = tuple(folder_layout.same_split(found, prefixes))
    return {
        "image outside the folders of splits": [
            *tree.beside,
            *(name for name in tree.image_files if not name.startswith(every)),
        ],
        "folder that cannot be read": tree.closed,
        "image in another folder of this split": [name for name in tree.image_files if name.startswith(alike)],
    }


class _Split(NamedTuple):
    """The images of one split: rows of the tree, the class of each as a position in `classes`; what was left out."""

    rows: list[int]
    codes: list[int]
    classes: list[str]
    dropped: dict[str, list[str]]


def _below(tree: Tree, prefix: str) -> _Split:
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
        **recognition.by_reason(tree.others, others),
    }
    return _Split(rows, codes, list(numbers), dropped)
