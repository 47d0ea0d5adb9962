"""Boxes as arrays: x1,y1,x2,y2 in pixels, float32, any leading axes where the shapes say `*b`."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

MAX_LOG_SCALE = math.log(1000.0 / 16)  # a decoded box is at most 62.5 times its anchor's width or height


def area(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Width times height, in pixels²; negative for a box whose corners are crossed in one direction.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.area(jnp.array([[0.0, 0, 2, 3]])).tolist()
      [6.0]
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_intersection(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Area shared by each box of `a` and each of `b`, in pixels².

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> a, b = jnp.array([[0.0, 0, 2, 2]]), jnp.array([[1.0, 0, 3, 2]])
      >>> boxes.pairwise_intersection(a, b).tolist()
      [[2.0]]
    """
    width = jnp.minimum(a[:, None, 2], b[None, :, 2]) - jnp.maximum(a[:, None, 0], b[None, :, 0])
    height = jnp.minimum(a[:, None, 3], b[None, :, 3]) - jnp.maximum(a[:, None, 1], b[None, :, 1])
    return jnp.maximum(width, 0) * jnp.maximum(height, 0)


def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of each box of `a` with each of `b`; 0 where both are empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> a, b = jnp.array([[0.0, 0, 2, 2]]), jnp.array([[0.0, 0, 1, 2]])
      >>> boxes.pairwise_iou(a, b).tolist()
      [[0.5]]
    """
    shared = pairwise_intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def iou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """Intersection over union of boxes one by one, the leading axes broadcast; 0 where both are empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> float(boxes.iou(jnp.array([0.0, 0, 2, 2]), jnp.array([0.0, 0, 1, 2])))
      0.5
    """
    shared, union = _shared(a, b)
    return shared / jnp.where(union > 0, union, 1)


def generalized_iou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """IoU less the share of the box around both that neither covers (Rezatofighi et al. 2019), -1 to 1, broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> float(boxes.generalized_iou(jnp.array([0.0, 0, 1, 1]), jnp.array([3.0, 0, 4, 1])))
      -0.5
    """
    shared, union = _shared(a, b)
    corners = [jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])]
    around = area(jnp.concatenate(jnp.broadcast_arrays(*corners), -1))
    overlap = shared / jnp.where(union > 0, union, 1)
    return overlap - jnp.where(around > 0, (around - union) / jnp.where(around > 0, around, 1), 0)


def _shared(a, b):
    """Area of the intersection and of the union; an intersection of an empty union is 0."""
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    shared = jnp.prod(jnp.maximum(sides, 0), -1)
    return shared, area(a) + area(b) - shared


def pairwise_coverage(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Share of each box of `a` that lies in each box of `b`: intersection over the area of `a`; 0 if `a` is empty.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> a, b = jnp.array([[0.0, 0, 2, 2]]), jnp.array([[1.0, 0, 3, 2]])
      >>> boxes.pairwise_coverage(a, b).tolist()
      [[0.5]]
    """
    size = area(a)[:, None]
    return jnp.where(size > 0, pairwise_intersection(a, b) / jnp.where(size > 0, size, 1), 0)


def clip(boxes: Float[Array, "*b n 4"], extent: Num[Array, "*b 4"]) -> Float[Array, "*b n 4"]:
    """Clip boxes to the box `extent` (x1,y1,x2,y2), one per list of boxes.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.clip(jnp.array([[-1.0, 2, 14, 6]]), jnp.array([0.0, 0, 10, 8])).tolist()
      [[0.0, 2.0, 10.0, 6.0]]
    """
    low, high = extent[..., None, :2], extent[..., None, 2:]
    corners = [jnp.clip(boxes[..., :2], low, high), jnp.clip(boxes[..., 2:], low, high)]
    return jnp.concatenate(corners, -1)


def cxcywh_to_xyxy(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Centre x, centre y, width, height → corners.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.cxcywh_to_xyxy(jnp.array([2.0, 2, 4, 2])).tolist()
      [0.0, 1.0, 4.0, 3.0]
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def xyxy_to_cxcywh(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Corners → centre x, centre y, width, height.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.xyxy_to_cxcywh(jnp.array([0.0, 1, 4, 3])).tolist()
      [2.0, 2.0, 4.0, 2.0]
    """
    size = boxes[..., 2:] - boxes[..., :2]
    return jnp.concatenate([boxes[..., :2] + size / 2, size], -1)


def encode(
    boxes: Float[Array, "*b 4"], anchors: Float[Array, "*b 4"], weights: Sequence[int | float] = (1, 1, 1, 1)
) -> Float[Array, "*b 4"]:
    """Offsets dx,dy,dw,dh of boxes relative to anchors (Ren et al. 2015, Faster R-CNN, eq. 2), times `weights`.

    Finite for degenerate boxes and anchors too, so that padded rows may be masked after encoding.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.encode(jnp.array([1.0, 0, 5, 4]), jnp.array([0.0, 0, 4, 4])).tolist()
      [0.25, 0.0, 0.0, 0.0]
    """
    ours, theirs = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)
    size, anchor_size = jnp.maximum(ours[..., 2:], 1e-6), jnp.maximum(theirs[..., 2:], 1e-6)
    offsets = jnp.concatenate([(ours[..., :2] - theirs[..., :2]) / anchor_size, jnp.log(size / anchor_size)], -1)
    return offsets * jnp.asarray(weights, offsets.dtype)


def decode(
    deltas: Float[Array, "*b 4"], anchors: Float[Array, "*b 4"], weights: Sequence[int | float] = (1, 1, 1, 1)
) -> Float[Array, "*b 4"]:
    """Boxes from offsets relative to anchors: the inverse of `encode`, the scale limited to exp(MAX_LOG_SCALE).

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.decode(jnp.array([0.25, 0, 0, 0]), jnp.array([0.0, 0, 4, 4])).tolist()
      [1.0, 0.0, 5.0, 4.0]
    """
    theirs = xyxy_to_cxcywh(anchors)
    deltas = deltas / jnp.asarray(weights, deltas.dtype)
    centre = deltas[..., :2] * theirs[..., 2:] + theirs[..., :2]
    size = jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * theirs[..., 2:]
    return cxcywh_to_xyxy(jnp.concatenate([centre, size], -1))


def transform(boxes: Float[Array, "*b n 4"], matrix: Float[Array, "*b 3 3"]) -> Float[Array, "*b n 4"]:
    """Map boxes by a 3×3 affine matrix (x,y,1 as columns): the box that encloses the four mapped corners.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.transform(jnp.array([[1.0, 2, 4, 6]]), jnp.diag(jnp.array([2.0, 2, 1]))).tolist()
      [[2.0, 4.0, 8.0, 12.0]]
    """
    x = boxes[..., jnp.array([0, 2, 2, 0])]
    y = boxes[..., jnp.array([1, 1, 3, 3])]
    m = matrix[..., None, None, :, :]
    mapped_x = m[..., 0, 0] * x + m[..., 0, 1] * y + m[..., 0, 2]
    mapped_y = m[..., 1, 0] * x + m[..., 1, 1] * y + m[..., 1, 2]
    return jnp.stack([mapped_x.min(-1), mapped_y.min(-1), mapped_x.max(-1), mapped_y.max(-1)], -1)


def invert_affine(matrix: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """Inverse of affine matrices in closed form (the last row is 0,0,1): no library call, so it shards.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import boxes
      >>> boxes.invert_affine(jnp.diag(jnp.array([2.0, 4, 1]))).diagonal().tolist()
      [0.5, 0.25, 1.0]
    """
    a, b, x = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 0, 2]
    c, d, y = matrix[..., 1, 0], matrix[..., 1, 1], matrix[..., 1, 2]
    determinant = a * d - b * c
    top = jnp.stack([d, -b, b * y - d * x], -1) / determinant[..., None]
    middle = jnp.stack([-c, a, c * x - a * y], -1) / determinant[..., None]
    bottom = jnp.broadcast_to(jnp.array([0, 0, 1], matrix.dtype), top.shape)
    return jnp.stack([top, middle, bottom], -2)
