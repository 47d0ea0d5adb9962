"""The things of panoptic masks (Kirillov et al. 2019) as objects with masks: coco_maps.py reads the same as label maps.

Categories whose `isthing` is 1 are classes; each of their segments becomes an object with the box and area that the
JSON says, whose mask is read out of the PNG when its record is made.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mapjax.data import fields
from mapjax.data.formats import coco_files, coco_json, coco_maps, coco_masks
from mapjax.data.formats.coco_files import Split
from mapjax.errors import UserError


def find(
    path: str | None, annotations: str | Mapping[str, str] | None, split: str, share: float | int
) -> dict[str, pathlib.Path]:
    """Find the panoptic JSON of every split; {} where objects have files of their own.

    Raises:
      UserError: nothing there of either.
    """
    if annotations is not None:
        files = coco_files.find(path, annotations, split, share)
        return files if _is_panoptic(coco_json.load(next(iter(files.values())))) else {}
    try:
        coco_files.find(path, None, split, share)
    except UserError:
        try:
            return coco_files.find(path, None, split, share, "panoptic")
        except UserError:
            pass
        raise
    return {}


def names(file: pathlib.Path) -> tuple[str, ...]:
    """List the categories that are things, by id.

    Raises:
      UserError: there is none.
    """
    entries = [entry for entry in coco_json.load(file)["categories"] if isinstance(entry, Mapping)]
    things = {
        fields.whole(entry.get("id")): entry.get("name") for entry in entries if fields.flag(entry.get("isthing"))
    }
    found = tuple(str(things[number]) for number in sorted(number for number in things if number is not None))
    if not found:
        raise UserError(f"{file} has no category whose 'isthing' is 1; masks of objects are learnt from such.")
    return found


def spread(found: Split, path: str | None) -> None:
    """Put an annotation for each segment of a thing in the place of those of whole images.

    Raises:
      UserError: not one annotation can be used, or no masks are there.
    """
    whole, broken = dict[int, tuple[str, Sequence[Any]]](), list[str]()
    for position, entry in enumerate(found.content["annotations"]):
        try:
            image, mask, _ = coco_maps.entry_of(entry, f"annotations[{position}]", found)
        except UserError as error:
            broken.append(str(error))
            continue
        if image in found.labels:
            whole[image] = mask, entry["segments_info"]
    if broken and len(broken) == len(found.content["annotations"]):
        raise UserError(f"{found.file}: not one annotation can be used: {broken[0]}")
    if broken:
        found.dropped["annotation that cannot be read"] = [one.rstrip(".") for one in broken]
    folder = coco_maps.mask_folder(found.file, found.file.stem, path, [mask for mask, _ in whole.values()])
    there = coco_maps.with_mask(found, folder, {image: mask for image, (mask, _) in whole.items()})
    for image in found.labels.keys() - there.keys():
        del found.labels[image]
    found.content["annotations"] = [
        {**segment, "image_id": image, "segmentation": coco_masks.Segment(str(folder / mask), segment["id"])}
        for image, mask in there.items()
        for segment in whole[image][1]
        if found.numbers.get(coco_json.number_of(segment, "category_id", "a segment", found.file), -1) >= 0
    ]


def _is_panoptic(content: Mapping[str, Any]) -> bool:
    return any(isinstance(entry, Mapping) and "segments_info" in entry for entry in content["annotations"])
