"""Large images in slices: overlapping tiles that a detector answers one by one, and whose boxes are merged.

Small objects of a large image are too small for the network's frame; in a tile they are not (Akyol et al. 2022). The
image as a whole is one more tile, for objects larger than a tile. Every tile is an image to the run, so all are
answered in batches of one shape.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.errors import UserError
from mapjax.ops import windows
from mapjax.task import DETECTION, Result

EDGE = 0.01  # of a tile's side: how near to its border the box of an object ends that is cut by it
Corner = tuple[int, int, int, int]


class Slices(NamedTuple):
    """How images are cut, and boxes merged; the keys `slices` of a config.

    size: height, width of a tile in pixels of the image.
    overlap: of neighbours, at least this share of a side.
    whole: the image as a whole is a tile too.
    iou: the overlap above which the weaker of two boxes of a class is dropped.
    over: what that is a share of: the "union" of the two, or the "smaller" of them.
    cut: boxes that a border of their tile cuts, where the image goes on, are kept.
    agnostic: boxes of different classes drop each other too.
    """

    size: tuple[int, int]
    overlap: float = 0.2
    whole: bool = True
    iou: float = 0.5
    over: str = "union"
    cut: bool = False
    agnostic: bool = False


def of(config: Any) -> Slices | None:
    """Give what a config says of slices; None where images are answered whole."""
    node = config.slices.to_dict()
    if not node["size"]:
        return None
    return Slices(**node | {"size": tuple(node["size"])}, agnostic=bool(config.task.get("agnostic", False)))


def corners_of(size: tuple[int, int], slices: Slices) -> list[Corner]:
    """Give the tiles of an image of a size (height, width) as x1,y1,x2,y2; of one that fits into a tile itself alone.

    Example:
      >>> from mapjax.runs import slices
      >>> slices.corners_of((40, 70), slices.Slices((40, 40), overlap=0.25))
      [(0, 0, 40, 40), (30, 0, 70, 40), (0, 0, 70, 40)]
    """
    tile = tuple(min(one, other) for one, other in zip(slices.size, size))
    whole = (0, 0, size[1], size[0])
    if tile == tuple(size):
        return [whole]
    tops, lefts = (windows.starts(side, one, slices.overlap) for side, one in zip(size, tile))
    found = [(left, top, left + tile[1], top + tile[0]) for top in tops for left in lefts]
    return [*found, whole] if slices.whole else found


def merged(found: Sequence[Result], corners: Sequence[Corner], slices: Slices) -> Result:
    """Merge the answers of an image's tiles, each in the tile's pixels, to one in the image's, best first.

    Raises:
      UserError: answers that are not of boxes alone.
    """
    if set(found[0]) != set(DETECTION):
        raise UserError(
            f"slices are for detectors, whose answers are boxes, and this task answers {', '.join(found[0])}; leave "
            "slices.size at ()."
        )
    if len(found) == 1:
        return dict(found[0])
    moved = [
        np.asarray(one["boxes"]) + np.array([left, top, left, top], np.float32)
        for one, (left, top, _, _) in zip(found, corners)
    ]
    rows = [
        np.asarray(one["valid"]) & (slices.cut | ~is_cut(boxes, corner, corners))
        for one, boxes, corner in zip(found, moved, corners)
    ]
    boxes = np.concatenate([one[real] for one, real in zip(moved, rows)])
    scores, classes = (
        np.concatenate([np.asarray(one[key])[real] for one, real in zip(found, rows)]) for key in ("scores", "classes")
    )
    kept = keep(boxes, scores, np.zeros_like(classes) if slices.agnostic else classes, slices)
    return {"boxes": boxes[kept], "scores": scores[kept], "classes": classes[kept], "valid": np.ones(len(kept), bool)}


def is_cut(boxes: np.ndarray, corner: Corner, corners: Sequence[Corner]) -> np.ndarray:
    """Tell which boxes (n 4) end at a border of their tile that is none of the image's, within EDGE of its side."""
    tile, every = np.array(corner, np.float32), np.array(corners, np.float32)
    image = np.concatenate([every[:, :2].min(0), every[:, 2:].max(0)])
    margin = EDGE * np.tile(tile[2:] - tile[:2], 2)
    return ((np.abs(boxes - tile) <= margin) & (tile != image)).any(1)


def stacked(found: Sequence[Result | None]) -> Result:
    """Stack answers of several lengths, padded to the longest with rows that are not `valid`; None is one without any.

    Example:
      >>> import numpy as np
      >>> from mapjax.runs import slices
      >>> one = {"boxes": np.ones((2, 4)), "scores": np.ones(2), "classes": np.zeros(2, int), "valid": np.ones(2, bool)}
      >>> slices.stacked([None, one])["valid"].tolist()
      [[False, False], [True, True]]
    """
    there = [one for one in found if one is not None]
    longest = max(len(one["valid"]) for one in there)
    blank = {key: np.asarray(value)[:0] for key, value in there[0].items()}

    def padded(rows: np.ndarray) -> np.ndarray:
        return np.pad(rows, ((0, longest - len(rows)), *((0, 0),) * (rows.ndim - 1)))

    return {key: np.stack([padded(np.asarray((one or blank)[key])) for one in found]) for key in DETECTION}


def keep(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, slices: Slices) -> np.ndarray:
    """Give the rows that greedy suppression keeps, best first: of lists as long as there are boxes, so on the host."""
    alive, kept = np.ones(len(boxes), bool), []
    for row in np.argsort(-scores, kind="stable"):
        if alive[row]:
            kept.append(row)
            alive &= (groups != groups[row]) | (shared(boxes[row], boxes, slices.over) <= slices.iou)
    return np.array(kept, np.int64)


def shared(box: np.ndarray, boxes: np.ndarray, over: str) -> np.ndarray:
    """Intersection of a box with others (n 4) over their union, or over the smaller of the two areas; 0 of empty ones.

    Example:
      >>> import numpy as np
      >>> from mapjax.runs import slices
      >>> box, other = np.float32([0, 0, 4, 4]), np.float32([[0, 0, 4, 1]])
      >>> slices.shared(box, other, "union").tolist(), slices.shared(box, other, "smaller").tolist()
      ([0.25], [1.0])
    """
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.maximum(sides, 0).prod(1)
    area, areas = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    below = np.minimum(area, areas) if over == "smaller" else area + areas - intersection
    return intersection / np.where(below > 0, below, 1)
