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

    A box is suppressed if its IoU with a kept box of a higher score is above `threshold`; of equal scores the earlier
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

    def overlaps(start: int, stop: int, first: int, last: int) -> Bool[Array, "i j"]:
        overlap = box_ops.pairwise_iou(boxes[start:stop], boxes[first:last]) > threshold
        return overlap if groups is None else overlap & (groups[start:stop, None] == groups[None, first:last])

    for start in range(0, len(boxes), TILE):
        stop = min(start + TILE, len(boxes))
        tile = _suppress(overlaps(start, stop, start, stop), keep[start:stop])
        # By how many boxes of the tile each later one is suppressed. A product, for the layout that a TPU gives it:
        # reduced by `any` under `vmap`, the axis that it pads to 128 is the batch's, and suppression takes a sixth of a
        # step.
        hits = tile.astype(jnp.float32) @ overlaps(start, stop, stop, len(boxes)).astype(jnp.float32)
        keep = jnp.concatenate([keep[:start], tile, keep[stop:] & (hits == 0)])
    return keep


def _suppress(overlap: Bool[Array, "t t"], keep: Bool[Array, "t"]) -> Bool[Array, "t"]:
    places = jnp.arange(len(keep))

    def turn(keep, box):
        number, overlapping = box
        # Not keep[number]: for that a TPU makes the boxes the slowest axis, and pads the batch to 128.
        here = jnp.any(keep & (places == number))
        return keep & ~(overlapping & here), None

    # A scan has the turns as its first axis under any `vmap`; else a TPU pads the batch, as the last one, to 128.
    return jax.lax.scan(turn, keep, (places, jnp.triu(overlap, 1)))[0]
