"""COCO JSON: a folder with `annotations/*.json` and image folders, or their paths given.

Categories become 0-based classes in the order of their ids; `iscrowd` objects become `crowd`: no positives in training,
ignored in evaluation. Boxes x,y,width,height become x1,y1,x2,y2. Images without objects are kept.
"""

import collections
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mapjax.data import coco_masks, splits
from mapjax.data import images as pictures
from mapjax.data.records import Labels, Packed, check_box
from mapjax.data.source import Source
from mapjax.errors import UserError, near

_OTHER_KINDS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
_TRIED = 20  # images looked for in a folder before it is taken for another

Dropped = dict[str, list[str]]


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
) -> Source:
    """Read one split of a COCO data set; no image is opened, unless the JSON does not say its size.

    Left out and counted in `dropped`: images that are missing or listed twice; objects of an unknown image or
    category, without a box, or with one that is empty or outside; boxes are clipped to the picture.

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

    Raises:
      UserError: nothing there by these names; JSON that is cut short, lacks a key or has ids that are no numbers.
    """
    where = f"coco:{path if path is not None else annotations}"
    files = _files(path, annotations, split, hold_out)
    name, part = splits.locate(split, files, where, hold_out)
    file = files[name]
    content = _load(file)
    names, numbers = _categories(content["categories"], classes, file)
    dropped: Dropped = collections.defaultdict(list)
    listed = _images(content["images"], file, dropped)
    kept = set(splits.take([entry["file_name"] for entry in listed.values()], part, seed, hold_out))
    entries = {number: entry for number, entry in listed.items() if entry["file_name"] in kept}
    folder = _image_folder(path, images, split, file, [entry["file_name"] for entry in entries.values()])
    labels = _pictures(entries, folder, file, dropped)
    for position, entry in enumerate(content["annotations"]):
        _add_object(entry, position, labels, listed, numbers, masks, file, dropped)
    packed = Packed(folder, list(labels.values()), coco_masks.draw if masks else None)
    category_ids = tuple(numbers)[: len(names)]
    return Source(where, split, names, category_ids, packed.records(), dict(dropped), packed.fingerprint())


def _files(
    path: str | None, annotations: str | Mapping[str, str] | None, split: str, share: float | int
) -> dict[str, pathlib.Path]:
    """Find the JSON file of every split."""
    if isinstance(annotations, Mapping):
        return {name: pathlib.Path(file) for name, file in annotations.items()}
    if annotations is not None:
        return {"train" if share else split: pathlib.Path(annotations)}
    if path is None:
        raise UserError("coco needs path=, the data folder, or annotations= and images=.")
    root = pathlib.Path(path)
    if not root.is_dir():
        raise UserError(f"{path} is not a folder: --data coco:DIR needs one with annotations/*.json and images.")
    found: dict[str, pathlib.Path] = {}
    candidates = [*root.glob("annotations/*.json"), *root.glob("*.json"), *root.glob("*/_annotations.coco.json")]
    for file in sorted(candidates):
        stem = file.parent.name if file.name == "_annotations.coco.json" else file.stem.removeprefix("instances_")
        if file.stem.startswith(_OTHER_KINDS):
            continue
        found[stem] = file
    if not found:
        raise UserError(f"{path} has no annotations/*.json; put the COCO files there or name one by annotations=.")
    years: dict[str, list[str]] = collections.defaultdict(list)
    for stem in found:
        years[re.sub(r"_?\d{4}$", "", stem)].append(stem)
    found |= {short: found[stems[0]] for short, stems in years.items() if len(stems) == 1 and short}
    if len(set(found.values())) == 1 and splits.find(split, found) is None and splits.find("train", found) is None:
        found["train"] = next(iter(found.values()))  # one file of any other name holds everything
    return found


def _load(file: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{file}: there is no such annotation file.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{file} is not whole JSON ({error}); it may be cut short: fetch it again.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{file} lacks the list {key!r}; a COCO file has images, annotations and categories.")
    return content


def _number(entry: Any, key: str, what: str, file: pathlib.Path) -> int:
    """Return a whole-number id of an entry, or say what is wrong with it."""
    if not isinstance(entry, Mapping) or key not in entry:
        raise UserError(f"{file}: {what} has no {key!r}; add it.")
    value = entry[key]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{file}: {key!r} of {what} is {value!r}; COCO's ids are whole numbers, so write one.")
    return value


def _categories(
    categories: list[Any], classes: Sequence[str] | None, file: pathlib.Path
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return the class names in order, and the class of each category id: those in that order, then -1 for others."""
    ids: dict[str, int] = {}
    for position, entry in enumerate(categories):
        number = _number(entry, "id", f"categories[{position}]", file)
        name = entry.get("name")
        if not isinstance(name, str):
            raise UserError(f"{file}: categories[{position}] has no 'name'; add it.")
        if name in ids or number in ids.values():
            raise UserError(f"{file}: two categories have the name {name!r} or the id {number}; change one.")
        ids[name] = number
    names = tuple(sorted(ids, key=ids.__getitem__)) if classes is None else tuple(classes)
    for name in names:
        if name not in ids:
            raise UserError(f"{file} has no category {name!r}.{near(name, ids)}")
    return names, {ids[name]: position for position, name in enumerate(names)} | {
        number: -1 for name, number in ids.items() if name not in names
    }


def _images(entries: list[Any], file: pathlib.Path, dropped: Dropped) -> dict[int, dict[str, Any]]:
    """Return the images by id."""
    found: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        number = _number(entry, "id", f"images[{position}]", file)
        if not isinstance(entry.get("file_name"), str):
            raise UserError(f"{file}: images[{position}] has no 'file_name'; add it.")
        if number in found:
            dropped["repeated image id"].append(f"{entry['file_name']} (id {number})")
        else:
            found[number] = entry
    return found


def _image_folder(
    path: str | None, images: str | Mapping[str, str] | None, split: str, file: pathlib.Path, names: list[str]
) -> pathlib.Path:
    """Find the folder that the file names are relative to."""
    given = images.get(split) if isinstance(images, Mapping) else images
    stem = file.parent.name if file.name == "_annotations.coco.json" else file.stem.removeprefix("instances_")
    short = re.sub(r"_?\d{4}$", "", stem)
    root = file.parent if path is None else pathlib.Path(path)
    below = (stem, short, f"images/{stem}", f"images/{short}", "images", "JPEGImages", "")
    tried = [pathlib.Path(given)] if given else [*(root / folder for folder in below), file.parent]
    for folder in tried:
        if not names or any((folder / name).is_file() for name in names[:_TRIED]):
            return folder
    places = ", ".join(str(folder) for folder in dict.fromkeys(tried))
    raise UserError(f"{file}: no image such as {names[0]!r} in {places}; name the folder by images=.")


def _pictures(
    entries: Mapping[int, dict[str, Any]], folder: pathlib.Path, file: pathlib.Path, dropped: Dropped
) -> dict[int, Labels]:
    """Start the labels of every image that is there."""

    @functools.cache
    def listing(parent: str) -> frozenset[str]:
        return frozenset(os.listdir(folder / parent) if (folder / parent).is_dir() else ())

    labels = {}
    for number, entry in entries.items():
        name = entry["file_name"]
        parent, base = os.path.split(name)
        if base not in listing(parent):
            dropped["missing image"].append(name)
            continue
        height, width = entry.get("height"), entry.get("width")
        if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
            try:
                height, width = pictures.read_size(str(folder / name))
            except UserError:
                dropped["unreadable image"].append(name)
                continue
        labels[number] = Labels(number, name, (height, width), [], [], [], [], [])
    return labels


def _add_object(
    entry: Any,
    position: int,
    labels: Mapping[int, Labels],
    listed: Iterable[int],
    numbers: Mapping[int, int],
    masks: bool,
    file: pathlib.Path,
    dropped: Dropped,
) -> None:
    """Check one annotation and add it to the labels of its image, if that is in this split."""
    what = f"annotations[{position}]"
    image = _number(entry, "image_id", what, file)
    category = _number(entry, "category_id", what, file)
    name = f"{what} (id {entry.get('id')})"
    one = labels.get(image)
    if one is None:
        if image not in listed:
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
