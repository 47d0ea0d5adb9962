"""SSD's random crop (Liu et al. 2016, section 2.2): a window that overlaps some object by a least IoU, drawn first.

The least IoU is 0.1, 0.3, 0.5, 0.7 or 0.9, or there is none, or the whole image is taken, each as likely. The window
has 0.3 to 1 of each side of the image, and is at most twice as long as it is wide, or the reverse; the centre of a box
is in it. What becomes of boxes that are cut off, `min_visible` says, and not their centres alone.
"""

import numpy as np
from jaxtyping import Float

from mapjax.data.geometry import Size

LEAST = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # IoU; None: the whole image
SIDES = (0.3, 1.0)  # of the image
RATIOS = (0.5, 2.0)  # width by height
TRIES = 50


def draw(rng: np.random.Generator, size: Size, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "4"]:
    """Draw a window x1,y1,x2,y2 of an image of height, width; all of it where 50 tries find none, or no box is there.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import iou_crops
      >>> iou_crops.draw(np.random.default_rng(0), (10, 20), np.zeros((0, 4))).tolist()
      [0.0, 0.0, 20.0, 10.0]
    """
    height, width = size
    whole = np.array([0.0, 0.0, width, height])
    least = LEAST[rng.integers(len(LEAST))]
    if least is None or not len(boxes):
        return whole
    for _ in range(TRIES):
        across, down = rng.uniform(*SIDES, size=2) * (width, height)
        left, top = rng.random(2) * (width - across, height - down)
        if not RATIOS[0] <= across / down <= RATIOS[1]:
            continue
        window = np.array([left, top, left + across, top + down])
        if _overlap(window, boxes) > least:
            return window
    return whole


def _overlap(window: Float[np.ndarray, "4"], boxes: Float[np.ndarray, "n 4"]) -> float:
    """Return the largest IoU of a window with boxes whose centres it has; -1 where it has none."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > window[:2]) & (centres < window[2:])).all(axis=1)
    sides = np.clip(np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2]), 0, None)
    common = sides.prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (window[2:] - window[:2]).prod()
    shares = common / np.maximum(areas - common, 1e-9)
    return float(np.max(shares[inside], initial=-1.0))
