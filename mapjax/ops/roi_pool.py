"""RoI max pooling (Girshick 2015, Fast R-CNN), as torchvision's `roi_pool` on boxes within the image.

A box is rounded to whole cells and cut into bins; each bin gives the largest value of its cells. The same maximum has
one form per platform: on TPU one reduction over rows and one over columns, whose masks are made on the fly; elsewhere
four look-ups in maxima over windows of 1, 2, 4 … cells, of which any bin is the union.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mapjax.ops.roi_align import each_image


class Bins(NamedTuple):
    """Cells of one axis: bin p of box n has those from `start` to before `end`."""

    start: Int[Array, "n p"]
    end: Int[Array, "n p"]


def roi_pool(
    features: Float[Array, "h w c"], stride: int | float, boxes: Float[Array, "n 4"], *, pool: int = 7
) -> Float[Array, "n p p c"]:
    """Pool each box; of equal cells all share the gradient, where torchvision's first takes it.

    Args:
      features: a map.
      stride: pixels per cell.
      boxes: in pixels of the input. They are cut off at the map's border, so that of a box beyond it the bins are those
        of the part within.
      pool: bins along each axis.
    """
    height, width = features.shape[:2]
    rows = _bins(boxes[:, 1] / stride, boxes[:, 3] / stride, height, pool)
    columns = _bins(boxes[:, 0] / stride, boxes[:, 2] / stride, width, pool)
    return jax.lax.platform_dependent(
        features,
        rows,
        columns,
        tpu=_by_reductions,
        cuda=partial(_by_windows, chunk=128),
        default=partial(_by_windows, chunk=16),
    )


def roi_pool_batch(
    features: Float[Array, "b h w c"], stride: int | float, boxes: Float[Array, "b n 4"], *, pool: int = 7
) -> Float[Array, "b n p p c"]:
    """`roi_pool` of every image of a batch."""
    return each_image(lambda features, boxes: roi_pool(features, stride, boxes, pool=pool), features, boxes)


def _bins(low, high, length: int, pool: int) -> Bins:
    """Cut one axis of boxes; `low` and `high` are their edges in cells."""
    first, last = (jnp.clip(jnp.floor(edge + 0.5), 0, length - 1).astype(jnp.int32) for edge in (low, high))
    size = jnp.maximum(last - first + 1, 1)[:, None]
    number = jnp.arange(pool)  # in whole numbers: in float32 31 cells are 7 · (31 / 7) and a little more
    start, end = number * size // pool, -(-(number + 1) * size // pool)
    return Bins(start + first[:, None], jnp.minimum(end + first[:, None], length))


def _longest(length: int, pool: int) -> int:
    """Cells of the longest bin of any box."""
    return min(-(-length // pool) + 1, length)


def _by_windows(features, rows: Bins, columns: Bins, *, chunk: int):
    height, width, depth = features.shape
    down, across = (_longest(length, rows.start.shape[1]).bit_length() for length in (height, width))
    maps = [part for tall in _doubled(features, down, 0) for part in _doubled(tall, across, 1)]
    table = jnp.concatenate([part.reshape(-1, depth) for part in maps])

    def one(box):
        (level_y, *tops), (level_x, *lefts) = (_windows(*bins) for bins in box)
        window = (level_y[:, None] * across + level_x) * height
        largest = None
        for top in tops:
            for left in lefts:
                index = (window + top[:, None]) * width + left
                found = table.at[index].get(mode="promise_in_bounds")
                largest = found if largest is None else jnp.maximum(largest, found)
        return largest

    return jax.lax.map(one, (rows, columns), batch_size=chunk)


def _doubled(values, count: int, axis: int) -> list:
    """Give the largest values of windows of 1, 2, 4 … cells from each cell on."""
    found = [values]
    for level in range(count - 1):
        step, last = min(2**level, values.shape[axis]), found[-1]
        # What comes in at the end repeats cells that are in no bin's window.
        ahead = [jax.lax.slice_in_dim(last, step, None, axis=axis), jax.lax.slice_in_dim(last, 0, step, axis=axis)]
        found.append(jnp.maximum(last, jnp.concatenate(ahead, axis)))
    return found


def _windows(start, end):
    """Say which power of 2 covers each bin when it is laid on twice, and where: from its start, and to its end."""
    count = jnp.maximum(end - start, 1)
    level = 31 - jax.lax.clz(count)
    return level, start, jnp.maximum(end - (1 << level), 0)


def _by_reductions(features, rows: Bins, columns: Bins):
    height, width = features.shape[:2]
    least = jnp.finfo(features.dtype).min
    y, x = (_inside(bins, length) for bins, length in ((rows, height), (columns, width)))
    across = jnp.where(y[..., None, None], features, least).max(2)  # n p w c
    return jnp.where(x[:, None, :, :, None], across[:, :, None], least).max(3)


def _inside(bins: Bins, length: int):
    cell = jnp.arange(length)
    return (cell >= bins.start[..., None]) & (cell < bins.end[..., None])
