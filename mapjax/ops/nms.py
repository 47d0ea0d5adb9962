"""Greedy non-maximum suppression with fixed shapes and fixed trip counts.

A loop whose end depends on data would, under `vmap` over a sharded batch, put a collective into every trip;
here only the sizes of the arrays decide, so a program's cost is known and any sharding of a batch works.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mapjax.ops import boxes as box_ops

TILE = 256


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    threshold: float,
    count: int,
    *,
    valid: Bool[Array, "n"] | None = None,
    groups: Int[Array, "n"] | None = None,
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """Best boxes first: the first `count` that greedy suppression keeps.

    A box falls if its IoU with a kept box of a higher score is above `threshold`; of equal scores the earlier
    box goes first. Boxes of different `groups` (classes, pyramid levels) never suppress each other.

    Returns:
      indices into `boxes` (k = min(count, n)) and which of them are real; the rest are arbitrary.
    """
    order = jnp.argsort(scores if valid is None else jnp.where(valid, scores, -jnp.inf), descending=True, stable=True)
    alive = jnp.ones(len(order), bool) if valid is None else valid[order]
    keep = keep_sorted(boxes[order], threshold, valid=alive, groups=None if groups is None else groups[order])
    first = jnp.argsort(~keep, stable=True)[:count]
    return order[first], keep[first]


def keep_sorted(
    boxes: Float[Array, "n 4"],
    threshold: float,
    *,
    valid: Bool[Array, "n"],
    groups: Int[Array, "n"] | None = None,
) -> Bool[Array, "n"]:
    """Which boxes greedy suppression keeps, of boxes already sorted by falling score.

    Works by tiles: boxes of a tile suppress each other one by one, then all later boxes at once.
    """
    keep = valid
    for start in range(0, boxes.shape[0], TILE):
        stop = min(start + TILE, boxes.shape[0])
        overlap = box_ops.pairwise_iou(boxes[start:stop], boxes[start:]) > threshold
        if groups is not None:
            overlap &= groups[start:stop, None] == groups[None, start:]
        tile = _suppress(overlap[:, : stop - start], keep[start:stop])
        later = keep[stop:] & ~jnp.any(overlap[:, stop - start :] & tile[:, None], 0)
        keep = jnp.concatenate([keep[:start], tile, later])
    return keep


def _suppress(overlap: Bool[Array, "t t"], keep: Bool[Array, "t"]) -> Bool[Array, "t"]:
    def turn(keep, box):
        number, falls = box
        return keep & ~(falls & keep[number]), None

    # A scan has the turns as its first axis under any `vmap`; else a TPU pads the batch, as the last one, to 128.
    return jax.lax.scan(turn, keep, (jnp.arange(len(keep)), jnp.triu(overlap, 1)))[0]
