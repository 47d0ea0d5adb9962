"""The objects of an image under a matrix: which stay in view, their boxes, their masks, their keypoints."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from mapjax.data import geometry, run_lengths
from mapjax.data.run_lengths import Mask

Values = dict[str, Any]  # keys of a record, or of an example: stages.py

MIN_SIDE = 1.0  # pixels of the frame; thinner boxes have no anchor and no meaningful target


class Motion(NamedTuple):
    """Where labels go: the matrix from their frame to one of height, width, and what becomes of the objects.

    rows: of the objects that are kept.
    boxes: of all objects, in the new frame (map_boxes).
    cells: along each side of the grid on which a mask is drawn inside its box; 0 draws it in the frame.
    """

    matrix: geometry.Matrix
    frame: geometry.Size
    rows: np.ndarray = np.zeros(0, np.int64)
    boxes: np.ndarray = np.zeros((0, 4), np.float32)
    cells: int = 0


def map_boxes(
    matrix: geometry.Matrix,
    boxes: Float[np.ndarray, "n 4"],
    masks: Sequence[Mask] | Bool[np.ndarray, "n h w"],
    size: geometry.Size,
    frame: geometry.Size,
    min_visible: float | int,
) -> tuple[Float32[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """Map the boxes of an image of height, width `size` into a frame, and clip them to it.

    A box with a mask is the smallest around the mapped mask, inside the frame; so rotation does not inflate it.

    Args:
      masks: of the objects, or none at all.
      min_visible: a box of which less than this share of its area is left is not kept, nor is one less than one pixel
        wide or high.

    Returns:
      All boxes, clipped, and which of them to keep.
    """
    whole = geometry.map_boxes(matrix, boxes.astype(np.float64))
    if matrix[0, 1] or matrix[1, 0]:  # without rotation and shear the mapped box is as tight as the box was
        for row, mask in enumerate(masks):
            outline = geometry.mask_outline(run_lengths.bits(mask, size))
            if len(outline):
                whole[row] = geometry.bounds(geometry.map_points(matrix, outline))
    clipped = geometry.clip_boxes(whole, frame)
    visible = geometry.box_areas(clipped) / np.maximum(geometry.box_areas(whole), 1e-9)
    for row in np.flatnonzero((visible > 0) & (visible < 1)).tolist() if len(masks) else ():
        mask = run_lengths.bits(masks[row], size)
        if mask.any():
            clipped[row] = geometry.mask_bounds(geometry.map_masks(matrix, mask[None], frame)[0])
    sides = clipped[:, 2:] - clipped[:, :2]
    keep = (visible >= min_visible) & (sides >= MIN_SIDE).all(axis=1)
    return clipped.astype(np.float32), keep


def largest(
    rows: Int[np.ndarray, " n"], boxes: Float[np.ndarray, "m 4"], crowd: Bool[np.ndarray, " m"], count: int
) -> Int[np.ndarray, " k"]:
    """Of `rows` of the objects choose `count`, in order: the largest, ordinary ones before crowds."""
    order = np.lexsort((-geometry.box_areas(boxes[rows]), crowd[rows]))
    return np.sort(rows[order[:count]])


def map_keypoints(
    matrix: geometry.Matrix,
    keypoints: Float32[np.ndarray, "n k 3"],
    mirrored: Int[np.ndarray, " k"],
    frame: geometry.Size,
) -> Float32[np.ndarray, "n k 3"]:
    """Map keypoints x,y,visibility into a frame; those that leave it, and those of visibility 0, are zeros.

    In a mirror a left paw looks like a right one: where the matrix mirrors, keypoint k becomes keypoint mirrored[k].
    """
    mapped = keypoints.copy()
    mapped[..., :2] = geometry.map_points(matrix, keypoints[..., :2].astype(np.float64))
    mapped = seen(mapped, frame)
    if np.linalg.det(matrix[:2, :2]) >= 0:
        return mapped
    swapped = np.empty_like(mapped)
    swapped[:, mirrored] = mapped
    return swapped


def seen(keypoints: Float32[np.ndarray, "*n 3"], size: geometry.Size) -> Float32[np.ndarray, "*n 3"]:
    """Make zeros of the keypoints that are outside an image of height, width, or of visibility 0."""
    return np.where(((keypoints[..., 2] <= 0) | outside(keypoints, size))[..., None], np.float32(0), keypoints)


def outside(keypoints: Float[np.ndarray, "*n 3"], size: geometry.Size) -> Bool[np.ndarray, "*n"]:
    """Tell which keypoints are not in an image of height, width, whatever their visibility."""
    return np.any((keypoints[..., :2] < 0) | (keypoints[..., :2] > (size[1], size[0])), axis=-1)


def mirrored(names: Sequence[str], pairs: Sequence[tuple[str, str]] | None = None) -> Int[np.ndarray, " k"]:
    """Tell which keypoint each becomes in a mirror.

    Args:
      names: of the keypoints.
      pairs: (left, right); by default names that differ in nothing but left and right, or Left and Right.

    Raises:
      KeyError: a pair of a name that is none.
    """
    places = {name: number for number, name in enumerate(names)}
    partners = {name: _other_side(name) for name in names}
    if pairs is not None:
        partners = dict(pairs) | {right: left for left, right in pairs}
        partners = {name: partners.get(name, name) for name in [*names, *partners]}
    found = np.arange(len(names), dtype=np.int32)
    for name, partner in partners.items():
        if pairs is not None or partner in places:
            found[places[name]] = places[partner]
    return found


def _other_side(name: str) -> str:
    for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
        if left in name:
            return name.replace(left, right)
        if right in name:
            return name.replace(right, left)
    return name
