"""MixUp for detection (Zhang et al. 2019, arXiv 1902.04103): two images averaged, and the boxes of both.

Both go through the transform of boxes.py, each with its own matrix; the geometry of neither is changed by the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapjax.data import labels
from mapjax.data.source import Record
from mapjax.data.transforms import boxes
from mapjax.data.transforms.boxes import Example
from mapjax.errors import UserError

OPTIONS = boxes.OPTIONS
CALM = {**boxes.CALM, "probability": 0.0}
_LISTS = ("valid", *(key for kind in labels.kinds_of("object") for key in labels.KINDS[kind].keys))


class Mixed:
    """A transform that draws one companion; a class, so that data workers can be sent it."""

    companions = 1

    def __init__(self, base: boxes.Transform, probability: float, alpha: float):
        """Take the transform of one record, how often two are mixed, and α of their shares."""
        self._base, self._probability, self._alpha = base, probability, alpha

    def __call__(self, record: Record, rng: np.random.Generator, companions: Sequence[Record]) -> Example:
        example = self._base(record, rng)
        if rng.random() >= self._probability:
            return example
        return mix(example, self._base(companions[0], rng), float(rng.beta(self._alpha, self._alpha)))


def make(
    *,
    size: tuple[int, int],
    max_boxes: int,
    augment: Mapping[str, Any] | None = None,
    mask_size: int = 0,
    fit: str = "letterbox",
    shorter: int = 800,
    longest: int = 1333,
    multiple: int = 32,
    smooth: bool = False,
    fill: Sequence[int] = boxes.IMAGENET_MEAN,
    probability: float | int = 0.5,
    alpha: float | int = 1.5,
) -> Any:
    """Make the transform; without augmentation, in evaluation, it is that of boxes.py.

    Args:
      size, max_boxes, augment, mask_size, fit, shorter, longest, multiple, smooth, fill: as for boxes.make.
      probability: that an image is mixed with another.
      alpha: the share of an image is drawn from Beta(α, α).

    Raises:
      UserError: a probability outside 0 to 1, an α that is not positive, or what boxes.make refuses.

    Example:
      >>> from mapjax.data.transforms import mixed_boxes
      >>> transform = mixed_boxes.make(size=(64, 64), max_boxes=8, augment={"flip_horizontal": 0.5}, probability=0.3)
      >>> transform.companions
      1
    """
    numbers = all(isinstance(value, (int, float)) for value in (probability, alpha))
    if not numbers or not 0 <= probability <= 1 or alpha <= 0:
        raise UserError(f"transform: probability={probability!r} must be from 0 to 1, and alpha={alpha!r} above 0.")
    base = boxes.make(
        size=size,
        max_boxes=max_boxes,
        augment=augment,
        mask_size=mask_size,
        fit=fit,
        shorter=shorter,
        longest=longest,
        multiple=multiple,
        smooth=smooth,
        fill=fill,
    )
    return base if augment is None else Mixed(base, probability, alpha)


def mix(one: Example, other: Example, share: float) -> Example:
    """Average two examples' images; `share` is that of the first, whose `matrix` and `size` stay.

    Of more boxes than there are rows the first one's are kept, then the other's as far as they go. What the objects of
    but one of the two have is zeros for the others: keypoints that are not labelled, say.
    """
    image = np.rint(share * one["image"] + (1 - share) * other["image"].astype(np.float64)).astype(np.uint8)
    like = {key: example[key] for example in (other, one) for key in _LISTS if key in example}
    rows = max(map(len, like.values()), default=0)
    both = {key: np.concatenate([_real(one, key, some), _real(other, key, some)])[:rows] for key, some in like.items()}
    counted = {key: one[key] + other[key] for key in ("masks_left_out",) if key in one and key in other}
    return one | {"image": image} | counted | boxes.padded(rows, both)


def _real(example: Example, key: str, like: np.ndarray) -> np.ndarray:
    """Take the real rows of a list; zeros, of the shape of those of `like`, where the example has no such list."""
    real = example["valid"] if "valid" in example else np.zeros(0, bool)
    return example[key][real] if key in example else np.zeros((real.sum(), *like.shape[1:]), like.dtype)
