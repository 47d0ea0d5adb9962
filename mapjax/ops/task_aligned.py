"""Assignment by how well a site answers, in class and box together (Feng et al. 2021, TOOD, arXiv 2108.07755)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mapjax.ops import boxes as box_ops
from mapjax.ops import matching

SMALL = 1e-9


def by_task_alignment(
    truth: Mapping[str, Any],
    sites: Sequence[Float[np.ndarray, "_ 4"]],
    predicted: Mapping[str, Any],
    *,
    alpha: float | int = 0.5,
    beta: float | int = 6,
    count: int = 10,
) -> dict[str, Array]:
    """Each truth takes the sites in it whose score^alpha · IoU^beta is largest; a site that several take, that of its
    largest IoU.

    With a count of 1 it is the one-to-one matching of YOLOv10 (Wang et al. 2024, arXiv 2405.14458). A truth in which no
    site's centre lies has the site, of each level, in which its own centre lies.

    Args:
      predicted: "scores" (r c) and "boxes" (r 4).
      alpha, beta: exponents of the score of the truth's class, and of the IoU.
      count: sites of a truth.

    Returns:
      "matched" (r) and "quality" (r): the alignment of a matched site, scaled so that the best of a truth has the
      largest IoU of those that it took; 0 where nothing is matched.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from mapjax.ops import task_aligned
      >>> truth = {"boxes": jnp.array([[0.0, 0, 8, 8]]), "classes": jnp.array([0])}
      >>> truth |= {"crowd": jnp.array([False]), "valid": jnp.array([True])}
      >>> predicted = {"scores": jnp.array([[0.9], [0.9]]), "boxes": jnp.array([[0.0, 0, 8, 4], [0, 0, 8, 8]])}
      >>> sites = [np.float32([[0, 0, 4, 4], [4, 4, 8, 8]])]
      >>> found = task_aligned.by_task_alignment(truth, sites, predicted, count=1)
      >>> found["matched"].tolist(), found["quality"].tolist()
      ([-1, 0], [0.0, 1.0])
    """
    every = jnp.concatenate([jnp.asarray(level) for level in sites])
    boxes, single = truth["boxes"], truth["valid"] & ~truth["crowd"]
    iou = box_ops.pairwise_iou(boxes, predicted["boxes"])
    aligned = predicted["scores"].T[truth["classes"]] ** alpha * iou**beta
    within = _within(every, boxes) & single[:, None]
    takes = _largest(aligned, within, min(count, len(every)))
    owner = jnp.where(takes, iou, -1).argmax(0)
    matched = jnp.where(takes.any(0), owner, matching.BACKGROUND)
    kept = takes & (matched == jnp.arange(len(boxes))[:, None])
    most, best = (jnp.where(kept, one, 0).max(1) for one in (aligned, iou))
    scaled = jnp.where(kept, aligned * (best / (most + SMALL))[:, None], 0)
    return {"matched": matching.ignore_crowds(matched, every, truth), "quality": scaled.max(0)}


def _within(every: Float[Array, "r 4"], boxes: Float[Array, "m 4"]) -> Bool[Array, "m r"]:
    """The sites whose centre lies in each box; of a box without any, those in which the box's centre lies."""
    points, middles = ((one[:, :2] + one[:, 2:]) / 2 for one in (every, boxes))
    inside = ((points > boxes[:, None, :2]) & (points < boxes[:, None, 2:])).all(-1)
    around = ((middles[:, None] >= every[:, :2]) & (middles[:, None] < every[:, 2:])).all(-1)
    return inside | (around & ~inside.any(1, keepdims=True))


def _largest(values: Float[Array, "m r"], within: Bool[Array, "m r"], count: int) -> Bool[Array, "m r"]:
    """The `count` largest values of each row, of those within."""
    top, places = jax.lax.top_k(jnp.where(within, values, -1), count)
    return jnp.zeros(values.shape, bool).at[jnp.arange(len(values))[:, None], places].max(top >= 0)
