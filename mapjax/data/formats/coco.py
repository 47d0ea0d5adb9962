"""COCO JSON: a folder with `annotations/*.json` and image folders, or their paths given.

Categories become 0-based classes in the order of their ids; `iscrowd` objects become `crowd`: no positives in training,
ignored in evaluation. Boxes x,y,width,height become x1,y1,x2,y2. Images without objects are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from mapjax.data import images as image_files
from mapjax.data import objects
from mapjax.data.formats import coco_files, coco_maps, coco_masks
from mapjax.data.formats.coco_files import Split
from mapjax.data.records import Packed, check_box
from mapjax.data.source import Source
from mapjax.errors import UserError, near

ABOUT = "coco:DIR (boxes, masks, keypoints or label maps)"


def make(
    *,
    split: str,
    seed: int = 0,
    path: str | None = None,
    annotations: str | Mapping[str, str] | None = None,
    images: str | Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    pairs: Sequence[tuple[str, str]] | None = None,
    hold_out: float | int = 0.1,
    orientation: str = "upright",
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
      masks: records have `masks`, of the segmentations.
      pairs: of keypoints, (("left_eye", "right_eye"), …): each is the other in a mirror. By default those whose names
        say left and right and are the same otherwise.
      hold_out: share of "train" that becomes "val" if there is no such file; 0 for none.
      orientation: "upright" or "stored": labels were drawn on images as EXIF turns them, or as they are stored.
        Where the JSON says an image's size, and that is the size of the other, it is believed.
      needs: what the task learns from. "masks": as `masks`; "keypoints": records have `keypoints`, of
        `person_keypoints_*.json` where there is one, with x,y as they are there; "label_map": panoptic or stuff masks
        (coco_maps.py).

    Raises:
      UserError: nothing there by these names; JSON that is cut short, lacks a key or has ids that are no numbers.

    Example:
      >>> import json, pathlib, tempfile
      >>> import cv2, numpy as np
      >>> from mapjax.data.formats import coco
      >>> with tempfile.TemporaryDirectory() as path:
      ...     _ = cv2.imwrite(f"{path}/a.png", np.zeros((4, 6, 3), np.uint8))
      ...     images = [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}]
      ...     objects = [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}]
      ...     said = {"images": images, "annotations": objects, "categories": [{"id": 7, "name": "cat"}]}
      ...     _ = (pathlib.Path(path) / "a.json").write_text(json.dumps(said))
      ...     source = coco.make(split="train", annotations=f"{path}/a.json", images=path, hold_out=0)
      ...     source.classes, source.category_ids, source.records[0]["boxes"].tolist()
      (('cat',), (7,), [[1.0, 1.0, 3.0, 3.0]])
    """
    where = f"coco:{path if path is not None else annotations}"
    stored = image_files.is_stored(orientation)
    if needs == "label_map":
        return coco_maps.open_split(split, seed, path, annotations, images, classes, hold_out, stored)
    files = coco_files.find(path, annotations, split, hold_out, coco_files.KEYPOINTS if needs == "keypoints" else "")
    found = coco_files.open_split(files, split, seed, path, where, images, classes, hold_out, stored)
    points = coco_files.keypoint_names(found) if needs == "keypoints" else ()
    wanted = _Wanted(masks or needs == "masks", len(points))
    for position, entry in enumerate(found.content["annotations"]):
        _add_object(entry, position, found, wanted)
    mirrored = _mirror(points, pairs, where) if points else None
    packed = Packed(
        found.folder, list(found.labels.values()), coco_masks.draw if wanted.masks else None, mirrored, stored
    )
    return Source(
        name=where,
        split=split,
        classes=found.names,
        category_ids=found.category_ids,
        records=packed.records(),
        dropped=dict(found.dropped),
        fingerprint=packed.fingerprint(),
        keypoints=points,
    )


class _Wanted(NamedTuple):
    """What objects are to have beside their boxes; of keypoints the number."""

    masks: bool
    keypoints: int


def _add_object(entry: Any, position: int, split: Split, wanted: _Wanted) -> None:
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
    corners = x, y, x + width, y + height
    clipped, reason = check_box(corners, one.size)
    if other_way := image_files.fault_of_box(corners, one.size, split.others.get(image, one.size)):
        dropped[other_way].append(name)
    if clipped is None or numbers.get(category, -1) < 0:
        dropped[reason or ("class not asked for" if category in numbers else "unknown category id")].append(name)
        return
    mask = _mask(entry.get("segmentation"), one.size) if wanted.masks else ()
    points = _keypoints(entry.get("keypoints"), wanted.keypoints) if wanted.keypoints else np.zeros((0, 3), np.float32)
    if mask is None or points is None:
        shape = f"keypoints that are not {wanted.keypoints} times x, y, visibility"
        dropped["segmentation that cannot be read" if mask is None else shape].append(name)
        return
    area = entry.get("area")
    one.boxes.append(clipped)
    one.classes.append(numbers[category])
    one.crowd.append(bool(entry.get("iscrowd", 0)))
    one.areas.append(float(area if isinstance(area, (int, float)) else width * height))
    if wanted.masks:
        one.segmentations.append(mask)
    if wanted.keypoints:
        one.keypoints.append(objects.seen(points, one.size))
        if not np.array_equal(one.keypoints[-1][:, 2] > 0, points[:, 2] > 0):
            dropped["keypoint outside the image"].append(name)


def _mask(segmentation: Any, size: tuple[int, int]) -> coco_masks.Packed | None:
    """Pack a segmentation; None for one that is of another size, or no numbers."""
    try:
        return coco_masks.pack(segmentation, size)
    except (ValueError, TypeError, OverflowError):
        return None


def _keypoints(given: Any, count: int) -> Float32[np.ndarray, "k 3"] | None:
    """Read a flat list x,y,visibility; zeros where there is none, None for what is no such list."""
    if given is None:
        return np.zeros((count, 3), np.float32)
    try:
        found = np.array(given, np.float32).reshape(count, 3)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if np.isfinite(found).all() else None


def _mirror(names: Sequence[str], pairs: Sequence[tuple[str, str]] | None, where: str) -> np.ndarray:
    """Tell which keypoint each becomes in a mirror."""
    try:
        return objects.mirrored(names, pairs)
    except KeyError as error:
        wrong = error.args[0]
        raise UserError(f"{where}: pairs={pairs} names {wrong!r}, which is no keypoint.{near(wrong, names)}") from error
