"""How the weaker of overlapping detections are suppressed: at once or softly, within a class or across all."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.ops import soft_nms
from mapjax.ops.nms import nms

SOFT = ("linear", "gaussian")
Suppress = Callable[..., tuple]


def chosen(
    iou: float, *, soft: str | None = None, sigma: float | int = 0.5, agnostic: bool = False, score_threshold: float
) -> Suppress:
    """Make suppress(boxes (n 4), scores (n), classes (n), valid (n), count) → indices, scores, which are real (k).

    Args:
      iou: above which the weaker is suppressed; with "linear", above which it loses score.
      soft: what overlaps a better box loses score (Bodla et al. 2017), "linear" or "gaussian"; None: it is dropped.
      sigma: of "gaussian".
      agnostic: boxes of different classes suppress each other too.
      score_threshold: what has lost score needs a higher one still.

    Raises:
      UserError: an unknown way, or a sigma that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.tasks.detection import suppression
      >>> suppress = suppression.chosen(0.5, agnostic=True, score_threshold=0.05)
      >>> boxes, scores = jnp.array([[0.0, 0, 4, 4], [0.0, 0, 4, 3]]), jnp.array([0.5, 0.75])
      >>> index, _, real = suppress(boxes, scores, jnp.array([0, 1]), jnp.array([True, True]), 2)
      >>> index[real].tolist()
      [1]
    """
    if soft is not None and soft not in SOFT:
        raise UserError(f"task.soft={soft!r} is not known.{near(str(soft), SOFT)}")
    if not sigma > 0:
        raise UserError(f"task.sigma={sigma} must be above 0.")
    decay = partial(soft_nms.gaussian, sigma=sigma) if soft == "gaussian" else partial(soft_nms.linear, threshold=iou)

    def suppress(boxes, scores, classes, valid, count: int):
        groups = None if agnostic else classes
        if soft is None:
            best, kept = nms(boxes, scores, iou, count, valid=valid, groups=groups)
            return best, scores[best], kept
        best, left, kept = soft_nms.soft_nms(boxes, scores, count, decay=decay, valid=valid, groups=groups)
        return best, jnp.where(kept, left, 0), kept & (left > score_threshold)

    return suppress
