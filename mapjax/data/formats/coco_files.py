"""The JSON files and folders of COCO data sets: found, read, and their categories and images listed."""

import collections
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mapjax.data import fields, lookup, splits
from mapjax.data import images as image_files
from mapjax.data.formats import coco_categories, coco_images
from mapjax.data.formats.coco_json import load, number_of
from mapjax.data.records import Labels, unlabelled
from mapjax.errors import UserError

KEYPOINTS = "person_keypoints"
_OTHER_KINDS = ("captions", KEYPOINTS, "stuff", "panoptic", "image_info")
_KIND = re.compile(f"^(instances|panoptic|stuff|{KEYPOINTS})_")
_LONGEST = 2**24  # pixels of a side
_TRIED = 20  # images looked for in a folder before it is taken for another

Dropped = dict[str, list[str]]


class Split(NamedTuple):
    """One split as its JSON file lists it.

    file, content: the JSON.
    categories: those that are classes, by id.
    names: of the classes.
    numbers: category id → class, -1 for those not asked for.
    listed: all images of the file by id.
    labels: of those of this split that are there, by id, without objects yet.
    others: height, width of images the other way up than their labels, by id, where EXIF turns them by a quarter and
      their headers were read.
    folder: of the images.
    dropped: what is missing.
    noted: what is kept though it is odd.
    """

    file: pathlib.Path
    content: dict[str, Any]
    categories: dict[int, Mapping[str, Any]]
    names: tuple[str, ...]
    numbers: dict[int, int]
    listed: dict[int, dict[str, Any]]
    labels: dict[int, Labels]
    others: dict[int, image_files.Size]
    folder: pathlib.Path
    dropped: Dropped
    noted: Dropped

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Return the category id of each class."""
        return tuple(self.numbers)[: len(self.names)]


def open_split(
    files: Mapping[str, pathlib.Path],
    split: str,
    seed: int,
    path: str | None,
    where: str,
    images: str | Mapping[str, str] | None,
    classes: Sequence[str] | None,
    hold_out: float | int,
    stored: bool,
) -> Split:
    """Read what the file of a split lists; no image is opened, unless the JSON does not say its size.

    Args:
      files: the JSON file of every split; the others as for `coco.make`.
      stored: labels were drawn on the images as stored, whatever EXIF says.

    Raises:
      UserError: as `coco.make`.
    """
    name, part = splits.locate(split, files, where, hold_out)
    file = files[name]
    content = load(file)
    dropped: Dropped = collections.defaultdict(list)
    known = coco_categories.read(content, classes, file, dropped)
    names, numbers = coco_categories.number(known, classes, file)
    listed = listed_images(content["images"], file, dropped)
    names_once = list(dict.fromkeys(entry["file_name"] for entry in listed.values()))
    kept = set(splits.take(names_once, part, seed, hold_out))
    entries = {number: entry for number, entry in listed.items() if entry["file_name"] in kept}
    every = [entry["file_name"] for entry in entries.values()]
    folder = image_folder(path, images, split, file, [name for name in every if coco_images.is_plain(name)] or every)
    coco_images.leave_out_strays(entries, folder, pathlib.Path(path) if path is not None else folder, file, dropped)
    labels, others = present(entries, folder, stored, dropped)
    coco_images.leave_out_misfits(labels, folder, f"{file}, split {split!r}", dropped)
    noted: Dropped = collections.defaultdict(list)
    return Split(file, content, known, names, numbers, listed, labels, others, folder, dropped, noted)


def find(
    path: str | None, annotations: str | Mapping[str, str] | None, split: str, share: float | int, kind: str = ""
) -> dict[str, pathlib.Path]:
    """Find the JSON file of every split, as `coco.make` says; of a kind such as "panoptic", or of objects.

    Where KEYPOINTS have no files of their own, those of objects are taken, and the other way round.

    Raises:
      UserError: no such folder, or nothing there of this kind.
    """
    if isinstance(annotations, Mapping):
        return {name: pathlib.Path(file) for name, file in annotations.items()}
    if annotations is not None:
        return {"train" if share else split: pathlib.Path(annotations)}
    if path is None:
        raise UserError("coco needs path=, the data folder, or annotations= and images=.")
    root = pathlib.Path(path)
    if not root.is_dir():
        raise UserError(f"{path} is not a folder: --data coco:DIR needs one with annotations/*.json and images.")
    candidates = [*root.glob("annotations/*.json"), *root.glob("*.json"), *root.glob("*/_annotations.coco.json")]
    chosen = [file for file in candidates if kind and file.stem.startswith(f"{kind}_")]
    if not kind or (kind == KEYPOINTS and not chosen):
        chosen = [file for file in candidates if not file.stem.startswith(_OTHER_KINDS)]
    if not kind and not chosen:  # these have boxes too
        chosen = [file for file in candidates if file.stem.startswith(f"{KEYPOINTS}_")]
    found: dict[str, pathlib.Path] = {_split_in(file): file for file in sorted(chosen)}
    if not found:
        what = f"annotations/{kind}_*.json" if kind else "annotations/*.json"
        raise UserError(f"{path} has no {what}; put the COCO files there or name one by annotations=.")
    years: dict[str, list[str]] = collections.defaultdict(list)
    for stem in found:
        years[re.sub(r"_?\d{4}$", "", stem)].append(stem)
    found |= {short: found[stems[0]] for short, stems in years.items() if len(stems) == 1 and short}
    if len(set(found.values())) == 1 and splits.find(split, found) is None and splits.find("train", found) is None:
        found["train"] = next(iter(found.values()))  # one file of any other name holds everything
    return found


def _split_in(file: pathlib.Path) -> str:
    """Return the split that the name of a file says."""
    return file.parent.name if file.name == "_annotations.coco.json" else _KIND.sub("", file.stem)


def listed_images(entries: list[Any], file: pathlib.Path, dropped: Dropped) -> dict[int, dict[str, Any]]:
    """Return the images by id; those without an id or a name are left out.

    Raises:
      UserError: none has both.
    """
    found: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        try:
            number = number_of(entry, "id", f"images[{position}]", file)
            name = entry.get("file_name")
            if not isinstance(name, str) or not coco_images.can_be_a_file(name):
                state = "has no 'file_name'; add it" if name is None else f"has the 'file_name' {name!r}; correct it"
                raise UserError(f"{file}: images[{position}] {state}.")
        except UserError as error:
            dropped["image without an id or a name"].append(str(error).rstrip("."))
            continue
        if number in found:
            dropped["repeated image id"].append(f"{name} (id {number})")
        else:
            found[number] = entry
    if entries and not found:
        raise UserError(f"{file}: not one image can be used: {dropped['image without an id or a name'][0]}.")
    return found


def image_folder(
    path: str | None, images: str | Mapping[str, str] | None, split: str, file: pathlib.Path, names: list[str]
) -> pathlib.Path:
    """Find the folder that the file names are relative to.

    Raises:
      UserError: none has the first of them.
    """
    given = images.get(split) if isinstance(images, Mapping) else images
    stem = _split_in(file)
    short = re.sub(r"_?\d{4}$", "", stem)
    root = file.parent if path is None else pathlib.Path(path)
    below = (stem, short, f"images/{stem}", f"images/{short}", "images", "JPEGImages", "")
    tried = [pathlib.Path(given)] if given else [*(root / folder for folder in below), file.parent]
    looked_up = [(folder, lookup.Files(folder)) for folder in tried]
    there = [folder for folder in tried if not names or any((folder / name).is_file() for name in names[:_TRIED])]
    there += [folder for folder, files in looked_up if any(map(files.find, names[:_TRIED]))]  # spelled otherwise
    if there:
        return there[0]
    places = ", ".join(str(folder) for folder in dict.fromkeys(tried))
    hint = next(filter(None, (files.hint(names[0]) for _, files in looked_up)), "")
    raise UserError(
        f"{file}: no image such as {names[0]!r} in {places}{hint}; name the folder by images=, and write the names as "
        "they are within it."
    )


def present(
    entries: Mapping[int, dict[str, Any]], folder: pathlib.Path, stored: bool, dropped: Dropped
) -> tuple[dict[int, Labels], dict[int, image_files.Size]]:
    """Start the labels of every image that is there; and give the `others` of `Split`."""
    files = lookup.Files(folder)
    labels, others = {}, {}
    for number, entry in entries.items():
        name = files.find(entry["file_name"])
        if name is None:
            hint = "" if dropped["missing image"] else files.hint(entry["file_name"])
            dropped["missing image"].append(entry["file_name"] + hint)
            continue
        height, width = (fields.whole(entry.get(key), 1, _LONGEST) for key in ("height", "width"))
        if height is None or width is None:
            try:
                header = image_files.read_header(str(folder / name))
            except UserError as error:
                dropped[image_files.fault_of(error)].append(name)
                continue
            (height, width), others[number] = image_files.frames(header, (0, 0), stored=stored)
        labels[number] = unlabelled(number, name, (height, width))
    return labels, others
