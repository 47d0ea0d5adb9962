"""The categories of a COCO file, and the classes that they become."""

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mapjax.data import fields, skeletons
from mapjax.data.formats.coco_json import number_of
from mapjax.data.skeletons import Skeleton
from mapjax.errors import UserError, near

Dropped = dict[str, list[str]]
Categories = dict[int, Mapping[str, Any]]  # by id

_NAMELESS = "category without an id or a name"


def read(content: Mapping[str, Any], classes: Sequence[str] | None, file: pathlib.Path, dropped: Dropped) -> Categories:
    """Return the categories by id. Left out are those that cannot be read, and the root that exporters add.

    Args:
      content: of the file.
      classes: names that are asked for, which a root may be.
      file: for messages.
      dropped: what is left out, written to.

    Raises:
      UserError: not one can be read, or one is there twice.
    """
    found: Categories = {}
    names = set[str]()
    for position, entry in enumerate(content["categories"]):
        try:
            number = number_of(entry, "id", f"categories[{position}]", file)
            name = fields.text(entry.get("name"))
            if name is None:
                raise UserError(f"{file}: categories[{position}] has no 'name'; add it.")
        except UserError as error:
            dropped[_NAMELESS].append(str(error).rstrip("."))
            continue
        if number in found or name in names:
            raise UserError(f"{file}: two categories have the name {name!r} or the id {number}; change one.")
        found[number] = {**entry, "name": name}
        names.add(name)
    if content["categories"] and not found:
        raise UserError(f"{file}: not one category can be used: {dropped[_NAMELESS][0]}.")
    for number in _roots(found, content["annotations"]):
        if found[number]["name"] not in (classes or ()):
            name = found.pop(number)["name"]
            dropped["category without objects that only groups the others"].append(f"{name} (id {number})")
    return found


def number(
    known: Categories, classes: Sequence[str] | None, file: pathlib.Path
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return the class names in order, and the class of each category id: those in that order, then -1 for others.

    Raises:
      UserError: a class that is no category.
    """
    ids = {entry["name"]: number for number, entry in known.items()}
    names = tuple(sorted(ids, key=ids.__getitem__)) if classes is None else tuple(classes)
    for name in names:
        if name not in ids:
            raise UserError(f"{file} has no category {name!r}.{near(name, ids)}")
    return names, {ids[name]: position for position, name in enumerate(names)} | {
        number: -1 for name, number in ids.items() if name not in names
    }


def keypoint_names(known: Categories, wanted: Collection[int], file: pathlib.Path) -> tuple[str, ...]:
    """Return the names of the keypoints that objects of the wanted categories have.

    Raises:
      UserError: one has none, or others than another has.
    """
    listed = {entry["name"]: entry.get("keypoints") for number, entry in known.items() if number in wanted}
    names = next(iter(listed.values()), None)
    for category, found in listed.items():
        if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
            raise UserError(
                f"{file}: the category {category!r} has no list 'keypoints' of names; add it, or choose classes= that "
                "have one."
            )
        if found != names:
            raise UserError(
                f"{file}: {category!r} has other keypoints than {next(iter(listed))!r}; choose one by classes=."
            )
    return tuple(str(fields.text(name)) for name in names or ())


def skeleton_of(known: Categories, wanted: Collection[int], names: Sequence[str], file: pathlib.Path) -> Skeleton:
    """Return the skeleton of the first wanted category that has one, which joins keypoints by number or by name.

    Raises:
      UserError: it joins a keypoint that is none, or is no list of pairs.
    """
    entries = [known[number] for number in wanted if number in known and known[number].get("skeleton")]
    for entry in entries[:1]:
        where, pairs = f"{file}: category {entry['name']!r}", entry["skeleton"]
        if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise UserError(f"{where}: 'skeleton' must be a list of pairs of keypoints, as in [[1, 2], [2, 3]].")
        if any(isinstance(name, str) and fields.whole(name) is None for pair in pairs for name in pair):
            return skeletons.named([(str(one), str(other)) for one, other in pairs], names, where)
        numbers = [(fields.whole(one) or 0, fields.whole(other) or 0) for one, other in pairs]
        return skeletons.numbered(numbers, len(names), where)
    return ()


def sigmas_of(known: Categories, wanted: Collection[int], count: int, file: pathlib.Path) -> tuple[float, ...]:
    """Return the `sigmas` of the first wanted category that says them, for OKS; () where none does.

    Raises:
      UserError: not one number above 0 for each keypoint.
    """
    entries = [known[number] for number in wanted if number in known and known[number].get("sigmas")]
    for entry in entries[:1]:
        found = fields.numbers(entry["sigmas"], count) if isinstance(entry["sigmas"], list) else None
        if found is None or min(found) <= 0:
            raise UserError(
                f"{file}: category {entry['name']!r}: 'sigmas' must be {count} numbers above 0, one for each keypoint."
            )
        return tuple(found)
    return ()


def _roots(known: Categories, annotations: Sequence[Any]) -> list[int]:
    """Return the ids of categories that others name above them, that are below none, and that no object has."""
    above = {str(entry.get("supercategory")) for entry in known.values()}
    roots = [
        number
        for number, entry in known.items()
        if entry["name"] in above and str(entry.get("supercategory")).casefold() == "none"
    ]
    if not roots or len(roots) == len(known):
        return []
    used = set[int | None]()
    for entry in annotations:
        if isinstance(entry, Mapping):
            segments = entry.get("segments_info")
            parts = segments if isinstance(segments, list) else [entry]
            used |= {fields.whole(part.get("category_id")) for part in parts if isinstance(part, Mapping)}
    return [number for number in roots if number not in used]
