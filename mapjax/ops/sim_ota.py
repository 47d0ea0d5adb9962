"""Assignment by cost with as many sites an object as it has good answers: SimOTA (Ge et al. 2021, YOLOX, arXiv
2107.08430, section 2.1), a short form of optimal transport (Ge et al. 2021, OTA, arXiv 2103.14259).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mapjax.ops import boxes as box_ops
from mapjax.ops import matching

OUTSIDE = 1e5  # added to the cost of a site that is not both in the box and near its centre
SMALL = 1e-8


def by_sim_ota(
    truth: Mapping[str, Any],
    sites: Sequence[Float[np.ndarray, "_ 4"]],
    predicted: Mapping[str, Any],
    *,
    radius: float | int = 2.5,
    count: int = 10,
    factor: float | int = 3,
    shift: float | int = 0.5,
) -> dict[str, Array]:
    """Each truth takes the sites of its lowest cost, as many as the IoUs of its best answers sum to, and one at least.

    Costs are the cross-entropy of the class scores' roots plus `factor` times −log IoU. Only sites that lie in a box or
    near its centre take part. A site that several truths take belongs to that of the lowest cost of all.

    Args:
      predicted: "scores" (r c), class times objectness, and "boxes" (r 4).
      radius: how near the centre is, in sides of the site.
      count: the most answers that are summed, and sites that a truth takes.
      shift: from a site's centre to the point that is compared with the boxes, in sides: YOLOX' sites are centred at
        the corners of the cells.

    Returns:
      "matched" (r) and "quality" (r), the IoU of the site's answer, 0 where nothing is matched.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from mapjax.ops import sim_ota
      >>> truth = {"boxes": jnp.array([[0.0, 0, 8, 8]]), "classes": jnp.array([0])}
      >>> truth |= {"crowd": jnp.array([False]), "valid": jnp.array([True])}
      >>> predicted = {"scores": jnp.array([[0.9], [0.8]]), "boxes": jnp.array([[0.0, 0, 8, 4], [0, 0, 8, 8]])}
      >>> sites = [np.float32([[-4, -4, 4, 4], [-3, -3, 5, 5]])]
      >>> found = sim_ota.by_sim_ota(truth, sites, predicted)
      >>> found["matched"].tolist(), found["quality"].tolist()
      ([-1, 0], [0.0, 1.0])
    """
    every = jnp.concatenate([jnp.asarray(level) for level in sites])
    boxes, single = truth["boxes"], truth["valid"] & ~truth["crowd"]
    inside, near = _regions(every, boxes, radius, shift)
    candidate = ((inside | near) & single[:, None]).any(0)
    iou = jnp.where(candidate & single[:, None], box_ops.pairwise_iou(boxes, predicted["boxes"]), 0)
    cost = _class_cost(predicted["scores"], truth["classes"]) - factor * jnp.log(iou + SMALL)
    cost = jnp.where(candidate, cost + jnp.where(inside & near, 0, OUTSIDE), jnp.inf)
    takes = _lowest(cost, iou, single, min(count, len(every)))
    # The one truth that takes a site; of several, that of the lowest cost, be it one that did not take it (as YOLOX).
    owner = jnp.where(takes.sum(0) > 1, jnp.where(single[:, None], cost, jnp.inf).argmin(0), takes.argmax(0))
    matched = jnp.where(takes.any(0), owner, matching.BACKGROUND)
    quality = jnp.where(matched >= 0, jnp.take_along_axis(iou, owner[None], 0)[0], 0)
    return {"matched": matching.ignore_crowds(matched, every, truth), "quality": quality}


def _regions(every, boxes, radius: float | int, shift: float | int) -> tuple[Bool[Array, "m r"], Bool[Array, "m r"]]:
    """Which points lie in each box, and which near its centre."""
    side = every[:, 2:] - every[:, :2]
    points = (every[:, :2] + every[:, 2:]) / 2 + shift * side
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    inside = ((points > low) & (points < high)).all(-1)
    return inside, (jnp.abs(points - (low + high) / 2) < radius * side).all(-1)


def _class_cost(scores: Float[Array, "r c"], classes: Int[Array, "m"]) -> Float[Array, "m r"]:
    """Cross-entropy, over all classes, between the roots of the scores and the class of each truth."""
    chance = jnp.clip(jnp.sqrt(scores), 1e-6, 1 - 1e-6)
    absent = -jnp.log1p(-chance)
    return absent.sum(-1) - (jnp.log(chance) + absent).T[classes]


def _lowest(cost, iou, single, count: int) -> Bool[Array, "m r"]:
    """The sites of the lowest cost of each truth: as many as its `count` largest IoUs sum to, rounded down."""
    best, _ = jax.lax.top_k(iou, count)
    wanted = jnp.maximum(best.sum(-1).astype(jnp.int32), 1)
    low, places = jax.lax.top_k(-cost, count)
    taken = (jnp.arange(count) < wanted[:, None]) & (low > -jnp.inf) & single[:, None]
    return jnp.zeros(cost.shape, bool).at[jnp.arange(len(cost))[:, None], places].max(taken)
