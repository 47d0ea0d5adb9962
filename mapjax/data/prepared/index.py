"""What `index.json` of a prepared data set must have; files may come from anyone."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mapjax.data import fields
from mapjax.data.labels import KINDS
from mapjax.runtime.names import encoded

_MOST = 2**53  # records, bytes
_LONGEST = 255  # bytes of the name of a file, on most disks


def fault(index: Mapping[str, Any]) -> str:
    """Say which key of an index cannot be, and why; nothing where all can be used."""
    names = {"classes": _is_names, "category_ids": _is_ids, "keypoints": _is_names, "kinds": _is_kinds}
    needed = ("classes", "category_ids")
    for key, good in names.items():
        if (key in needed or key in index) and not good(index.get(key)):
            return f"{key!r} is no list of {'numbers' if good is _is_ids else 'names'}"
    if len(index["classes"]) != len(index["category_ids"]):
        return f"{len(index['classes'])} 'classes' have {len(index['category_ids'])} 'category_ids'"
    points = index.get("keypoints", ())
    if not _is_skeleton(index.get("skeleton", []), len(points)):
        return "'skeleton' is no list of pairs of keypoints"
    if not _is_sigmas(index.get("sigmas", []), len(points)):
        return "'sigmas' are no numbers above 0, one for each keypoint"
    if index.get("kind", "") not in ("", *KINDS):
        return "'kind' is no kind of label"
    if not isinstance(index.get("splits"), Mapping):
        return "there are no 'splits'"
    found = ((name, _fault_of_split(split)) for name, split in index["splits"].items())
    return next((f"split {name!r}: {wrong}" for name, wrong in found if wrong), "")


def _fault_of_split(split: Any) -> str:
    if not isinstance(split, Mapping) or not isinstance(split.get("shards"), list):
        return "there are no 'shards'"
    for key, entry in [("labels", split.get("labels")), *(("shards", one) for one in split["shards"])]:
        if wrong := _fault_of_file(entry):
            return f"{key!r} has {wrong}"
    records = [fields.whole(one.get("records"), 0, _MOST) for one in (split, *split["shards"])]
    counted = [count for count in records if count is not None]
    if len(counted) < len(records) or counted[0] != sum(counted[1:]):
        return "'records' do not add up"
    if not isinstance(split.get("fingerprint"), str):
        return "there is no 'fingerprint'"
    lists = [split.get("dropped"), split.get("noted", {})]
    if not all(isinstance(one, Mapping) and all(map(_is_names, one.values())) for one in lists):
        return "'dropped' or 'noted' is no list of names for each reason"
    return ""


def _is_name(name: str) -> bool:
    """Tell whether a file of a folder can be called so."""
    return len(encoded(name)) <= _LONGEST and pathlib.PurePath(name).name == name and "\0" not in name


def _fault_of_file(entry: Any) -> str:
    """Say what an entry of a file lacks: a name in this folder, its bytes, its checksum."""
    if not isinstance(entry, Mapping):
        return "no entry of a file"
    name = entry.get("file")
    if not isinstance(name, str) or not _is_name(name):
        return f"the file {name!r}, which is no name in this folder"
    if not isinstance(entry.get("bytes"), int) or fields.whole(entry["bytes"], 0, _MOST) is None:
        return f"no number of 'bytes' for {name!r}"
    return "" if isinstance(entry.get("sha256"), str) else f"no 'sha256' for {name!r}"


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) and fields.whole(one) is not None for one in value)


def _is_skeleton(value: Any, count: int) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, int) and 0 <= one < count for one in pair)
        for pair in value
    )


def _is_sigmas(value: Any, count: int) -> bool:
    if not isinstance(value, list):
        return False
    return not value or (len(value) == count and all(isinstance(one, int | float) and one > 0 for one in value))


def _is_kinds(value: Any) -> bool:
    return _is_names(value) and set(value) <= KINDS.keys()
