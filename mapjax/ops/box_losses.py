"""Losses of pairs of boxes, float32 in and out; what is summed, masked or averaged is the task's affair."""

import jax
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


def iou_squared(boxes: Float[Array, "*b 4"], truth: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """One less the square of the IoU (YOLOX, Ge et al. 2021, arXiv 2107.08430); without a slope for boxes apart.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_losses
      >>> loss = box_losses.iou_squared(jnp.array([[0.0, 0, 2, 2]]), jnp.array([[0.0, 0, 1, 2]]))
      >>> f"{loss[0]:.3f}"
      '0.750'
    """
    return 1 - _iou(boxes, truth) ** 2


def ciou(boxes: Float[Array, "*b 4"], truth: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """One less the complete IoU: of centres and of proportions too (Zheng et al. 2020, arXiv 1911.08287).

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_losses
      >>> loss = box_losses.ciou(jnp.array([[0.0, 0, 2, 2]]), jnp.array([[2.0, 0, 4, 2]]))
      >>> f"{loss[0]:.3f}"
      '1.200'
    """
    low, high = jnp.minimum(boxes[..., :2], truth[..., :2]), jnp.maximum(boxes[..., 2:], truth[..., 2:])
    between = (boxes[..., :2] + boxes[..., 2:] - truth[..., :2] - truth[..., 2:]) / 2
    apart = jnp.square(between).sum(-1) / (jnp.square(high - low).sum(-1) + EPSILON)
    iou, unlike = _iou(boxes, truth), 4 / jnp.pi**2 * jnp.square(_slope(truth) - _slope(boxes))
    weight = jax.lax.stop_gradient(unlike / (1 - iou + unlike + EPSILON))
    return 1 - iou + apart + weight * unlike


def _iou(boxes, truth):
    low, high = jnp.maximum(boxes[..., :2], truth[..., :2]), jnp.minimum(boxes[..., 2:], truth[..., 2:])
    meet = jnp.all(high > low, -1)
    shared = jnp.where(meet, jnp.prod(high - low, -1), 0)
    return shared / (box_ops.area(boxes) + box_ops.area(truth) - shared + EPSILON)


def _slope(boxes):
    """The angle whose tangent is width over height."""
    size = boxes[..., 2:] - boxes[..., :2]
    return jnp.arctan2(size[..., 0], jnp.maximum(size[..., 1], EPSILON))
