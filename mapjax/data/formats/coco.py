"""COCO JSON: a folder with `annotations/*.json` and image folders, or their paths given.

Categories become 0-based classes in the order of their ids; `iscrowd` objects become `crowd`: no positives in training,
ignored in evaluation. Boxes x,y,width,height become x1,y1,x2,y2. Images without objects are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapjax.data import images as image_files
from mapjax.data import objects, skeletons
from mapjax.data.formats import coco_categories, coco_files, coco_maps, coco_masks, coco_objects, coco_things
from mapjax.data.records import Packed
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
    skeleton: Sequence[Any] | None = None,
    hold_out: float | int = 0.1,
    orientation: str = "upright",
    needs: str = "boxes",
) -> Source:
    """Read one split of a COCO data set; of images at most headers are read, of a few, to compare their sizes.

    Left out and counted in `dropped`: images that are missing, of another size than the JSON says or listed twice under
    one id; objects of an unknown image, or with a box that is empty or outside; an image with an object that cannot be
    read, or of an unknown category, for it would teach that object as background. Boxes are clipped to the image. Text
    that says a number is one; an `area` or `iscrowd` that cannot be read is the box's, or 0, and counted in `noted`.

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
      skeleton: pairs of keypoints that a line joins where they are drawn; by default the category's.
      hold_out: share of "train" that becomes "val" if there is no such file; 0 for none.
      orientation: "upright" or "stored": labels were drawn on images as EXIF turns them, or as they are stored.
        Where the JSON says an image's size, and that is the size of the other, it is believed.
      needs: what the task learns from. "masks": as `masks`, and objects whose mask has no pixel are left out; where
        objects have no file of their own, the things of panoptic masks (coco_things.py). "keypoints": records have
        `keypoints`, of `person_keypoints_*.json` where there is one, with x,y as they are there; "label_map": panoptic
        or stuff masks (coco_maps.py).

    Raises:
      UserError: nothing there by these names; JSON that is cut short or lacks a list; not one image, category or object
        that can be read; a skeleton of keypoints that are none; most images of another size; most boxes in another form
        (mapjax.data.box_forms).

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
    things = coco_things.find(path, annotations, split, hold_out) if needs == "masks" else {}
    if things and classes is None:
        classes = coco_things.names(next(iter(things.values())))
    files = things or coco_files.find(
        path, annotations, split, hold_out, coco_files.KEYPOINTS if needs == "keypoints" else ""
    )
    found = coco_files.open_split(files, split, seed, path, where, images, classes, hold_out, stored)
    if things:
        coco_things.spread(found, path)
    known = found.categories, found.category_ids
    points = coco_categories.keypoint_names(*known, found.file) if needs == "keypoints" else ()
    lines = coco_categories.skeleton_of(*known, points, found.file) if points and skeleton is None else ()
    masks = masks or needs == "masks"
    coco_objects.add_all(found, f"{found.file}, split {split!r}", masks, len(points), needs == "masks")
    mirrored = _mirror(points, pairs, where) if points else None
    packed = Packed(found.folder, list(found.labels.values()), coco_masks.draw if masks else None, mirrored, stored)
    return Source(
        name=where,
        split=split,
        classes=found.names,
        category_ids=found.category_ids,
        records=packed.records(),
        dropped=dict(found.dropped),
        fingerprint=packed.fingerprint(),
        keypoints=points,
        noted=dict(found.noted),
        skeleton=lines if skeleton is None else skeletons.named(skeleton, points, where),
        sigmas=coco_categories.sigmas_of(*known, len(points), found.file) if points else (),
    )


def _mirror(names: Sequence[str], pairs: Sequence[tuple[str, str]] | None, where: str) -> np.ndarray:
    """Tell which keypoint each becomes in a mirror."""
    try:
        return objects.mirrored(names, pairs)
    except KeyError as error:
        wrong = error.args[0]
        raise UserError(f"{where}: pairs={pairs} names {wrong!r}, which is no keypoint.{near(wrong, names)}") from error
