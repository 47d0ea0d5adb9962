"""Masks by filters of an object's own (Tian et al. 2020, CondInst, arXiv 2003.05664), drawn inside its box.

A network gives one map of prototypes an image, and for each object the weights of a few 1×1 convolutions, which make a
mask of the prototypes. CondInst draws masks of the whole image; here a grid over the object's box is sampled first (as
YOLACT cuts its masks, Bolya et al. 2019, arXiv 1904.02689), so that the cost of a mask does not grow with the image and
its answer is Mask R-CNN's. Where the box's cells are is two more channels.
"""

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mapjax.ops.roi_align import roi_align

PLACE = 2  # channels that say where in its box a cell is


def shapes(prototypes: int, hidden: Sequence[int]) -> list[tuple[int, int]]:
    """Input and output channels of each convolution; an empty `hidden` is YOLACT's sum of prototypes.

    Example:
      >>> from mapjax.ops import dynamic_masks
      >>> dynamic_masks.shapes(8, (8, 8)), dynamic_masks.count(8, (8, 8))
      ([(10, 8), (8, 8), (8, 1)], 169)
    """
    return list(pairwise((prototypes + PLACE, *hidden, 1)))


def count(prototypes: int, hidden: Sequence[int]) -> int:
    """How many weights an object has: kernels and biases."""
    return sum((inner + 1) * outer for inner, outer in shapes(prototypes, hidden))


def draw(
    prototypes: Float[Array, "h w p"],
    filters: Float[Array, "n v"],
    boxes: Float[Array, "n 4"],
    *,
    stride: int,
    hidden: Sequence[int],
    size: int,
) -> Float[Array, "n size size"]:
    """Logits of the mask of each object, on a grid over its box.

    Args:
      prototypes: of one image.
      filters: kernel by kernel (inputs outputs, then the bias), as `shapes` has them.
      boxes: in pixels of the input.
      stride: pixels per cell of the prototypes, a power of 2.
      hidden: channels of the convolutions but the last.
      size: cells of the grid along each axis; each is one bilinear sample of the prototypes.
    """
    # roi_align has a cell's value in its upper left corner, and a box has at least one cell.
    sampled = roi_align([prototypes], (stride,), boxes - stride / 2, pool=size, samples=1)
    place = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    grid = jnp.asarray(np.stack(np.meshgrid(place, place), -1))
    x = jnp.concatenate([sampled, jnp.broadcast_to(grid, (*sampled.shape[:3], PLACE))], -1)
    layers, start = shapes(prototypes.shape[-1], hidden), 0
    for number, (inner, outer) in enumerate(layers):
        kernel = filters[:, start : start + inner * outer].reshape(-1, inner, outer)
        bias = filters[:, start + inner * outer : (start := start + (inner + 1) * outer)]
        x = jnp.einsum("npqi,nio->npqo", x, kernel) + bias[:, None, None]
        x = jnp.maximum(x, 0) if number < len(layers) - 1 else x
    return x[..., 0]
