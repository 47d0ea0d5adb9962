"""Weighted boxes fusion: the boxes of several answers to one image become one list; fixed shapes and trip counts."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mapjax.ops import boxes as box_ops


def fuse(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    classes: Int[Array, "n"],
    *,
    valid: Bool[Array, "n"],
    answers: int,
    threshold: float = 0.55,
    count: int,
) -> tuple[Float[Array, "k 4"], Float[Array, "k"], Int[Array, "k"], Bool[Array, "k"]]:
    """Fuse overlapping boxes of a class (Solovyev et al. 2021, "Weighted boxes fusion", arXiv:1910.13302).

    By falling score, each box joins the fused box of its class with which its IoU is highest, if that is above the
    threshold, and else begins one. A fused box is the mean of its boxes, weighted by their scores. Its score is the
    mean of theirs, times the share of the answers that have it: min(boxes, answers) / answers.

    Args:
      boxes, scores, classes: of all answers, one behind the other; scores are above 0 where `valid`.
      valid: rows that there are.
      answers: how many the lists are from.
      threshold: IoU.
      count: how many fused boxes are kept.

    Returns:
      boxes (k = min(count, n)), scores, classes and which of them are real, best first; the rest are zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import box_fusion
      >>> boxes = jnp.array([[0.0, 0, 4, 4], [0.0, 0, 4, 3], [8.0, 8, 9, 9]])
      >>> lists = boxes, jnp.array([0.75, 0.25, 0.5]), jnp.zeros(3, jnp.int32)
      >>> fused, scores, _, _ = box_fusion.fuse(*lists, valid=jnp.ones(3, bool), answers=2, count=2)
      >>> fused.tolist(), scores.tolist()
      ([[0.0, 0.0, 4.0, 3.75], [8.0, 8.0, 9.0, 9.0]], [0.5, 0.25])
    """
    order = jnp.argsort(jnp.where(valid, scores, -jnp.inf), descending=True, stable=True)
    boxes, scores, classes, valid = boxes[order], scores[order], classes[order], valid[order]
    places = jnp.arange(len(boxes))

    def turn(fused, given):
        box, score, label, real = given
        total = fused["score"]
        mean = fused["box"] / jnp.where(total > 0, total, 1)[:, None]
        overlap = box_ops.pairwise_iou(box[None], mean)[0]
        overlap = jnp.where((fused["number"] > 0) & (fused["class"] == label), overlap, -1.0)
        joins = overlap.max() > threshold
        place = jnp.where(joins, jnp.argmax(overlap), (fused["number"] > 0).sum())
        here = (places == place) & real
        return {
            "box": fused["box"] + jnp.where(here[:, None], box * score, 0),
            "score": total + jnp.where(here, score, 0),
            "number": fused["number"] + here,
            "class": jnp.where(here, label, fused["class"]),
        }, None

    empty = {
        "box": jnp.zeros_like(boxes),
        "score": jnp.zeros_like(scores),
        "number": jnp.zeros(len(boxes), jnp.int32),
        "class": jnp.zeros_like(classes),
    }
    fused, _ = jax.lax.scan(turn, empty, (boxes, scores, classes, valid))
    number, total = fused["number"], fused["score"]
    score = total / jnp.maximum(number, 1) * jnp.minimum(number, answers) / answers
    score, best = jax.lax.top_k(score, min(count, len(boxes)))
    mean = fused["box"] / jnp.where(total > 0, total, 1)[:, None]
    return mean[best], score, fused["class"][best], score > 0
