"""Kinds of labels, once: `KINDS` has a row for each, and whatever differs between kinds is a function of its row.

Sources, transforms, checks, prepared data, scores and predictions ask this table; nothing else asks what labels a
record, an example or a batch holds. A kind belongs to the image (`label`, `labels`), to its pixels (`label_map`) or to
its objects (`boxes` with their classes; `masks` and `keypoints` beside them).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.data import geometry, objects, run_lengths
from mapjax.errors import UserError
from mapjax.stages import KEYS, VOID

Values = dict[str, Any]  # keys of a record, or of an example: stages.py
Rows = dict[str, str]  # of a table: title → figure

RECORD, OBJECTS = "record", "objects"  # what counts the rows of stored arrays


class Motion(NamedTuple):
    """Where labels go: the matrix from their frame to one of height, width, and what becomes of the objects.

    rows: of the objects that are kept. boxes: of all objects, in the new frame (objects.map_boxes).
    """

    matrix: geometry.Matrix
    frame: geometry.Size
    rows: np.ndarray = np.zeros(0, np.int64)
    boxes: np.ndarray = np.zeros((0, 4), np.float32)


class Kind(NamedTuple):
    """All that differs between kinds of labels.

    keys: of a record; it has the kind if it has the first, and may have the others.
    of: "image", "pixel" or "object": what has such a label.
    blank(size) -> the labels of an image of height, width that has none
    renumber(record, places, count) -> the labels where class k has become places[k], of `count`
    move(record, motion) -> the labels in another frame
    layout: the arrays in which the labels of many records stand end to end, and what counts the rows of each: RECORD
      (one a record), OBJECTS (one an object), or another array that holds their numbers. {}: a record alone holds them.
    store(record) -> the record with the labels as arrays, as shards have it; restore(record) -> the record again
    fault(record) -> what is wrong with the labels of a record, or nothing
    measure(record) -> an array to count; count(measures of records) -> rows for the table of checks, and what is not
      there to learn from, or nothing. None where a module of data/checks counts this kind.
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


def _move_boxes(record: Values, motion: Motion) -> Values:
    """An area changes as that of its box does, as far as it is visible."""
    rows = motion.rows
    moved = {"boxes": motion.boxes[rows]} | {key: record[key][rows] for key in ("classes", "crowd") if key in record}
    if "areas" in record:
        share = geometry.box_areas(motion.boxes) / np.maximum(geometry.box_areas(record["boxes"]), 1e-9)
        moved["areas"] = (record["areas"] * share)[rows].astype(np.float32)
    return moved


def _move_masks(record: Values, motion: Motion) -> Values:
    kept = run_lengths.stacked((record["masks"][row] for row in motion.rows.tolist()), _size(record))
    return {"masks": geometry.map_masks(motion.matrix, kept, motion.frame)}


def _move_keypoints(record: Values, motion: Motion) -> Values:
    points, mirrored = record["keypoints"][motion.rows], record["mirrored"]
    return {"keypoints": objects.map_keypoints(motion.matrix, points, mirrored, motion.frame), "mirrored": mirrored}


def _move_map(record: Values, motion: Motion) -> Values:
    return {"label_map": geometry.map_labels(motion.matrix, record["label_map"], motion.frame, VOID)}


def _store_masks(record: Values) -> Values:
    """Write masks as run lengths, end to end, with the bytes of each."""
    texts = [mask if isinstance(mask, bytes) else run_lengths.encode(mask) for mask in record["masks"]]
    stored = {key: value for key, value in record.items() if key != "masks"}
    stored["mask_runs"] = np.frombuffer(b"".join(texts), np.uint8)
    return stored | {"mask_bytes": np.array([len(text) for text in texts], np.int32)}


def _restore_masks(record: Values) -> Values:
    if "mask_runs" not in record:
        return record
    data, ends = record.pop("mask_runs").tobytes(), np.cumsum(record.pop("mask_bytes"))
    starts = [0, *ends[:-1].tolist()]
    return record | {"masks": [data[start:end] for start, end in zip(starts, ends.tolist())]}


def _size(record: Values) -> geometry.Size:
    return int(record["size"][0]), int(record["size"][1])


def _fault_of_boxes(record: Values) -> str:
    count = len(record["boxes"])
    wrong = next((key for key in ("classes", "crowd", "areas") if key in record and len(record[key]) != count), None)
    return f"has {count} boxes and {len(record[wrong])} {wrong}; give each box one." if wrong else ""


def _fault_of_masks(record: Values) -> str:
    count, size = len(record["boxes"]), _size(record)
    if len(record["masks"]) != count:
        return f"has {count} boxes and {len(record['masks'])} masks; give each box one."
    for mask in record["masks"]:
        try:
            found = run_lengths.bits(mask, size).shape
        except ValueError as error:
            return f"has a mask whose {error}; draw it again."
        if found != size:
            return (
                f"has {size[0]}×{size[1]} pixels (height × width) and a mask of {found[0]}×{found[1]}; draw it again."
            )
    return ""


def _fault_of_keypoints(record: Values) -> str:
    wanted, found = (len(record["boxes"]), len(record["mirrored"]), 3), record["keypoints"].shape
    return "" if found == wanted else f"has keypoints of the shape {found}, and {wanted} is needed; correct them."


def _fault_of_map(record: Values) -> str:
    size, found = _size(record), record["label_map"].shape
    if found == size:
        return ""
    return (
        f"has {size[0]}×{size[1]} pixels (height × width) and its mask {found[0]}×{found[1]}; draw the mask again, or "
        "restore the image."
    )


def _count_masks(measures: Sequence[np.ndarray]) -> tuple[Rows, str]:
    areas = np.concatenate([np.zeros(0), *measures])
    shown = f"{np.median(areas[areas > 0]):.0f}" if areas.any() else "-"
    rows = {"pixels of a mask, median": shown, "empty masks": str(int((areas == 0).sum()))}
    return rows, "" if areas.any() else "not one mask with a pixel"


def _measure_keypoints(record: Values) -> np.ndarray:
    """Give the visibility of each keypoint (m k); -1 for a labelled one outside the image."""
    visible = record["keypoints"][..., 2].copy()
    visible[(visible > 0) & objects.outside(record["keypoints"], _size(record))] = -1
    return visible


def _count_keypoints(measures: Sequence[np.ndarray]) -> tuple[Rows, str]:
    visible = np.concatenate([np.zeros(0), *(one.ravel() for one in measures)])
    share = [f"{100 * np.mean(found):.0f} %" if len(visible) else "-" for found in (visible != 0, visible >= 2)]
    rows = {
        "keypoints an object": str(measures[0].shape[1]) if measures else "-",
        "keypoints labelled / seen": " / ".join(share),
        "keypoints outside the image": str(int((visible < 0).sum())),
    }
    return rows, "" if (visible > 0).any() else "not one keypoint with a visibility above 0"


def _no_boxes(size: geometry.Size) -> Values:
    del size
    empty = {"boxes": (0, 4), "classes": 0, "crowd": 0, "areas": 0}
    return {key: np.zeros(shape, KEYS[key].dtype) for key, shape in empty.items()}


KINDS: dict[str, Kind] = {
    "boxes": Kind(
        ("boxes", "classes", "crowd", "areas"),
        "object",
        _no_boxes,
        _move_boxes,
        dict.fromkeys(("boxes", "classes", "crowd", "areas"), OBJECTS),
        renumber=_renumbered("classes"),
        fault=_fault_of_boxes,
    ),
    "masks": Kind(
        ("masks",),
        "object",
        lambda size: {"masks": np.zeros((0, *size), bool)},
        _move_masks,
        {"mask_bytes": OBJECTS, "mask_runs": "mask_bytes"},
        store=_store_masks,
        restore=_restore_masks,
        fault=_fault_of_masks,
        measure=lambda record: np.array([run_lengths.area(mask) for mask in record["masks"]]),
        count=_count_masks,
    ),
    "keypoints": Kind(
        ("keypoints", "mirrored"),
        "object",
        lambda size: {"keypoints": np.zeros((0, 0, 3), np.float32), "mirrored": np.zeros(0, np.int32)},
        _move_keypoints,
        {"keypoints": OBJECTS, "mirrored": RECORD},
        fault=_fault_of_keypoints,
        measure=_measure_keypoints,
        count=_count_keypoints,
    ),
    "labels": Kind(
        ("labels",),
        "image",
        lambda size: {"labels": np.zeros(0, bool)},
        lambda record, motion: {"labels": _table("labels", record["labels"])},
        {"labels": RECORD},
        renumber=_spread,
    ),
    "label": Kind(
        ("label",),
        "image",
        lambda size: {"label": np.int32(0)},
        lambda record, motion: {"label": _table("label", record["label"])},
        {"label": RECORD},
        renumber=_renumbered("label"),
    ),
    "label_map": Kind(
        ("label_map",),
        "pixel",
        lambda size: {"label_map": np.full(size, VOID, np.uint8)},
        _move_map,
        {},
        renumber=_renumber_map,
        fault=_fault_of_map,
    ),
}
