"""RoIAlign over a feature pyramid (He et al. 2017, Mask R-CNN), as torchvision's MultiScaleRoIAlign.

A bin averages `samples`² bilinear samples, so a box's output is Y · features · Xᵀ with a weight matrix per axis.
The same sum has one form per platform: on TPU these two matrix products; elsewhere a gather of the few
features with a weight, some boxes at a time so that what is gathered stays in the cache.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mapjax.ops import boxes as box_ops

CANONICAL_SIZE, CANONICAL_LEVEL = 224.0, 4  # a box of 224² pixels belongs to the level of stride 2⁴ (Lin et al. 2017)


class Taps(NamedTuple):
    """Where one axis of n boxes is sampled: `index` into the axis and `weight`, for p bins of t taps each."""

    index: Int[Array, "n p t"]
    weight: Float[Array, "n p t"]


def assign_levels(boxes: Float[Array, "n 4"], lowest: int, highest: int) -> Int[Array, "n"]:
    """Pyramid level (log2 of its stride) that a box is pooled from (Lin et al. 2017, FPN, eq. 1)."""
    size = jnp.sqrt(jnp.maximum(box_ops.area(boxes), 0))
    level = jnp.floor(CANONICAL_LEVEL + jnp.log2(jnp.maximum(size, 1e-6) / CANONICAL_SIZE) + 1e-6)
    return jnp.clip(level, lowest, highest).astype(jnp.int32)


def roi_align(
    features: Sequence[Float[Array, "_ _ c"]],
    strides: Sequence[int],
    boxes: Float[Array, "n 4"],
    *,
    pool: int = 7,
    samples: int = 2,
) -> Float[Array, "n p p c"]:
    """Pool each box from the pyramid level of its size.

    Args:
      features: one map a level (h w c), finest first.
      strides: pixels per feature cell, powers of 2, rising by 2.
      boxes: in pixels of the input. A box narrower than a cell is pooled as if it were one cell wide.
      pool: bins along each axis.
      samples: bilinear samples along each axis of a bin.
    """
    level = assign_levels(boxes, int(np.log2(strides[0])), int(np.log2(strides[-1]))) - int(np.log2(strides[0]))
    scale = 1 / jnp.asarray(strides, boxes.dtype)[level]
    height = jnp.asarray([f.shape[0] for f in features])[level]
    width = jnp.asarray([f.shape[1] for f in features])[level]
    rows = _taps(boxes[:, 1] * scale, boxes[:, 3] * scale, height, pool, samples)
    columns = _taps(boxes[:, 0] * scale, boxes[:, 2] * scale, width, pool, samples)
    first = jnp.asarray(np.cumsum([0] + [f.shape[0] * f.shape[1] for f in features[:-1]]))[level]
    return jax.lax.platform_dependent(
        list(features),
        rows,
        columns,
        first,
        width,
        level,
        tpu=_by_products,
        cuda=partial(_by_gather, chunk=128),
        default=partial(_by_gather, chunk=8),
    )


def roi_align_batch(
    features: Sequence[Float[Array, "b _ _ c"]],
    strides: Sequence[int],
    boxes: Float[Array, "b n 4"],
    *,
    pool: int = 7,
) -> Float[Array, "b n p p c"]:
    """`roi_align` of every image of a batch."""
    return each_image(lambda maps, boxes: roi_align(maps, strides, boxes, pool=pool), list(features), boxes)


def each_image(one: Callable[..., Any], *batches: Any) -> Any:
    """Do `one` for every image of a batch: one after the other on a CPU, for its cache; else all at once."""

    def in_turn(*batches):
        return jax.lax.map(lambda image: one(*image), batches)

    return jax.lax.platform_dependent(*batches, cpu=in_turn, default=jax.vmap(one))


def _taps(low, high, length, pool: int, samples: int) -> Taps:
    """The taps of one axis: `low` and `high` are the boxes' edges in cells, `length` the axis' length."""
    step = jnp.maximum(high - low, 1) / (pool * samples)
    at = low[:, None] + (jnp.arange(pool * samples) + 0.5) * step[:, None]
    last = (length - 1)[:, None]
    inside = (at >= -1) & (at <= last + 1)
    at = jnp.clip(at, 0, last)
    index = jnp.floor(at).astype(jnp.int32)
    part = at - index
    index = jnp.stack([index, jnp.minimum(index + 1, last)], -1)
    weight = jnp.stack([1 - part, part], -1) * inside[..., None] / samples
    shape = (len(low), pool, samples * 2)
    return Taps(index.reshape(shape), weight.reshape(shape))


def _by_gather(features, rows: Taps, columns: Taps, first, width, level, *, chunk: int):
    table = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])

    def one(box):
        rows, columns, first, width = box
        index = first + rows.index[:, :, None, None] * width + columns.index
        found = table.at[index].get(mode="promise_in_bounds")  # bins taps bins taps channels
        found = jnp.einsum("pi,piqjc->pqjc", rows.weight.astype(table.dtype), found)
        return jnp.einsum("qj,pqjc->pqc", columns.weight.astype(table.dtype), found)

    return jax.lax.map(one, (rows, columns, first, width), batch_size=chunk)


def _by_products(features, rows: Taps, columns: Taps, first, width, level):
    places, size = _packed([f.shape[:2] for f in features])
    packed = jnp.zeros((*size, features[0].shape[-1]), features[0].dtype)
    for one, (top, left) in zip(features, places):
        packed = packed.at[top : top + one.shape[0], left : left + one.shape[1]].set(one)
    top, left = (jnp.asarray(axis)[level][:, None, None] for axis in zip(*places))
    y = _matrix(rows._replace(index=rows.index + top), size[0]).astype(packed.dtype)
    x = _matrix(columns._replace(index=columns.index + left), size[1]).astype(packed.dtype)
    # In this order, and with one x for each bin of rows, products and gradients come out as they lie in memory.
    # Einsum's own orders give (x c n p) and (n p c x), and to turn those round costs more than the products.
    across = jnp.tensordot(y, packed, 1)
    return jnp.einsum("npqx,npxc->npqc", jnp.broadcast_to(x[:, None], (*y.shape[:2], *x.shape[1:])), across)


def _packed(shapes) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Where each level lies on one map, (row, column), and its size: the first on top, the others side by side below.

    One product for all boxes, whose result is hardly wider than the first level, instead of one a level: half of the
    memory.
    """
    (height, width), others = shapes[0], shapes[1:]
    left = np.cumsum([0] + [w for _, w in others])
    places = [(0, 0)] + [(height, int(column)) for column in left[: len(others)]]
    return places, (height + max((h for h, _ in others), default=0), max(width, int(left[-1])))


def _matrix(taps: Taps, length: int):
    return jnp.sum(jax.nn.one_hot(taps.index, length, dtype=taps.weight.dtype) * taps.weight[..., None], 2)
