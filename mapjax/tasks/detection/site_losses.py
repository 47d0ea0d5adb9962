"""Losses of the sites of a dense detector in one image: their classes, their boxes, and how good these are.

All know the same of what a site should say, its targets: "classes" (r) and "boxes" (r 4) of what it is matched to,
"positive" (r) where that is an object, "counted" (r) where it is not ignored, and "quality" (r) where the assignment
gives it. Each returns a number a site, 0 where it does not count.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.ops import box_codes, box_losses, losses, matching

Targets = Mapping[str, Any]


def focal(
    logits: Float[Array, "r c"], targets: Targets, *, alpha: float | int = 0.25, gamma: float | int = 2
) -> Float[Array, "r"]:
    """The focal loss of all classes, of objects and background."""
    wanted = (targets["classes"][:, None] == jnp.arange(logits.shape[1])) & targets["positive"][:, None]
    each = losses.focal(logits, wanted.astype(jnp.float32), alpha, gamma).sum(-1)
    return jnp.where(targets["counted"], each, 0)


def softmax(logits: Float[Array, "r e"], targets: Targets, *, negatives: float | int = 3) -> Float[Array, "r"]:
    """Cross-entropy with background as the first class, of objects and `negatives` times as many hard negatives."""
    positive = targets["positive"]
    each = losses.cross_entropy(logits, jnp.where(positive, targets["classes"] + 1, 0))
    hard = matching.hardest(jax.lax.stop_gradient(each), positive, targets["counted"] & ~positive, negatives)
    return jnp.where(positive | hard, each, 0)


def bce(logits: Float[Array, "r c"], targets: Targets, *, everywhere: bool = True) -> Float[Array, "r"]:
    """Cross-entropy of all classes with the quality that the assignment gives an object's class, and 0 elsewhere.

    everywhere: of objects and background (Feng et al. 2021, TOOD); else of objects only, where the network has a score
      for objects of any class (YOLOX).
    """
    wanted = (targets["classes"][:, None] == jnp.arange(logits.shape[1])) & targets["positive"][:, None]
    each = losses.binary_cross_entropy(logits, jnp.where(wanted, targets["quality"][:, None], 0)).sum(-1)
    return jnp.where(targets["counted"] if everywhere else targets["positive"], each, 0)


CLASS_LOSSES: dict[str, tuple[Callable[..., Array], Callable[[Array], Array]]] = {  # and what gives scores of classes
    "focal": (focal, jax.nn.sigmoid),
    "bce": (bce, jax.nn.sigmoid),
    "softmax": (softmax, lambda logits: jax.nn.softmax(logits)[..., 1:]),
}


def smooth_l1(predicted: Targets, wanted: Targets, *, beta: float | int = 1.0) -> Float[Array, "r"]:
    """Of the four numbers of the code; see ops/losses.py."""
    return losses.smooth_l1(predicted["deltas"], wanted["deltas"], float(beta)).sum(-1)


def l1(predicted: Targets, wanted: Targets) -> Float[Array, "r"]:
    """The absolute errors of the four numbers of the code."""
    return jnp.abs(predicted["deltas"] - wanted["deltas"]).sum(-1)


def giou(predicted: Targets, wanted: Targets) -> Float[Array, "r"]:
    """Of the boxes themselves; see ops/box_losses.py."""
    return box_losses.giou(predicted["boxes"], wanted["boxes"])


def iou_squared(predicted: Targets, wanted: Targets) -> Float[Array, "r"]:
    """Of the boxes themselves; see ops/box_losses.py."""
    return box_losses.iou_squared(predicted["boxes"], wanted["boxes"])


def ciou(predicted: Targets, wanted: Targets) -> Float[Array, "r"]:
    """Of the boxes themselves; see ops/box_losses.py."""
    return box_losses.ciou(predicted["boxes"], wanted["boxes"])


BOX_LOSSES: dict[str, Callable[..., Array]] = {  # (predicted and wanted "deltas" and "boxes" (r 4)) → (r)
    "l1": l1,
    "smooth_l1": smooth_l1,
    "giou": giou,
    "iou_squared": iou_squared,
    "ciou": ciou,
}


def centreness(logits: Float[Array, "r"], targets: Targets, sites: Float[Array, "r 4"]) -> Float[Array, "r"]:
    """Cross-entropy with how central the point is in its box, 1 in its middle and 0 at its edge (Tian et al. 2019).

    It is 0 outside too, where all assignments but that by centres may match a point.
    """
    edges = box_codes.encode_distances(targets["boxes"], sites)
    edges = jnp.where(targets["positive"][:, None], edges, 1)
    pairs = jnp.stack([edges[:, ::2], edges[:, 1::2]])  # left and right, top and bottom
    shares = pairs.min(-1) / jnp.maximum(pairs.max(-1), 1e-6)
    wanted = jnp.sqrt(jnp.prod(jnp.maximum(shares, 0), 0))
    return jnp.where(targets["positive"], losses.binary_cross_entropy(logits, wanted), 0)


def objectness(logits: Float[Array, "r"], targets: Targets, sites: Float[Array, "r 4"]) -> Float[Array, "r"]:
    """Cross-entropy with whether the site has an object of any class (YOLOX)."""
    del sites
    each = losses.binary_cross_entropy(logits, targets["positive"].astype(jnp.float32))
    return jnp.where(targets["counted"], each, 0)


QUALITIES: dict[str, tuple[Callable[..., Array], Callable[[Array, Array], Array]]] = {  # loss; score of (score, chance)
    "centreness": (centreness, lambda score, chance: jnp.sqrt(score * chance)),
    "objectness": (objectness, lambda score, chance: score * chance),
}
