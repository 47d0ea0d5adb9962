"""Label maps of COCO data sets: panoptic masks, or else pixel maps of stuff.

    annotations/panoptic_SPLIT.json and panoptic_SPLIT/*.png      (Kirillov et al. 2019)
    annotations/stuff_SPLIT.json and stuff_SPLIT_pixelmaps/*.png  (Caesar et al. 2018)

The folders of masks are beside the JSON or in the data folder. A panoptic mask holds segments, by red + 256 green +
65536 blue; each is of a category, and a crowd, which is many things at once, has no class. A pixel map holds category
ids. 0 is void in both.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from mapjax.data import fields, lookup
from mapjax.data.formats import coco_files, coco_images, label_maps, mask_files
from mapjax.data.formats.coco_files import Split
from mapjax.data.formats.coco_json import number_of
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.runtime.names import encoded
from mapjax.stages import VOID

_TRIED = 20  # masks looked for in a folder before it is taken for another


def open_split(
    split: str,
    seed: int,
    path: str | None,
    annotations: str | Mapping[str, str] | None,
    images: str | Mapping[str, str] | None,
    classes: Sequence[str] | None,
    hold_out: float | int,
    stored: bool,
) -> Source:
    """Read one split; no image or mask is opened.

    Left out and counted in `dropped`: images that are missing, listed twice or without a mask, masks of unknown images,
    segments of unknown categories. Pixels of categories that are not asked for are void.

    Args: as for `coco.make`.

    Raises:
      UserError: no JSON of panoptic or stuff masks there, no masks, or one that is cut short or lacks a key.
    """
    where = f"coco:{path if path is not None else annotations}"
    files, panoptic = _find(path, annotations, split, hold_out)
    found = coco_files.open_split(files, split, seed, path, where, images, classes, hold_out, stored)
    if panoptic is None:
        panoptic = any(isinstance(entry, dict) and "segments_info" in entry for entry in found.content["annotations"])
    if not found.names or len(found.names) > VOID:
        raise UserError(
            f"{found.file} has {len(found.names)} categories; a label map holds 1 to {VOID}: give classes=."
        )
    source = _panoptic if panoptic else _stuff
    return source(found, where, split, path, stored)


def _find(
    path: str | None, annotations: str | Mapping[str, str] | None, split: str, share: float | int
) -> tuple[dict[str, pathlib.Path], bool | None]:
    """Return the JSON of every split, and whether it is panoptic; None where its content must tell."""
    if annotations is not None:
        return coco_files.find(path, annotations, split, share), None
    for kind in ("panoptic", "stuff"):
        try:
            return coco_files.find(path, None, split, share, kind), kind == "panoptic"
        except UserError:
            if path is None or not pathlib.Path(path).is_dir():
                raise
    raise UserError(
        f"{path} has neither annotations/panoptic_*.json nor annotations/stuff_*.json; label maps are learnt from one "
        "of these, or name one by annotations=."
    )


def _panoptic(found: Split, where: str, split: str, path: str | None, stored: bool) -> Source:
    masks, segments, broken = {}, {}, list[str]()
    for position, entry in enumerate(found.content["annotations"]):
        try:
            image, mask, parts = entry_of(entry, f"annotations[{position}]", found)
        except UserError as error:
            broken.append(str(error))
            continue
        if image in found.labels:
            masks[image], segments[image] = mask, parts
    if broken and len(broken) == len(found.content["annotations"]):
        raise UserError(f"{found.file}: not one annotation can be used: {broken[0]}")
    if broken:
        found.dropped["annotation that cannot be read"] = [one.rstrip(".") for one in broken]
    folder = mask_folder(found.file, found.file.stem, path, list(masks.values()))
    masks = with_mask(found, folder, masks)
    read = Segments(folder, list(masks.values()), [segments[number] for number in masks])
    return _source(found, where, split, list(masks), read, read.content(), stored)


def entry_of(entry: Any, what: str, found: Split) -> tuple[int, str, list[tuple[int, int]]]:
    """Return the image, the mask and the segments of an annotation.

    Raises:
      UserError: it lacks one of these, or an id that is a number.
    """
    image = number_of(entry, "image_id", what, found.file)
    if image not in found.listed:
        found.dropped["unknown image id"].append(what)
    if not isinstance(entry.get("file_name"), str) or not isinstance(entry.get("segments_info"), list):
        raise UserError(f"{found.file}: {what} has no 'file_name' or no list 'segments_info'; add it.")
    if not coco_images.is_plain(entry["file_name"]):
        raise UserError(f"{found.file}: the mask {entry['file_name']!r} of {what} leaves the data folder; correct it.")
    return image, entry["file_name"], _segments_of(entry["segments_info"], what, found)


def _segments_of(entries: list[Any], what: str, found: Split) -> list[tuple[int, int]]:
    """Return the id and the class of each segment of an image; crowds and categories not asked for are void."""
    segments = [(0, VOID)]
    for entry in entries:
        number = number_of(entry, "id", f"a segment of {what}", found.file)
        category = number_of(entry, "category_id", f"a segment of {what}", found.file)
        if category not in found.numbers:
            found.dropped["unknown category id"].append(f"{what}, segment {number}")
        known = found.numbers.get(category, -1)
        crowd = fields.flag(entry.get("iscrowd"))
        if crowd is None:
            found.noted["iscrowd that cannot be read, taken as 0"].append(f"{what}, segment {number}")
        segments.append((number, VOID if known < 0 or crowd else known))
    return sorted(segments)


class Segments:
    """Reads panoptic masks."""

    def __init__(self, folder: pathlib.Path, masks: Sequence[str], segments: Sequence[Sequence[tuple[int, int]]]):
        """Take the folder, the masks' names, and of each mask the ids of its segments, ascending, and their classes."""
        self._folder, self._masks = folder, masks
        self._ends = np.cumsum([0, *map(len, segments)])
        self._ids: Int[np.ndarray, " n"] = np.array([number for one in segments for number, _ in one], np.int64)
        self._classes: UInt8[np.ndarray, " n"] = np.array([kind for one in segments for _, kind in one], np.uint8)

    def __call__(self, index: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        """Read the label map at `index` of an image of height, width.

        Raises:
          UserError: the mask is missing, cannot be read, has another size, or a segment that the JSON does not list.
        """
        file = str(self._folder / self._masks[index])
        found = label_maps.read_segments(file, size)
        rows = slice(int(self._ends[index]), int(self._ends[index + 1]))
        ids, classes = self._ids[rows], self._classes[rows]
        places = np.searchsorted(ids, found).clip(max=len(ids) - 1)
        if (unknown := ids[places] != found).any():
            raise UserError(f"{file} has the segment {found[unknown][0]}, which segments_info does not list; add it.")
        return classes[places]

    def content(self) -> bytes:
        """Return all segments as bytes, to tell whether they have changed."""
        return self._ends.tobytes() + self._ids.tobytes() + self._classes.tobytes()


def _stuff(found: Split, where: str, split: str, path: str | None, stored: bool) -> Source:
    ids = sorted(found.numbers)
    if ids[-1] >= VOID or ids[0] < 0:
        raise UserError(f"{found.file} has the category ids {ids[0]} to {ids[-1]}; pixel maps hold ids from 1 to 254.")
    names = [""] * (max(ids) + 1)  # by category id, those of things among them, which are no stuff
    for number, known in found.numbers.items():
        if known >= 0:
            names[number] = found.names[known]
    coding = label_maps.make_coding(names, str(found.file), classes=found.names, mend="")
    masks = {number: f"{pathlib.PurePath(one.file).stem}.png" for number, one in found.labels.items()}
    folder = mask_folder(found.file, f"{found.file.stem}_pixelmaps", path, list(masks.values()))
    masks = with_mask(found, folder, masks)
    read = mask_files.Files(folder, list(masks.values()), coding)
    return _source(found, where, split, list(masks), read, coding.table.tobytes(), stored)


def mask_folder(file: pathlib.Path, name: str, path: str | None, masks: list[str]) -> pathlib.Path:
    """Find the folder of masks, beside the JSON or in the data folder."""
    places = [file.parent, *([pathlib.Path(path)] if path is not None else [])]
    tried = [place / name for place in dict.fromkeys(places)]
    for folder in tried:
        if not masks or any(map(lookup.Files(folder, (".png",)).find, masks[:_TRIED])):
            return folder
    raise UserError(f"{file}: no mask such as {masks[0]!r} in {', '.join(map(str, tried))}; unpack the masks there.")


def with_mask(found: Split, folder: pathlib.Path, masks: Mapping[int, str]) -> dict[int, str]:
    """Return the mask of each image that has one, by its id, and drop the others."""
    files = lookup.Files(folder, (".png",))
    there = {number: files.find(masks.get(number, "")) for number in found.labels}
    for number, one in found.labels.items():
        if there[number] is None:
            hint = "" if found.dropped["missing mask"] else files.hint(masks.get(number, ""))
            found.dropped["missing mask"].append(one.file + hint)
    return {number: mask for number, mask in there.items() if mask is not None}


def _source(
    found: Split,
    where: str,
    split: str,
    numbers: Sequence[int],
    read: mask_files.ReadMask,
    content: bytes,
    stored: bool,
) -> Source:
    files = [found.labels[number].file for number in numbers]
    sizes = np.array([found.labels[number].size for number in numbers], np.int32).reshape(-1, 2)
    digest = hashlib.sha256(encoded("\n".join([*found.names, "", *files])))
    digest.update(np.array(numbers, np.int64).tobytes() + sizes.tobytes() + content)
    digest.update(b"stored" if stored else b"")
    masked = mask_files.Masked(found.folder, numbers, files, sizes, read, stored)
    return mask_files.source_of(
        where, split, masked, found.names, found.category_ids, dropped=dict(found.dropped),
        fingerprint=digest.hexdigest()[:16], noted=dict(found.noted),
    )  # fmt: skip
