"""COCO JSON: a folder with `annotations/*.json` and image folders, or their paths given.

Categories become 0-based classes in the order of their ids; `iscrowd` objects become `crowd`: no positives in training,
ignored in evaluation. Boxes x,y,width,height become x1,y1,x2,y2. Images without objects are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mapjax.data.formats import coco_files, coco_maps, coco_masks
from mapjax.data.formats.coco_files import Split
from mapjax.data.records import Packed, check_box
from mapjax.data.source import Source


def make(
    *,
    split: str,
    seed: int = 0,
    path: str | None = None,
    annotations: str | Mapping[str, str] | None = None,
    images: str | Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    hold_out: float | int = 0.1,
    needs: str = "boxes",
) -> Source:
    """Read one split of a COCO data set; no image is opened, unless the JSON does not say its size.

    Left out and counted in `dropped`: images that are missing or listed twice; objects of an unknown image or
    category, without a box, or with one that is empty or outside; boxes are clipped to the image.

    Args:
      split: found in the names of the JSON files: "val" is `instances_val2017.json`, `val.json` or
        `valid/_annotations.coco.json`; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the data folder.
      annotations: instead of a search below `path`: a JSON file ("train", from which "val" is held out; with
        hold_out=0, the split asked for), or one for each split by name.
      images: instead of a search: the image folder, or one for each split by name.
      classes: names of categories in order; objects of others are dropped. By default all, by id.
      masks: records have `masks`, drawn from the segmentations.
      hold_out: share of "train" that becomes "val" if there is no such file; 0 for none.
      needs: what the task learns from: "label_map" reads panoptic or stuff masks instead (mapjax.data.coco_maps).

    Raises:
      UserError: nothing there by these names; JSON that is cut short, lacks a key or has ids that are no numbers.
    """
    where = f"coco:{path if path is not None else annotations}"
    if needs == "label_map":
        return coco_maps.open_split(split, seed, path, annotations, images, classes, hold_out)
    files = coco_files.find(path, annotations, split, hold_out)
    found = coco_files.open_split(files, split, seed, path, where, images, classes, hold_out)
    for position, entry in enumerate(found.content["annotations"]):
        _add_object(entry, position, found, masks)
    packed = Packed(found.folder, list(found.labels.values()), coco_masks.draw if masks else None)
    return Source(
        where, split, found.names, found.category_ids, packed.records(), dict(found.dropped), packed.fingerprint()
    )


def _add_object(entry: Any, position: int, split: Split, masks: bool) -> None:
    """Check one annotation and add it to the labels of its image, if that is in this split."""
    what = f"annotations[{position}]"
    image = coco_files.number_of(entry, "image_id", what, split.file)
    category = coco_files.number_of(entry, "category_id", what, split.file)
    name = f"{what} (id {entry.get('id')})"
    one, dropped, numbers = split.labels.get(image), split.dropped, split.numbers
    if one is None:
        if image not in split.listed:
            dropped["unknown image id"].append(name)
        return
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(n, (int, float)) for n in box):
        dropped["no box of four numbers"].append(name)
        return
    x, y, width, height = box
    clipped, reason = check_box((x, y, x + width, y + height), one.size)
    if clipped is None or numbers.get(category, -1) < 0:
        dropped[reason or ("class not asked for" if category in numbers else "unknown category id")].append(name)
        return
    area = entry.get("area")
    one.boxes.append(clipped)
    one.classes.append(numbers[category])
    one.crowd.append(bool(entry.get("iscrowd", 0)))
    one.areas.append(float(area if isinstance(area, (int, float)) else width * height))
    if masks:
        one.segmentations.append(entry.get("segmentation"))
