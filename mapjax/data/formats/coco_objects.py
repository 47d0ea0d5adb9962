"""The objects of a COCO file: each is read as far as it can be, and an image with one that cannot is left out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from mapjax.data import box_forms, fields, images, objects
from mapjax.data.box_forms import Written
from mapjax.data.formats import coco_images, coco_masks
from mapjax.data.formats.coco_files import Split
from mapjax.data.formats.coco_json import number_of
from mapjax.data.geometry import Size
from mapjax.data.records import check_box
from mapjax.errors import UserError

_SHOWN = 40  # letters of an id
_MOST_AREA = float(np.finfo(np.float32).max)


class _Unreadable(Exception):
    """An object that cannot be read, though there is one: the reason."""


class _Wanted(NamedTuple):
    """What objects are to have beside their boxes; of keypoints the number. `only` masks: those without go."""

    masks: bool
    keypoints: int
    only: bool


def add_all(split: Split, where: str, masks: bool, keypoints: int, only: bool = False) -> None:
    """Add the annotations of a split to the labels of its images, and take out the images of those that are unreadable.

    Args:
      split: written to.
      where: the file and the split, for messages.
      masks: whether segmentations are read.
      keypoints: how many an object has, 0 where they are not read.
      only: an object whose mask has no pixel is left out, unless it is a crowd; and an image with one that has none.

    Raises:
      UserError: not one annotation or image can be used, most files are listed twice, or most boxes are written in
        another form.
    """
    written, wanted = Written(box_forms.SIDES), _Wanted(masks, keypoints, only)
    joined = coco_images.join_repeated(split.labels, where, split.dropped)
    spoilt: dict[int, tuple[str, str]] = {}
    astray: list[str] = []
    for position, entry in enumerate(split.content["annotations"]):
        what = f"annotations[{position}]"
        try:
            image = number_of(entry, "image_id", what, split.file)
        except UserError as error:
            astray.append(str(error))
            continue
        name = f"{what} (id {str(entry.get('id'))[:_SHOWN]})"
        if image not in split.listed:
            split.dropped["unknown image id"].append(name)
        elif (image := joined.get(image, image)) in split.labels:
            try:
                _add(entry, name, split, image, wanted, written)
            except _Unreadable as error:
                spoilt.setdefault(image, (str(error), name))
    if astray and len(astray) == len(split.content["annotations"]):
        raise UserError(f"{split.file}: not one of its {len(astray)} annotations can be used: {astray[0]}")
    if astray:
        split.dropped["annotation without an image id"] = [one.rstrip(".") for one in astray]
    if spoilt and len(spoilt) == len(split.labels):
        reason, name = next(iter(spoilt.values()))
        raise UserError(
            f"{split.file}: not one of {len(spoilt)} images can be used: each has an object that cannot be read, such "
            f"as {reason}, {name}; correct the annotations."
        )
    for image, (reason, name) in spoilt.items():
        split.dropped[f"image with {reason}"].append(f"{split.labels.pop(image).file}, {name}")
    written.require_plausible(where)
    split.noted.update(written.noted())


def _add(entry: Mapping[str, Any], name: str, split: Split, image: int, wanted: _Wanted, written: Written) -> None:
    """Add one annotation to the labels of its image.

    Raises:
      _Unreadable: there is an object, and what it is, or where, cannot be read.
    """
    one, category = split.labels[image], fields.whole(entry.get("category_id"))
    if category not in split.numbers:
        raise _Unreadable(f"an object of {'an unknown' if 'category_id' in entry else 'no'} category id")
    if split.numbers[category] < 0:
        split.dropped["class not asked for"].append(name)
        return
    x, y, width, height = _box(entry, one.size, name, split)
    other = split.others.get(image, one.size)
    written.add((x, y, width, height), one.size, other, name)
    corners = x, y, x + width, y + height
    if other_way := images.fault_of_box(corners, one.size, other):
        split.noted[other_way].append(name)
    clipped, reason = check_box(corners, one.size)
    if clipped is None:
        split.dropped[reason or ""].append(name)
        return
    mask, fault = _mask(entry.get("segmentation"), one.size) if wanted.masks else ((), "")
    if mask is None:
        raise _Unreadable(fault)
    crowd = _crowd(entry, name, split)
    if wanted.only and not crowd and (fault := coco_masks.lack(entry.get("segmentation"), mask, one.size)):
        if not entry.get("segmentation"):
            raise _Unreadable(f"an {fault}")
        split.dropped[fault].append(name)
        return
    if isinstance(mask, tuple) and 0 < len(mask) < len(entry["segmentation"]):
        split.noted["polygon of fewer than three corners, left out of its object"].append(name)
    if box_forms.is_clipped(corners, clipped):
        split.noted["box clipped to the image"].append(name)
    one.boxes.append(clipped)
    one.classes.append(split.numbers[category])
    one.crowd.append(crowd)
    one.areas.append(_area(entry, width * height, name, split))
    if wanted.masks:
        one.segmentations.append(mask)
        if isinstance(mask, tuple) and mask and not isinstance(mask, coco_masks.Segment):
            written.add_points(np.concatenate(mask), name)
    if wanted.keypoints:
        points = _keypoints(entry.get("keypoints"), wanted.keypoints, one.size, name, split)
        written.add_points(points[points[:, 2] > 0, :2], name)
        one.keypoints.append(points)


def _box(entry: Mapping[str, Any], size: Size, name: str, split: Split) -> tuple[float, ...]:
    """Return x, y, width, height: of `bbox`, or around the segmentation where that cannot be read."""
    box = fields.numbers(entry.get("bbox"), 4)
    if box is not None and max(map(abs, box)) <= _MOST_AREA**0.5:  # so that its area is a number too
        return box
    mask, _ = _mask(entry.get("segmentation"), size)
    if not mask:
        raise _Unreadable("an object without a box of four finite numbers")
    split.noted["box that cannot be read, taken around the segmentation"].append(name)
    x1, y1, x2, y2 = coco_masks.bounds(mask, size).tolist()
    return x1, y1, x2 - x1, y2 - y1


def _crowd(entry: Mapping[str, Any], name: str, split: Split) -> bool:
    crowd = fields.flag(entry.get("iscrowd"))
    if crowd is None:
        split.noted["iscrowd that cannot be read, taken as 0"].append(name)
    return bool(crowd)


def _area(entry: Mapping[str, Any], of_box: float, name: str, split: Split) -> float:
    given = entry.get("area")
    area = fields.number(given)
    if area is not None and 0 <= area <= _MOST_AREA:
        return area
    if given is not None:
        split.noted["area that cannot be read, taken of the box"].append(name)
    return of_box


def _mask(segmentation: Any, size: Size) -> tuple[coco_masks.Packed | None, str]:
    """Pack a segmentation; None for one that is of another size, cut short, or no numbers, and what it has."""
    try:
        return coco_masks.pack(segmentation, size), ""
    except coco_masks.Misfit as error:
        return None, error.reason
    except (ValueError, TypeError, OverflowError):
        return None, "a segmentation that cannot be read"


def _keypoints(given: Any, count: int, size: Size, name: str, split: Split) -> Float32[np.ndarray, "k 3"]:
    """Read a flat list x,y,visibility; zeros, which are not labelled, where there is none or it cannot be read."""
    points = np.zeros((count, 3), np.float32)
    if given is not None:
        try:
            with np.errstate(over="ignore"):
                found = np.array(given, np.float32).reshape(count, 3)
        except (ValueError, TypeError, OverflowError):
            found = np.full((count, 3), np.nan, np.float32)
        if np.isfinite(found).all():
            points = found
        else:
            reason = f"keypoints that are not {count} times x, y, visibility, taken as not labelled"
            split.noted[reason].append(name)
    seen = objects.seen(points, size)
    if not np.array_equal(seen[:, 2] > 0, points[:, 2] > 0):
        split.dropped["keypoint outside the image"].append(name)
    return seen
