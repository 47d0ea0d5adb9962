"""Folders of images and masks: `images/SPLIT/*` and `masks/SPLIT/*.png` of the same names, and `classes.txt`.

A mask holds a class id for each pixel, in one channel or as an indexed PNG, or colours that `palette.txt` names
(mapjax.data.label_maps). Without folders of splits, `images/*` and `masks/*.png` are "train".
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from mapjax.data import images, lookup, recognition, splits
from mapjax.data.formats import label_maps, mask_files
from mapjax.data.source import Source
from mapjax.errors import UserError

ABOUT = "masks:DIR (label maps)"


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    classes: str | Sequence[str] | None = None,
    void: int | str | Sequence[int | str] | None = None,
    palette: str | Sequence[Any] | None = None,
    hold_out: float | int = 0.1,
    orientation: str = "upright",
    needs: str = "label_map",
) -> Source:
    """Read one split of a folder of images and masks; only headers are read.

    Left out and counted in `dropped`: images without a mask, masks without an image, and those that are of different
    sizes or cannot be opened.

    Args:
      split: a folder's name; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the folder.
      classes: names in order of their ids, instead of `classes.txt`; where that or a palette is there, the names from
        it that are classes, in order: all others are void.
      void: ids or names of pixels without a class, besides 255 and "void", "unlabelled", "ignore"; "unlisted" is every
        id that has no name.
      palette: colours of names, ("sky 0 0 255", …) or (("sky", 0, 0, 255), …), instead of `palette.txt`.
      hold_out: share of "train" that becomes "val" if there is no such folder; 0 for none.
      orientation: "upright" or "stored": labels were drawn on images as EXIF turns them, or as they are stored.
      needs: what the task learns from; there is nothing but "label_map", which it may leave alone ("").

    Raises:
      UserError: no such folder, no list of classes, no such split, a split without images or masks, or none that fit.

    Example:
      >>> import pathlib, tempfile
      >>> import cv2, numpy as np
      >>> from mapjax.data.formats import masks
      >>> with tempfile.TemporaryDirectory() as path:
      ...     for name, shape in {"images": (4, 6, 3), "masks": (4, 6)}.items():
      ...         (pathlib.Path(path) / name).mkdir()
      ...         _ = cv2.imwrite(f"{path}/{name}/a.png", np.zeros(shape, np.uint8))
      ...     source = masks.make(split="train", path=path, classes=("sky", "sea"), hold_out=0)
      ...     source.classes, source.records[0]["label_map"].shape
      (('sky', 'sea'), (4, 6))
    """
    where = f"masks:{path}"
    if needs not in ("label_map", ""):
        raise UserError(f"{where} has a class for each pixel, and this task learns from {needs}; choose other data.")
    root = pathlib.Path(path)
    for folder in (root, root / "images", root / "masks"):
        if not folder.is_dir():
            raise UserError(f"{folder} is not there: --data masks:DIR needs a folder with images/ and masks/.")
    coding = label_maps.find_coding(root, classes=classes, void=void, palette=palette)
    folders = splits_in(root / "images")
    found, part = splits.locate(split, folders, where, hold_out)
    image_files, repeated, unread = images_in(root, f"images{folders[found]}")
    drawn = folders[found] and splits.find(found, splits_in(root / "masks"), where)
    masks, _ = by_stem(place := f"masks/{drawn}" if drawn else f"masks{folders[found]}", names_in(root, place, ".png"))
    for kind, known in (("images", image_files), ("masks", masks)):
        if not known:
            form = "images" if kind == "images" else ".png files"
            raise UserError(f"{root / kind}{folders[found]} has no {form}; put those of split {found!r} there.")
    stems = {*image_files, *(set(masks) - lookup.values(masks, image_files).keys())}
    stems = splits.take(sorted(stems), part, seed, hold_out)
    pairs, dropped = mask_files.pair_up(image_files, masks, stems)
    dropped |= {"second image of a name": repeated, **unread}
    return mask_files.make_source(where, split, root, pairs, coding, dropped, images.is_stored(orientation))


def splits_in(folder: pathlib.Path) -> dict[str, str]:
    """Return what follows images and masks in the paths of each split; nothing where there are no folders."""
    inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    return {name: f"/{name}" for name in inner} or {"train": ""}


def images_in(root: pathlib.Path, folder: str) -> tuple[dict[str, str], list[str], dict[str, list[str]]]:
    """List the images of a folder as `by_stem`, and those that no decoder here reads, by reason."""
    names, unread = recognition.in_folder(root / folder, names_in(root, folder))
    unread = {reason: [f"{folder}/{name}" for name in where] for reason, where in unread.items()}
    return *by_stem(folder, names), unread


def names_in(root: pathlib.Path, folder: str, extension: str = "") -> list[str]:
    """List the files of a folder that are not hidden, by name."""
    place = root / folder
    names = sorted(entry.name for entry in os.scandir(place) if not entry.is_dir()) if place.is_dir() else []
    return [name for name in names if name.lower().endswith(extension) and name[0] != "."]


def by_stem(folder: str, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the paths of files of a folder by their names without extension, and those whose name is taken."""
    found: dict[str, str] = {}
    repeated = [f"{folder}/{name}" for name in names if found.setdefault(os.path.splitext(name)[0], name) != name]
    return {stem: f"{folder}/{name}" for stem, name in found.items()}, repeated
