"""Queries made of the truth with noise, which a decoder learns to repair beside its own (Zhang et al. 2022, DINO).

An image's boxes are given in groups: in each, every box once with little noise, to be repaired, and once with more, to
be told that it is no object. Groups do not see each other, and the decoder's own queries see none of them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mapjax.ops import boxes as box_ops
from mapjax.ops.matching import BACKGROUND


def noisy(key: Any, truth: Any, *, count: int, classes: int, label_noise: float, box_noise: float) -> dict[str, Any]:
    """Make the queries of a batch: as many whole groups of each image's boxes as `count` holds, but one at least.

    Args:
      truth: "boxes" (b m 4; centre x,y, width, height as shares of a frame), "classes" and "valid" (b m).
      count: of queries with little noise; there are as many with more. An image with more boxes has the first of them.
      classes: without "no object".
      label_noise: twice the share of queries whose class is replaced by any.
      box_noise: corners move by up to this share of half the box's sides; those with more noise by one to two times it.

    Returns:
      "classes" (b k), "boxes" (b k 4) and "group" (b k; −1 where there is none) of k = 2·count queries, and "owner"
      (b k): the truth that is to be found, BACKGROUND for none.
    """
    keys = jax.random.split(key, 4)
    order = jnp.argsort(~truth["valid"], axis=1, stable=True)  # the real ones first
    boxes_each = jnp.clip(truth["valid"].sum(1), 0, count)[:, None]
    group, place = jnp.divmod(jnp.arange(2 * count)[None], jnp.maximum(2 * boxes_each, 1))
    groups = jnp.maximum(count // jnp.maximum(boxes_each, 1), 1)
    real = (boxes_each > 0) & (group < groups)
    little = place < boxes_each
    row = jnp.take_along_axis(order, jnp.where(real, place % jnp.maximum(boxes_each, 1), 0), 1)
    given = jnp.take_along_axis(truth["classes"], row, 1)
    replaced = jax.random.bernoulli(keys[0], label_noise / 2, given.shape)
    given = jnp.where(replaced, jax.random.randint(keys[1], given.shape, 0, classes), given)
    boxes = jnp.take_along_axis(truth["boxes"], row[..., None], 1)
    amount = jax.random.uniform(keys[2], boxes.shape) + jnp.where(little, 0, 1)[..., None]
    sign = jnp.where(jax.random.bernoulli(keys[3], 0.5, boxes.shape), 1, -1)
    half = jnp.tile(boxes[..., 2:] / 2, 2)
    corners = box_ops.cxcywh_to_xyxy(boxes) + box_noise * half * amount * sign
    return {
        "classes": given,
        "boxes": box_ops.xyxy_to_cxcywh(jnp.clip(corners, 0, 1)),
        "group": jnp.where(real, group, -1),
        "owner": jnp.where(real & little, row, BACKGROUND),
    }
