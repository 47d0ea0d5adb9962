"""COCO JSON: a folder with `annotations/*.json` and image folders, or both paths given.

Categories become 0-based classes in the order of their ids; `iscrowd` objects become `crowd`: no positives in training,
ignored in evaluation. Boxes x,y,width,height become x1,y1,x2,y2. Images without objects are kept.
"""

import collections
import functools
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mapjax.data import images as pictures
from mapjax.data import masks as segmentations
from mapjax.data import splits
from mapjax.data.records import Labels, Packed, check_box
from mapjax.data.source import Source
from mapjax.errors import UserError

_OTHER_KINDS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
_TRIED = 20  # images looked for in a folder before it is taken for another


def make(
    *,
    split: str,
    seed: int = 0,
    path: str | None = None,
    annotations: str | None = None,
    images: str | None = None,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    hold_out: float = 0.1,
) -> Source:
    """Read one split of a COCO data set; no image is opened, unless the JSON does not say its size.

    Left out and counted in `dropped`: images that are missing or listed twice; objects of an unknown image or
    category, without a box, or with one that is empty or outside; boxes are clipped to the picture.

    Args:
      split: found in the names of the JSON files: "val" is `instances_val2017.json`, `val.json` or
        `valid/_annotations.coco.json`; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the data folder.
      annotations: the JSON file, instead of looking for one below `path`; `split` only names it, unless it is "val"
        or "train" and `hold_out` > 0 was asked for by leaving `path` out of it.
      images: the image folder, instead of looking for one.
      classes: names of categories in order; the objects of others are dropped. By default all of them.
      masks: records have `masks`, from the segmentations.
      hold_out: share of "train" that becomes "val" if there is no such file; 0 for none.

    Raises:
      UserError: nothing there by these names; JSON that is cut short, lacks a key or holds ids that are no numbers.
    """
    where = f"coco:{path or annotations}"
    file, kept = _find(path, annotations, split, where, hold_out)
    content = _load(file)
    names, category_ids = _categories(content["categories"], classes, file)
    dropped: dict[str, list[str]] = collections.defaultdict(list)
    entries = _images(content["images"], file, dropped)
    if kept:
        inside = splits.hold_out([entry["file_name"] for entry in entries.values()], seed, hold_out)[kept == "val"]
        chosen = set(inside)
        entries = {number: entry for number, entry in entries.items() if entry["file_name"] in chosen}
    folder = _image_folder(path, images, file, [entry["file_name"] for entry in entries.values()])
    labels = _labels(entries, folder, file, dropped)
    _objects(content["annotations"], labels, dict(zip(category_ids, range(len(names)))), file, dropped, content, masks)
    records = Packed(folder, list(labels.values()), segmentations.draw if masks else None)
    return Source(where, split, names, category_ids, records, dict(dropped), records.fingerprint())
