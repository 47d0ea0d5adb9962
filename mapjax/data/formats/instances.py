"""Images and masks of their objects: a label image each, a number an object, or a folder of a mask an object.

    images/SPLIT/a.jpg   instances/SPLIT/a.png                8 or 16 bits, or RGB; 0 is no object
    images/SPLIT/a.jpg   instances/SPLIT/a/*.png              a mask an object: pixels that are not 0
    images/SPLIT/a.jpg   instances/SPLIT/a/CLASS/*.png        likewise, by class
    SPLIT/a/images/a.png  SPLIT/a/masks/*.png                 likewise, a folder an image

Without folders of splits all is "train". `instances` may be called `masks` or `labels`.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mapjax.data import geometry, images, label_images, labelled, lookup, recognition, run_lengths, splits
from mapjax.data.formats import class_lists, masks, numbered
from mapjax.data.formats.numbered import Found
from mapjax.data.images import Size
from mapjax.data.label_images import Numbered
from mapjax.data.source import Source
from mapjax.errors import UserError

ABOUT = "instances:DIR (masks)"

_PLACES = ("instances", "masks", "labels")
_MASK = (".png", ".tif", ".tiff", ".bmp", ".gif")


class _Drawn(NamedTuple):
    """An image, and its label image or its masks, each with the folder of its class or ""; below the data folder."""

    image: str
    label_image: str
    masks: tuple[tuple[str, str], ...] = ()


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    classes: str | Sequence[str] | None = None,
    divisor: int = 0,
    hold_out: float | int = 0.1,
    orientation: str = "upright",
    needs: str = "masks",
) -> Source:
    """Read one split, its masks too; of images only headers are read.

    Left out and counted in `dropped`: images without masks, or with one that cannot be read or is of another size;
    masks without a pixel; numbers of a label image whose class is not listed.

    Args:
      split: a folder's name; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the folder.
      classes: names in order. By default those of `classes.txt`, else the folders of classes, sorted, else "object".
      divisor: of a label image's numbers, whose quotient is the class, from 0 on: 1000 for Cityscapes and KITTI; 0
        where all objects are of one class.
      hold_out: share of "train" that becomes "val" if there is no such folder; 0 for none.
      orientation: "upright" or "stored": masks were drawn on images as EXIF turns them, or as they are stored.
      needs: what the task learns from: "masks" or "boxes".

    Raises:
      UserError: no such folder, no such split, no image whose masks can be used, or a list of classes that is none.

    Example:
      >>> import pathlib, tempfile
      >>> import cv2, numpy as np
      >>> from mapjax.data.formats import instances
      >>> with tempfile.TemporaryDirectory() as path:
      ...     for name, image in {"images": np.zeros((4, 6, 3)), "instances": np.eye(4, 6)}.items():
      ...         (pathlib.Path(path) / name).mkdir()
      ...         _ = cv2.imwrite(f"{path}/{name}/a.png", image.astype(np.uint8))
      ...     source = instances.make(split="train", path=path, hold_out=0)
      ...     source.classes, source.records[0]["boxes"].tolist()
      (('object',), [[0.0, 0.0, 4.0, 4.0]])
    """
    where, root = f"instances:{path}", pathlib.Path(path)
    if needs not in ("masks", "boxes", ""):
        raise UserError(f"{where} has a mask of each object, and this task learns from {needs}; choose other data.")
    if divisor < 0:
        raise UserError(f"{where}: divisor={divisor} must be 0, or the numbers that a class has, such as 1000.")
    every = {} if (root / "images").is_dir() else _tree(root)
    every = every or _beside(root)
    found, part = splits.locate(split, {name: name for name in every}, where, hold_out)
    drawn, left_out = every[found]
    drawn = {one.image: one for one in drawn}
    chosen = [drawn[image] for image in splits.take(sorted(drawn), part, seed, hold_out)]
    folders = {name for images, _ in every.values() for one in images for _, name in one.masks}
    names = _names(root, classes, folders - {""}, divisor, where)

    def read(index: int, size: Size) -> Found:
        one = chosen[index]
        return _read_ids(root, one, names, divisor, size) if one.label_image else _read_masks(root, one, names, size)

    stored = images.is_stored(orientation)
    return numbered.make_source(where, split, root, [one.image for one in chosen], read, names, left_out, stored)


def _names(
    root: pathlib.Path, given: str | Sequence[str] | None, folders: set[str], divisor: int, where: str
) -> tuple[str, ...]:
    listed = root / "classes.txt"
    if given is not None:
        names = tuple(labelled.class_names(given))
    elif listed.is_file():
        names = tuple(class_lists.read_names(listed))
    elif divisor:
        raise UserError(f"{listed} is not there: with divisor={divisor}, name the classes there, that of 0 first.")
    else:
        names = tuple(sorted(folders)) or ("object",)
    if len(names) > 1 and not folders and not divisor:
        raise UserError(
            f"{where} has label images or masks without folders of classes, and {len(names)} classes are named; name "
            "one, or give divisor=1000 where numbers say the class."
        )
    return names


def _read_ids(root: pathlib.Path, one: _Drawn, names: Sequence[str], divisor: int, size: Size) -> Found:
    ids = numbered.read_ids(root, one.label_image, size)
    found, gone = [], []
    for drawn in label_images.objects_in(ids):
        number = drawn.number // divisor if divisor else 0
        if number < len(names):
            found.append((drawn, number))
        else:
            gone.append(("object of a class that is not listed", f"{one.label_image}, {drawn.number}"))
    return Found(found, gone)


def _read_masks(root: pathlib.Path, one: _Drawn, names: Sequence[str], size: Size) -> Found:
    found, gone = [], []
    for number, (file, folder) in enumerate(one.masks, start=1):
        if folder and folder not in names:
            gone.append(("class not asked for", file))
            continue
        pixels = numbered.read_pixels(root, file, size)
        mask = np.asarray(pixels if pixels.ndim == 2 else pixels.any(axis=2)) > 0
        if not mask.any():
            gone.append(("mask without a pixel", file))
            continue
        x1, y1, x2, y2 = geometry.mask_bounds(mask).tolist()
        drawn = Numbered(number, run_lengths.encode(mask), (x1, y1, x2, y2), int(mask.sum()))
        found.append((drawn, names.index(folder) if folder else 0))
    return Found(found, gone)


_Split = tuple[list[_Drawn], dict[str, list[str]]]


def _beside(root: pathlib.Path) -> dict[str, _Split]:
    """List the splits of folders of images, and of masks beside them.

    Raises:
      UserError: they are not there.
    """
    place = next((name for name in _PLACES if (root / name).is_dir()), None)
    if place is None or not (root / "images").is_dir():
        raise UserError(
            f"{root} is no folder of objects: --data instances:DIR needs images/ and instances/, or SPLIT/NAME/images/ "
            "and SPLIT/NAME/masks/."
        )
    folders = masks.splits_in(root / "images")
    known = masks.splits_in(root / place)
    by_split = {}
    for name, below in folders.items():
        drawn = splits.find(name, known)
        if below and not known.get(drawn or "", ""):
            raise UserError(f"{root / place} has no folder of the split {name!r}, as images/ has; add it.")
        by_split[name] = _pair(root, f"images{below}", f"{place}/{drawn}" if below else place)
    return by_split


def _pair(root: pathlib.Path, image_place: str, place: str) -> _Split:
    files, repeated, unread = masks.images_in(root, image_place)
    entries = sorted(os.scandir(root / place), key=lambda entry: entry.name) if (root / place).is_dir() else []
    drawn = {entry.name: entry for entry in entries if entry.is_dir() and entry.name[0] != "."}
    whole = {os.path.splitext(one.name)[0]: one.name for one in entries if one.name.lower().endswith(_MASK)}
    by_stem = lookup.values(files, {**{name: name for name in drawn}, **whole})
    found, missing = [], []
    for stem, image in files.items():
        name = by_stem.get(stem)
        if name is None:
            missing.append(image)
        elif name in drawn:
            found.append(_Drawn(image, "", _masks_in(root, f"{place}/{name}")))
        else:
            found.append(_Drawn(image, f"{place}/{name}"))
    return found, {"second image of a name": repeated, **unread, "image without masks": missing}


def _masks_in(root: pathlib.Path, folder: str) -> tuple[tuple[str, str], ...]:
    """List the masks of an image's folder, and of those of classes in it, which name the class."""
    below = sorted(entry.name for entry in os.scandir(root / folder) if entry.is_dir() and entry.name[0] != ".")
    return tuple(
        (f"{folder}/{name}/{file}" if name else f"{folder}/{file}", name)
        for name in ("", *below)
        for file in masks.names_in(root, f"{folder}/{name}" if name else folder)
        if file.lower().endswith(_MASK)
    )


def _tree(root: pathlib.Path) -> Mapping[str, _Split]:
    """List the splits of a folder an image, with images/ and masks/ in it; {} where there are no such folders."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: --data instances:DIR needs one.")
    if _is_image_folder(root):
        return {}
    if any(_is_image_folder(entry) for entry in sorted(root.iterdir())[:20]):
        return {"train": _in_folders(root, "")}
    inner = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name[0] != "."]
    able = [entry for entry in inner if any(map(_is_image_folder, sorted(entry.iterdir())[:20]))]
    return {entry.name: _in_folders(root, f"{entry.name}/") for entry in able}


def _is_image_folder(place: pathlib.Path) -> bool:
    return (place / "images").is_dir() and (place / "masks").is_dir()


def _in_folders(root: pathlib.Path, below: str) -> _Split:
    found, several = [], []
    for name in sorted(entry.name for entry in os.scandir(root / below) if entry.is_dir() and entry.name[0] != "."):
        folder = f"{below}{name}"
        files = masks.names_in(root, f"{folder}/images")
        known, _ = recognition.in_folder(root / folder / "images", files)
        if len(known) == 1:
            found.append(_Drawn(f"{folder}/images/{known[0]}", "", _masks_in(root, f"{folder}/masks")))
        else:
            several.append(folder)
    return found, {"folder without an image, or with several": several}
