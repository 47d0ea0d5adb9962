"""Anchor boxes as constants of the program: of a feature pyramid (Ren et al. 2015; torchvision's rounding), of SSD."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def cell_anchors(sizes: Sequence[int | float], ratios: Sequence[int | float]) -> Float[np.ndarray, "a 4"]:
    """Anchors around the origin, in whole pixels: for each ratio (height / width) one of each size (√area)."""
    height = np.sqrt(np.asarray(ratios, np.float32))
    width = 1 / height
    size = np.asarray(sizes, np.float32)
    widths = (width[:, None] * size[None, :]).reshape(-1)
    heights = (height[:, None] * size[None, :]).reshape(-1)
    return np.round(np.stack([-widths, -heights, widths, heights], -1) / 2).astype(np.float32)


def grid_anchors(
    image: tuple[int, int], grid: tuple[int, int], sizes: Sequence[int | float], ratios: Sequence[int | float]
) -> Float[np.ndarray, "n 4"]:
    """Anchors of one level in pixels of the input, ordered by row, column, then anchor: n = rows · columns · a.

    Args:
      image: (height, width) of the network's input.
      grid: (height, width) of the level's features. The stride is the integer quotient of both, as in torchvision,
        which like mapjax pads its input to multiples of 32 before.
    """
    stride_y, stride_x = image[0] // grid[0], image[1] // grid[1]
    y, x = np.meshgrid(np.arange(grid[0]) * stride_y, np.arange(grid[1]) * stride_x, indexing="ij")
    shift = np.stack([x, y, x, y], -1).reshape(-1, 1, 4).astype(np.float32)
    return (shift + cell_anchors(sizes, ratios)[None]).reshape(-1, 4)


def default_boxes(
    image: tuple[int, int],
    grid: tuple[int, int],
    scales: tuple[float, float],
    ratios: Sequence[int | float],
    step: int | None = None,
) -> Float[np.ndarray, "n 4"]:
    """Default boxes of one map of SSD (Liu et al. 2016), in pixels, by row, column, then box: n = rows · columns · a.

    A place has a square of the first scale, one between both scales, and for each ratio a wide and a high box.

    Args:
      image: (height, width) of the network's input.
      grid: (height, width) of the map.
      scales: sides, as shares of the image's, of this map and of the next; a side is at most the image's.
      ratios: longer over shorter side.
      step: pixels from place to place; None: those of the grid.
    """
    between = np.sqrt(scales[0] * scales[1])
    sides = [(scales[0], scales[0]), (between, between)]
    for root in np.sqrt(np.asarray(ratios, np.float64)):
        sides += [(scales[0] * root, scales[0] / root), (scales[0] / root, scales[0] * root)]
    half = np.minimum(np.array(sides), 1)[None] / 2
    rows, columns = grid if step is None else (side / step for side in image)
    y, x = np.meshgrid((np.arange(grid[0]) + 0.5) / rows, (np.arange(grid[1]) + 0.5) / columns, indexing="ij")
    centre = np.stack([x, y], -1).reshape(-1, 1, 2)
    boxes = np.concatenate([centre - half, centre + half], -1) * np.tile(image[::-1], 2)
    return boxes.reshape(-1, 4).astype(np.float32)
