"""Kinds of labels, once: `KINDS` has a row for each, and whatever differs between kinds is a function of its row.

Sources, transforms, checks, prepared data, scores and predictions ask this table; nothing else asks what labels a
record, an example or a batch holds. A kind belongs to the image (`label`, `labels`), to its pixels (`label_map`) or to
its objects (`boxes` with their classes; `masks` and `keypoints` beside them).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.data import geometry, object_labels, run_lengths
from mapjax.data.object_labels import Rows
from mapjax.data.objects import Motion, Values
from mapjax.errors import UserError
from mapjax.stages import KEYS, VOID

RECORD, OBJECTS = "record", "objects"  # what counts the rows of stored arrays


class Kind(NamedTuple):
    """All that differs between kinds of labels.

    keys: of a record; it has the kind if it has the first, and may have the others. An example has `box_masks` in place
      of `masks`.
    of: "image", "pixel" or "object": what has such a label. Records that are looked at as of this kind have the check
      of that thing (checks/quality.py).
    blank(size) -> the labels of an image of height, width that has none
    renumber(record, places, count) -> the labels where class k has become places[k], of `count`
    move(record, motion) -> the labels in another frame
    layout: the arrays in which the labels of many records stand end to end, and what counts the rows of each: RECORD
      (one a record), OBJECTS (one an object), or another array that holds their numbers. {}: a record alone holds them.
    store(record) -> the record with the labels as arrays, as shards have it
    restore(record) -> the record again
    fault(record) -> what is wrong with the labels of a record, or nothing
    measure(record) -> an array to count
    count(measures of records) -> rows for the table of checks, and what is not there to learn from, or nothing. None
      where a module of data/checks counts this kind.
    known(records) -> whether `Records` say, without one being made, that they have the kind

    Example:
      >>> from mapjax.data import labels
      >>> labels.KINDS["boxes"].keys
      ('boxes', 'classes', 'crowd', 'areas')
    """

    keys: tuple[str, ...]
    of: str
    blank: Callable[[geometry.Size], Values]
    move: Callable[[Values, Motion], Values]
    layout: Mapping[str, str]
    renumber: Callable[[Values, np.ndarray, int], Values] = lambda record, places, count: {}
    store: Callable[[Values], Values] = lambda record: record
    restore: Callable[[Values], Values] = lambda record: record
    fault: Callable[[Values], str] = lambda record: ""
    measure: Callable[[Values], np.ndarray] | None = None
    count: Callable[[Sequence[np.ndarray]], tuple[Rows, str]] = lambda measures: ({}, "")
    known: Callable[[Any], bool] = lambda records: False


def has(values: Mapping[str, Any], kind: str) -> bool:
    """Tell whether a record, an example or a batch has labels of a kind."""
    return KINDS[kind].keys[0] in values


def present(values: Mapping[str, Any]) -> list[str]:
    """Return the kinds of labels that a record, an example or a batch has."""
    return [name for name in KINDS if has(values, name)]


def kinds_of(thing: str) -> list[str]:
    """Return the kinds of labels that a thing may have: "image", "pixel" or "object"."""
    return [name for name, kind in KINDS.items() if kind.of == thing]


def leading(values: Mapping[str, Any]) -> str | None:
    """Return the kind as which a record is looked at, the first in the table that it has; None: it has no labels."""
    return next(iter(present(values)), None)


def known(records: Any) -> str | None:
    """Return the kind that `Records` say that they have without one being made; None: they do not say."""
    return next((name for name, kind in KINDS.items() if kind.known(records)), None)


def serve(kinds: Iterable[str], needs: str) -> bool:
    """Tell whether labels of some kinds are what a task learns from; one class of an image and several are alike."""
    alike = kinds_of("image") if needs in kinds_of("image") else [needs]
    return needs not in KINDS or not set(alike).isdisjoint(kinds)


def of_image(values: Mapping[str, Any]) -> str | None:
    """Return what whole images have: "label", one class, or "labels", any number of them; None: neither."""
    return next((name for name in kinds_of("image") if has(values, name)), None)


def blank(size: geometry.Size, *kinds: str) -> Values:
    """Return the labels, of some kinds, of an image of height, width that has none."""
    return {key: value for name in kinds for key, value in KINDS[name].blank(size).items()}


def renumber(record: Mapping[str, Any], places: np.ndarray, count: int) -> Values:
    """Return a record whose class k is called places[k], of `count` classes."""
    found = dict(record)
    for name in present(record):
        found |= KINDS[name].renumber(found, places, count)
    return found


def move(record: Mapping[str, Any], motion: Motion, kinds: Iterable[str] | None = None) -> Values:
    """Return the labels of a record in another frame; by default all that it has, else those of some kinds."""
    moved: Values = {}
    for name in KINDS if kinds is None else kinds:
        if has(record, name):
            moved |= KINDS[name].move(dict(record), motion)
    return moved


def require(record: Mapping[str, Any], kinds: Iterable[str] | None = None) -> None:
    """Check that the labels of a record fit together, and fit its image: all that it has, or those of some kinds.

    Raises:
      UserError: naming the file, and what is wrong.
    """
    for name in KINDS if kinds is None else kinds:
        if has(record, name) and (fault := KINDS[name].fault(dict(record))):
            raise UserError(f"{record.get('file')} {fault}")


def store(record: Mapping[str, Any]) -> Values:
    """Return a record whose labels are arrays of numbers, as shards hold it."""
    found = dict(record)
    for name in present(record):
        found = KINDS[name].store(found)
    return found


def restore(record: Mapping[str, Any]) -> Values:
    """Return the record again of which `store` made arrays."""
    found = dict(record)
    for kind in KINDS.values():
        found = kind.restore(found)
    return found


def _table(key: str, value: Any) -> np.ndarray:
    return np.asarray(value, KEYS[key].dtype)


def _axes(records: Any) -> int | None:
    """Count the axes of the array of the labels of all images, where records have one."""
    found = getattr(records, "labels", lambda: None)()
    return None if found is None else found.ndim


def _renumbered(key: str) -> Callable[..., Values]:
    return lambda record, places, count: {key: places[record[key]]}


def _renumber_map(record: Values, places: np.ndarray, count: int) -> Values:
    """Void stays as it is; so does what is not a class."""
    del count
    table = np.full(256, VOID, np.uint8)
    table[: len(places)] = places
    return {"label_map": table[record["label_map"]]}


def _spread(record: Values, places: np.ndarray, count: int) -> Values:
    """Move column k of yes/no labels (… c) to column places[k]; columns that become one say yes where any did."""
    spread = np.zeros((*record["labels"].shape[:-1], count), bool)
    for column, place in enumerate(places.tolist()):
        spread[..., place] |= record["labels"][..., column]
    return {"labels": spread}


def _move_map(record: Values, motion: Motion) -> Values:
    return {"label_map": geometry.map_labels(motion.matrix, record["label_map"], motion.frame, VOID)}


def _fault_of_map(record: Values) -> str:
    size, found = object_labels.size_of(record), record["label_map"].shape
    if found == size:
        return ""
    return (
        f"has {size[0]}×{size[1]} pixels (height × width) and its mask {found[0]}×{found[1]}; draw the mask again, or "
        "restore the image."
    )


KINDS: dict[str, Kind] = {
    "boxes": Kind(
        ("boxes", "classes", "crowd", "areas"),
        "object",
        object_labels.no_boxes,
        object_labels.move_boxes,
        dict.fromkeys(("boxes", "classes", "crowd", "areas"), OBJECTS),
        renumber=_renumbered("classes"),
        fault=object_labels.fault_of_boxes,
    ),
    "masks": Kind(
        ("masks", "box_masks"),
        "object",
        lambda size: {"masks": np.zeros((0, *size), bool)},
        object_labels.move_masks,
        {"mask_bytes": OBJECTS, "mask_runs": "mask_bytes"},
        store=object_labels.store_masks,
        restore=object_labels.restore_masks,
        fault=object_labels.fault_of_masks,
        measure=lambda record: np.array([run_lengths.area(mask) for mask in record["masks"]]),
        count=object_labels.count_masks,
    ),
    "keypoints": Kind(
        ("keypoints", "mirrored"),
        "object",
        lambda size: {"keypoints": np.zeros((0, 0, 3), np.float32), "mirrored": np.zeros(0, np.int32)},
        object_labels.move_keypoints,
        {"keypoints": OBJECTS, "mirrored": RECORD},
        fault=object_labels.fault_of_keypoints,
        measure=object_labels.measure_keypoints,
        count=object_labels.count_keypoints,
    ),
    "labels": Kind(
        ("labels",),
        "image",
        lambda size: {"labels": np.zeros(0, bool)},
        lambda record, motion: {"labels": _table("labels", record["labels"])},
        {"labels": RECORD},
        renumber=_spread,
        known=lambda records: _axes(records) == 2,
    ),
    "label": Kind(
        ("label",),
        "image",
        lambda size: {"label": np.int32(0)},
        lambda record, motion: {"label": _table("label", record["label"])},
        {"label": RECORD},
        renumber=_renumbered("label"),
        known=lambda records: _axes(records) == 1,
    ),
    "label_map": Kind(
        ("label_map",),
        "pixel",
        lambda size: {"label_map": np.full(size, VOID, np.uint8)},
        _move_map,
        {},
        renumber=_renumber_map,
        fault=_fault_of_map,
        known=lambda records: getattr(records, "label_map", None) is not None,
    ),
}
