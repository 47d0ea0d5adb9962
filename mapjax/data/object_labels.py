"""What the rows of objects in labels.py are made of: boxes with their classes, and masks and keypoints beside them."""

from collections.abc import Sequence

import numpy as np

from mapjax.data import box_masks, geometry, objects, run_lengths
from mapjax.data.objects import Motion, Values
from mapjax.stages import KEYS

Rows = dict[str, str]  # of a table: title → figure

NO_BOXES = "has masks or keypoints and no boxes; give each object its box."


def move_boxes(record: Values, motion: Motion) -> Values:
    """An area changes as that of its box does, as far as it is visible."""
    rows = motion.rows
    moved = {"boxes": motion.boxes[rows]} | {key: record[key][rows] for key in ("classes", "crowd") if key in record}
    if "areas" in record:
        share = geometry.box_areas(motion.boxes) / np.maximum(geometry.box_areas(record["boxes"]), 1e-9)
        moved["areas"] = (record["areas"] * share)[rows].astype(np.float32)
    return moved


def move_masks(record: Values, motion: Motion) -> Values:
    """Masks are drawn in the new frame, a bit each pixel, or small, inside their boxes."""
    size, kept = size_of(record), [record["masks"][row] for row in motion.rows.tolist()]
    if motion.cells:
        return {"box_masks": box_masks.draw(kept, size, motion.matrix, motion.boxes[motion.rows], motion.cells)}
    return {"masks": geometry.map_masks(motion.matrix, run_lengths.stacked(kept, size), motion.frame)}


def move_keypoints(record: Values, motion: Motion) -> Values:
    """In a mirror each becomes its partner."""
    points, mirrored = record["keypoints"][motion.rows], record["mirrored"]
    return {"keypoints": objects.map_keypoints(motion.matrix, points, mirrored, motion.frame), "mirrored": mirrored}


def store_masks(record: Values) -> Values:
    """Write masks as run lengths, end to end, with the bytes of each."""
    texts = [mask if isinstance(mask, bytes) else run_lengths.encode(mask) for mask in record["masks"]]
    stored = {key: value for key, value in record.items() if key != "masks"}
    stored["mask_runs"] = np.frombuffer(b"".join(texts), np.uint8)
    return stored | {"mask_bytes": np.array([len(text) for text in texts], np.int32)}


def restore_masks(record: Values) -> Values:
    """Cut run lengths into those of each mask again."""
    if "mask_runs" not in record:
        return record
    data, ends = record.pop("mask_runs").tobytes(), np.cumsum(record.pop("mask_bytes"))
    starts = [0, *ends[:-1].tolist()]
    return record | {"masks": [data[start:end] for start, end in zip(starts, ends.tolist())]}


def fault_of_boxes(record: Values) -> str:
    """Each box has one of everything."""
    count = len(record["boxes"])
    wrong = next((key for key in ("classes", "crowd", "areas") if key in record and len(record[key]) != count), None)
    return f"has {count} boxes and {len(record[wrong])} {wrong}; give each box one." if wrong else ""


def fault_of_masks(record: Values) -> str:
    """Each box has a mask, of the size of the image."""
    if "boxes" not in record:
        return NO_BOXES
    count, size = len(record["boxes"]), size_of(record)
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


def fault_of_keypoints(record: Values) -> str:
    """Each box has as many keypoints, x, y and visibility."""
    if "boxes" not in record:
        return NO_BOXES
    wanted, found = (len(record["boxes"]), len(record["mirrored"]), 3), record["keypoints"].shape
    return "" if found == wanted else f"has keypoints of the shape {found}, and {wanted} is needed; correct them."


def count_masks(measures: Sequence[np.ndarray]) -> tuple[Rows, str]:
    """Tell how large masks are, and how many are empty."""
    areas = np.concatenate([np.zeros(0), *measures])
    shown = f"{np.median(areas[areas > 0]):.0f}" if areas.any() else "-"
    rows = {"pixels of a mask, median": shown, "empty masks": str(int((areas == 0).sum()))}
    return rows, "" if areas.any() else "not one mask with a pixel"


def measure_keypoints(record: Values) -> np.ndarray:
    """Give the visibility of each keypoint (m k); -1 for a labelled one outside the image."""
    visible = record["keypoints"][..., 2].copy()
    visible[(visible > 0) & objects.outside(record["keypoints"], size_of(record))] = -1
    return visible


def count_keypoints(measures: Sequence[np.ndarray]) -> tuple[Rows, str]:
    """Tell how many keypoints are labelled, and seen."""
    visible = np.concatenate([np.zeros(0), *(one.ravel() for one in measures)])
    share = [f"{100 * np.mean(found):.0f} %" if len(visible) else "-" for found in (visible != 0, visible >= 2)]
    rows = {
        "keypoints an object": str(measures[0].shape[1]) if measures else "-",
        "keypoints labelled / seen": " / ".join(share),
        "keypoints outside the image": str(int((visible < 0).sum())),
    }
    return rows, "" if (visible > 0).any() else "not one keypoint with a visibility above 0"


def no_boxes(size: geometry.Size) -> Values:
    """Give lists without a row."""
    del size
    empty = {"boxes": (0, 4), "classes": 0, "crowd": 0, "areas": 0}
    return {key: np.zeros(shape, KEYS[key].dtype) for key, shape in empty.items()}


def size_of(record: Values) -> geometry.Size:
    """Return height, width of the image of a record."""
    return int(record["size"][0]), int(record["size"][1])
