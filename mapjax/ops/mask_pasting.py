"""From a mask inside its box to the pixels of the image, on the host: as torchvision pastes them."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

_PADDING = 1  # cells around the mask, so that it ends in nothing


class Pasted(NamedTuple):
    """Scores of the pixels of a part of the image, and where its upper left pixel is; beside it there is nothing."""

    scores: Float[np.ndarray, "h w"]
    left: int
    top: int


def paste(mask: Float[np.ndarray, "m m"], box: Float[np.ndarray, "4"], size: tuple[int, int]) -> Pasted:
    """Magnify the scores of a mask to its box, between the centres of its cells.

    Args:
      mask: a score of each cell of a grid over the box.
      box: x1,y1,x2,y2 in pixels of an image of height, width `size`.

    Returns:
      The part that lies in the image; it has no pixel where none does.

    Example:
      >>> import numpy as np
      >>> from mapjax.ops import mask_pasting
      >>> found = mask_pasting.paste(np.ones((2, 2), np.float32), np.float32([2, 1, 4, 3]), (9, 9))
      >>> int((found.scores > 0.5).sum()), found.left, found.top
      (5, 1, 0)
    """
    cells = len(mask) + 2 * _PADDING
    padded = np.pad(mask.astype(np.float32), _PADDING)
    centre, half = (box[2:] + box[:2]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5)
    half = half * np.float32(cells / len(mask))
    x1, y1, x2, y2 = np.trunc(np.concatenate([centre - half, centre + half])).astype(int).tolist()
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, size[1]), min(y2 + 1, size[0])
    if right <= left or bottom <= top:
        return Pasted(np.zeros((0, 0), np.float32), 0, 0)
    drawn = cv2.resize(padded, (width, height), interpolation=cv2.INTER_LINEAR)
    return Pasted(drawn[top - y1 : bottom - y1, left - x1 : right - x1], left, top)
