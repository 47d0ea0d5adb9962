"""Random erasing (Zhong et al. 2020): a rectangle of the frame is covered, so that no single part decides."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from mapjax.data import geometry

_TRIES = 10

Box = tuple[int, int, int, int]  # top, left, height, width


def draw(
    rng: np.random.Generator,
    frame: geometry.Size,
    area: Sequence[float | int] = (0.02, 0.33),
    ratio: Sequence[float | int] = (0.3, 3.3),
) -> Box | None:
    """Draw the rectangle to erase in a frame of height, width, as torchvision does.

    Args:
      area: (low, high), as a share of the frame's.
      ratio: (low, high) of height by width, drawn evenly in the logarithm.

    Returns:
      top, left, height, width in pixels; None if ten rectangles in a row were too large or too thin for the frame.
    """
    for _ in range(_TRIES):
        share = frame[0] * frame[1] * rng.uniform(area[0], area[1])
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        height, width = round(math.sqrt(share * shape)), round(math.sqrt(share / shape))
        if 0 < height < frame[0] and 0 < width < frame[1]:
            top, left = rng.integers((frame[0] - height + 1, frame[1] - width + 1)).tolist()
            return top, left, height, width
    return None


def erase(
    image: UInt8[np.ndarray, "h w 3"], box: Box, fill: Sequence[int] | np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a copy with the rectangle filled: with one colour, or with random values from a generator."""
    top, left, height, width = box
    erased = image.copy()
    random = isinstance(fill, np.random.Generator)
    new = fill.integers(256, size=(height, width, 3), dtype=np.uint8) if random else np.array(fill, np.uint8)
    erased[top : top + height, left : left + width] = new
    return erased
