"""Which object each site of a dense detector answers for, in one image.

An assignment is a function (truth, sites, predicted, **options) → {"matched": …}:

    truth      "boxes" (m 4), "classes" (m), "crowd" (m) and "valid" (m)
    sites      one array (r_l 4) a level, pixels: anchors, or squares around points
    predicted  "scores" (r c) and "boxes" (r 4), without a gradient, for those that look at answers
    matched    (r) the index of a truth, or BACKGROUND or IGNORED of ops/matching.py; those that mostly lie in a crowd
               and are matched to nothing are ignored

and may give "quality" (r), 0 to 1: the score that a matched site should have.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mapjax.ops import boxes as box_ops
from mapjax.ops import matching
from mapjax.ops.sim_ota import by_sim_ota
from mapjax.ops.task_aligned import by_task_alignment

Truth = Mapping[str, Any]
Sites = Sequence[Float[np.ndarray, "_ 4"]]


def by_iou(
    truth: Truth,
    sites: Sites,
    predicted: Any = None,
    *,
    high: float | int = 0.5,
    low: float | int = 0.4,
    low_quality: bool = True,
) -> dict[str, Array]:
    """An anchor belongs to the truth of its largest IoU, from `high` on; below `low` it is background.

    Lin et al. 2017 (RetinaNet); options as for `matching.match`.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from mapjax.ops import assignment
      >>> truth = {"boxes": jnp.array([[0.0, 0, 8, 8]]), "crowd": jnp.array([False]), "valid": jnp.array([True])}
      >>> assignment.by_iou(truth, [np.float32([[0, 0, 8, 9], [8, 8, 16, 16]])])["matched"].tolist()
      [0, -1]
    """
    del predicted
    every = jnp.concatenate([jnp.asarray(level) for level in sites])
    iou = box_ops.pairwise_iou(truth["boxes"], every)
    single = truth["valid"] & ~truth["crowd"]
    matched = matching.match(iou, single, high=float(high), low=float(low), low_quality=low_quality)
    return {"matched": matching.ignore_crowds(matched, every, truth)}


def by_best_iou(truth: Truth, sites: Sites, predicted: Any = None, *, iou: float | int = 0.5) -> dict[str, Array]:
    """As `by_iou` without a band between, and each truth has the anchor that overlaps it most, whatever its IoU.

    Liu et al. 2016 (SSD, arXiv 1512.02325). Of truths with the same best anchor the last has it; a truth that no anchor
    touches has none.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from mapjax.ops import assignment
      >>> truth = {"boxes": jnp.array([[0.0, 0, 4, 4]]), "crowd": jnp.array([False]), "valid": jnp.array([True])}
      >>> assignment.by_best_iou(truth, [np.float32([[0, 0, 8, 9], [0, 0, 8, 8]])])["matched"].tolist()
      [-1, 0]
    """
    del predicted
    every = jnp.concatenate([jnp.asarray(level) for level in sites])
    overlap = box_ops.pairwise_iou(truth["boxes"], every)
    single = truth["valid"] & ~truth["crowd"]
    matched = matching.match(overlap, single, high=float(iou), low=float(iou))
    numbers = jnp.arange(len(overlap))
    claims = (overlap.argmax(1)[:, None] == jnp.arange(len(every))) & (single & (overlap.max(1) > 0))[:, None]
    forced = jnp.where(claims, numbers[:, None], -1).max(0)
    return {"matched": matching.ignore_crowds(jnp.where(forced >= 0, forced, matched), every, truth)}


def by_centre(
    truth: Truth,
    sites: Sites,
    predicted: Any = None,
    *,
    radius: float | int = 1.5,
    reach: Sequence[int | float] = (4, 8),
) -> dict[str, Array]:
    """A point belongs to a box that it lies in, near its centre, and that is of a size for its level.

    Tian et al. 2019 and 2020 (FCOS, arXiv 1904.01355, 2006.09214). Of several boxes it takes the smallest (torchvision
    rounds areas to about 8 pixels²; here they are compared as they are).

    Args:
      radius: the point is less than so many sides of its site from the centre, in x and in y.
      reach: the farthest edge is further than the first times the side, and nearer than the second; the finest level
        has no first, the coarsest no second.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from mapjax.ops import assignment
      >>> truth = {"boxes": jnp.array([[0.0, 0, 10, 10]]), "crowd": jnp.array([False]), "valid": jnp.array([True])}
      >>> assignment.by_centre(truth, [np.float32([[0, 0, 8, 8], [16, 16, 24, 24]])])["matched"].tolist()
      [0, -1]
    """
    del predicted
    every = np.concatenate(sites)
    side = every[:, 2] - every[:, 0]
    nearest, farthest = side * reach[0], side * reach[1]
    nearest[: len(sites[0])] = 0
    farthest[len(every) - len(sites[-1]) :] = np.inf
    points, boxes = jnp.asarray((every[:, :2] + every[:, 2:]) / 2), truth["boxes"][:, None]
    edges = jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], -1)  # (m r 4)
    from_centre = jnp.abs(points - (boxes[..., :2] + boxes[..., 2:]) / 2).max(-1)
    fits = (from_centre < radius * side) & (edges.min(-1) > 0)
    fits &= (edges.max(-1) > nearest) & (edges.max(-1) < farthest)
    fits &= (truth["valid"] & ~truth["crowd"])[:, None]
    area = jnp.where(fits, box_ops.area(truth["boxes"])[:, None], jnp.inf)
    matched = jnp.where(fits.any(0), matching.first_largest(-area), matching.BACKGROUND)
    return {"matched": matching.ignore_crowds(matched, jnp.asarray(every), truth)}


ASSIGNMENTS: dict[str, Callable[..., dict[str, Array]]] = {
    "iou": by_iou,
    "best_iou": by_best_iou,
    "centre": by_centre,
    "sim_ota": by_sim_ota,
    "task_aligned": by_task_alignment,
}
