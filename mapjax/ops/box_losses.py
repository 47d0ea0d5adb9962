"""Losses of pairs of boxes, float32 in and out; what is summed, masked or averaged is the task's affair."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.ops import boxes as box_ops

EPSILON = 1e-7  # added to areas that are divided by


def giou(boxes: Float[Array, "*b 4"], truth: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """One less the generalized IoU, 0 to 2: it has a slope where boxes do not touch (Rezatofighi et al. 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_losses
      >>> boxes, truth = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 2]]), jnp.array([[0.0, 0, 2, 2], [2, 0, 4, 2]])
      >>> print(box_losses.giou(boxes, truth).round(3))
      [0. 1.]
    """
    low, high = jnp.maximum(boxes[..., :2], truth[..., :2]), jnp.minimum(boxes[..., 2:], truth[..., 2:])
    meet = jnp.all(high > low, -1)
    shared = jnp.where(meet, jnp.prod(high - low, -1), 0)
    union = box_ops.area(boxes) + box_ops.area(truth) - shared
    around = jnp.maximum(boxes[..., 2:], truth[..., 2:]) - jnp.minimum(boxes[..., :2], truth[..., :2])
    whole = around[..., 0] * around[..., 1]
    return 1 - shared / (union + EPSILON) + (whole - union) / (whole + EPSILON)
