"""What all sources of labelled images share: their records, their class lists, and their held-out part.

The class list is that of "train", so that every split of a data set numbers its classes alike.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from mapjax.data import splits
from mapjax.data.source import Record, Records, Source
from mapjax.errors import UserError, near
from mapjax.runtime.names import encoded


@runtime_checkable
class ImageAccess(Protocol):
    """Random access to images: paths, encoded bytes, or arrays (h w 3) uint8."""

    def __getitem__(self, index: int, /) -> Any: ...


class Labelled:
    """Records of images with a class each, any number of them, or none: an array and a list, however many they are."""

    def __init__(self, files: Sequence[str], labels: np.ndarray | None, images: ImageAccess):
        """Take the files' names for people, the labels, int32 (n,), bool (n c) or none, and the images."""
        self._files, self._labels, self._images = files, labels, images

    def record(self, index: int) -> Record:
        """Make the record at `index`."""
        record = {"id": index, "file": self._files[index], "image": self._images[index]}
        if self._labels is None:
            return record
        several = self._labels.ndim == 2
        return record | (
            {"labels": self._labels[index].copy()} if several else {"label": np.int32(self._labels[index])}
        )


def make_source(
    name: str,
    split: str,
    classes: Sequence[str],
    files: Sequence[str],
    labels: np.ndarray | None,
    images: ImageAccess,
    *,
    dropped: dict[str, list[str]],
    content: bytes = b"",
    on_disk: Sequence[str] | None = None,
) -> Source:
    """Put a source together.

    Args:
      labels: None for images that have none.
      content: what else its fingerprint should depend on than names, labels and classes.
      on_disk: what the images are as files of their own, so that one that is in two splits can be told.
    """
    digest = hashlib.sha256(encoded("\n".join([*classes, "", *files])))
    digest.update(b"" if labels is None else np.ascontiguousarray(labels).tobytes())
    digest.update(content)
    one = Labelled(files, labels, images)
    return Source(
        name=name,
        split=split,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        records=Records(len(files), one.record, labels, on_disk, files),
        dropped={reason: where for reason, where in dropped.items() if where},
        fingerprint=digest.hexdigest()[:16],
    )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names, as numbers where all are."""
    found = set(names)
    return tuple(sorted(found, key=int if all(re.fullmatch("0|[1-9][0-9]*", name) for name in found) else None))


def class_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Read a list of classes; in one string they are separated by ; or |.

    Raises:
      UserError: a name that is there twice, or none at all.
    """
    names = tuple(name.strip() for name in re.split("[;|]", given)) if isinstance(given, str) else tuple(given)
    names = tuple(map(str, names))  # the command line reads 3 as a number
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None or not names:
        why = f"{repeated!r} is there twice" if names else "there is none"
        raise UserError(f"classes={given!r} must name every class once; {why}.")
    return names


def choose_classes(trained: Iterable[str], given: str | Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the class list: the names found in training, sorted, or those given, in their order.

    Raises:
      UserError: a label that is not in the given list, or a given class that the data does not have.
    """
    found = set(trained)
    if given is None:
        return in_order(found)
    names = class_names(given)
    for name in sorted(found.difference(names)):
        raise UserError(f"{where} has the label {name!r}, which is not in classes={names}.{near(name, names)}")
    for name in names:
        if name not in found:
            raise UserError(f"{where} has no images of the class {name!r} in its training split.{near(name, found)}")
    return names


def require_trained(found: Iterable[str], classes: Sequence[str], where: str, split: str) -> None:
    """Stop at a class that a split has and training has not.

    Raises:
      UserError: naming the first.
    """
    known = set(classes)
    for name in in_order(found):
        if name not in known:
            raise UserError(
                f"{where}: the class {name!r} of split {split!r} has no images to train on; add some to the training "
                f"split or remove it from {split!r}.{near(name, classes)}"
            )


def held_out(names: Sequence[str], labels: np.ndarray, seed: int, share: float | int) -> Bool[np.ndarray, " n"]:
    """Choose the images of a held-out part: of each class its share, by a seeded hash of each name.

    A class of one image is kept for training. With several labels an image the share is that of all images, and
    one of a class that would be held out whole is kept.

    Args:
      names: of the images, all different.
      labels: int (n,) or bool (n c).
      seed, share: as for `splits.take`.
    """
    chosen = np.zeros(len(names), bool)
    groups = [np.arange(len(names))] if labels.ndim == 2 else _rows_by_class(labels)
    for rows in groups:
        mine = [names[row] for row in rows.tolist()]
        held = set(splits.take(mine, "held out", seed, share))
        chosen[rows] = [name in held for name in mine]
    if labels.ndim == 2:
        for members in labels.T:
            if members.any() and not (members & ~chosen).any():
                chosen[np.flatnonzero(members)[0]] = False
    return chosen


def rows_of(
    part: splits.Part, names: Sequence[str], labels: np.ndarray, seed: int, share: float | int
) -> Int[np.ndarray, " m"]:
    """Return the positions of the images that are in one part of a split, in their order."""
    if part == "whole":
        return np.arange(len(names))
    return np.flatnonzero(held_out(names, labels, seed, share) == (part == "held out"))


def _rows_by_class(labels: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(order, ends) if len(order) else []
