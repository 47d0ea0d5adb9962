"""Soft non-maximum suppression: overlapping boxes lose score instead of being dropped; fixed shapes and trip counts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mapjax.ops import boxes as box_ops

Decay = Callable[[Float[Array, "n"]], Float[Array, "n"]]


def linear(overlap: Float[Array, "n"], *, threshold: float) -> Float[Array, "n"]:
    """Factor of a score: 1 − IoU where the IoU is above the threshold, else 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import soft_nms
      >>> soft_nms.linear(jnp.array([0.25, 0.75]), threshold=0.3).tolist()
      [1.0, 0.25]
    """
    return jnp.where(overlap > threshold, 1 - overlap, 1.0)


def gaussian(overlap: Float[Array, "n"], *, sigma: float) -> Float[Array, "n"]:
    """Factor of a score: exp(−IoU² / sigma).

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import soft_nms
      >>> soft_nms.gaussian(jnp.array([0.0, 1.0]), sigma=0.5).tolist()
      [1.0, 0.1353352814912796]
    """
    return jnp.exp(-jnp.square(overlap) / sigma)


def soft_nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    count: int,
    *,
    decay: Decay,
    valid: Bool[Array, "n"] | None = None,
    groups: Int[Array, "n"] | None = None,
) -> tuple[Int[Array, "k"], Float[Array, "k"], Bool[Array, "k"]]:
    """Best boxes first, with what is left of their scores (Bodla et al. 2017, "Soft-NMS", arXiv:1704.04503).

    Each turn takes the box whose score is now highest, of equal ones the earlier, and multiplies the scores of the
    others of its group by `decay` of their IoU with it. Scores only fall, so the first `count` turns give the best.

    Args:
      scores: not negative.
      count: turns.
      decay: IoU → factor, 0 to 1: `linear` or `gaussian` with its option.
      valid: rows that there are; None: all.
      groups: classes; boxes of different ones leave each other alone. None: all are of one.

    Returns:
      indices into `boxes` (k = min(count, n)), their scores, and which are real; the rest are arbitrary.

    Example:
      >>> from functools import partial
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import soft_nms
      >>> boxes = jnp.array([[0.0, 0, 4, 4], [0.0, 0, 4, 2], [8.0, 8, 9, 9]])
      >>> decay = partial(soft_nms.linear, threshold=0.3)
      >>> index, scores, _ = soft_nms.soft_nms(boxes, jnp.array([0.9, 0.8, 0.5]), 3, decay=decay)
      >>> index.tolist(), [f"{score:.2f}" for score in scores]
      ([0, 2, 1], ['0.90', '0.50', '0.40'])
    """
    places = jnp.arange(len(boxes))
    start = scores if valid is None else jnp.where(valid, scores, -jnp.inf)

    def turn(left, _):
        best = jnp.argmax(left)
        here = places == best  # not boxes[best]: see ops/nms.py on what a TPU makes of that
        box = jnp.where(here[:, None], boxes, 0).sum(0)
        factor = decay(box_ops.pairwise_iou(box[None], boxes)[0])
        if groups is not None:
            factor = jnp.where(groups == jnp.where(here, groups, 0).sum(), factor, 1.0)
        rest = jnp.where(left >= 0, left * factor, left)  # what is taken, or not there, stays at -inf
        return jnp.where(here, -jnp.inf, rest), (best, left.max())

    _, (index, score) = jax.lax.scan(turn, start, length=min(count, len(boxes)))
    return index, score, score > -jnp.inf
