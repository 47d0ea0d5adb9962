"""Which ground truth an anchor or proposal is matched to, and which of them a loss looks at."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mapjax.ops import boxes as box_ops

BACKGROUND = -1
IGNORED = -2
CROWD_COVERAGE = 0.5  # an anchor or proposal with this share in a crowd is neither object nor background


def match(
    iou: Float[Array, "m n"],
    valid: Bool[Array, "m"],
    *,
    high: float,
    low: float,
    low_quality: bool = False,
) -> Int[Array, "n"]:
    """Index of the ground truth that each of n anchors is matched to, else BACKGROUND or IGNORED.

    An anchor takes the truth of its largest IoU (of equals the first) if that is at least `high`; below `low` it
    is background; between, ignored. With `low_quality`, the anchors that overlap some truth most (all of them,
    if they tie) keep their own best truth whatever its IoU (Ren et al. 2015, section 3.1.2). As torchvision's
    Matcher, except that a truth which no anchor touches claims none.

    Args:
      iou: overlap of m truths with n anchors.
      valid: which truths are real; there may be none, or m = 0.
    """
    if iou.shape[0] == 0:
        return jnp.full(iou.shape[1], BACKGROUND)
    iou = jnp.where(valid[:, None], iou, -1)
    best, best_truth = iou.max(0), first_largest(iou)
    matched = jnp.where(best >= high, best_truth, jnp.where(best >= low, IGNORED, BACKGROUND))
    if low_quality:
        most = iou.max(1, keepdims=True)
        matched = jnp.where(jnp.any((iou == most) & (most > 0), 0), best_truth, matched)
    return matched


def first_largest(values: Float[Array, "m n"]) -> Int[Array, "n"]:
    """In which row each column is largest, of equals the first; m where it is NaN.

    As argmax(0), which keeps two numbers while it goes down the rows, so that XLA can't vectorize it on a CPU.
    """
    rows = jnp.arange(len(values), dtype=jnp.int32)[:, None]
    return jnp.where(values == values.max(0), rows, len(values)).min(0)


def ignore_crowds(
    matched: Int[Array, "n"], candidates: Float[Array, "n 4"], truth: Mapping[str, Any]
) -> Int[Array, "n"]:
    """What is background and mostly lies in a crowd is IGNORED; what has an object keeps it.

    Args:
      truth: of one image, "boxes" (m 4), "crowd" (m) and "valid" (m).
    """
    covered = box_ops.pairwise_coverage(candidates, truth["boxes"]) > CROWD_COVERAGE
    in_crowd = jnp.any(covered & (truth["valid"] & truth["crowd"])[None], 1)
    return jnp.where((matched == BACKGROUND) & in_crowd, IGNORED, matched)


def hardest(
    loss: Float[Array, "n"], positive: Bool[Array, "n"], negative: Bool[Array, "n"], ratio: float | int
) -> Bool[Array, "n"]:
    """The negatives of the largest loss, `ratio` for each positive (Liu et al. 2016, SSD); none without a positive."""
    order = jnp.argsort(jnp.where(negative, loss, -jnp.inf), descending=True, stable=True)
    return negative & (jnp.argsort(order) < ratio * positive.sum())


def sample(
    key: Key[Array, ""], positive: Bool[Array, "n"], negative: Bool[Array, "n"], count: int, fraction: float
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """Draw up to `count` rows at random: at most `count · fraction` positives, the rest negatives.

    Returns:
      their indices (k = min(count, n)), positives first, and which of them are real: fewer than k rows are drawn
      when there are too few negatives.
    """
    wanted = min(int(count * fraction), positive.shape[0])
    count = min(count, positive.shape[0])
    order = jax.random.uniform(key, positive.shape)
    drawn, chosen = jax.lax.top_k(jnp.where(positive, order, -1), wanted)
    others, rest = jax.lax.top_k(jnp.where(negative, order, -1), count)
    found = jnp.sum(drawn >= 0)
    slot = jnp.arange(count)
    is_positive = slot < found
    behind = jnp.where(is_positive, 0, slot - found)
    index = jnp.where(is_positive, chosen[jnp.minimum(slot, max(wanted - 1, 0))], rest[behind]) if wanted else rest
    real = is_positive | (others[behind] >= 0) if wanted else others >= 0
    return index, real
