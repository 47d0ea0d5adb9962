"""Sampling of maps at learned places, weighed (Zhu et al. 2020, Deformable DETR): each query reads a few places.

Two forms of one result. "gather" reads the four pixels around each place. "dense" makes of all places of a query its
weights over the whole map, and multiplies: no gather and no scatter, for chips on which these are slow. The
compiler of a TPU makes the weights within the product, and keeps none of them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mapjax.sharding import mesh as shard

Sampled = Callable[..., Float[Array, "q h d"]]


def sample(
    maps: Sequence[Float[Array, "b _ _ h d"]],
    places: Float[Array, "b q h l p 2"],
    weights: Float[Array, "b q h l p"],
    form: str = "auto",
) -> Float[Array, "b q h d"]:
    """Sum of what p places of each of l maps hold, between pixels bilinearly, outside zero.

    Pixels are squares with their values in the centres: (0, 0) is the top left corner of a map and (1, 1) its bottom
    right one, as torch's `grid_sample` with align_corners=False.

    Args:
      maps: one a level, h heads of d channels each.
      places: x and y as shares of the map.
      form: "gather", "dense" or "auto", which is "dense" on a TPU and else "gather".

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import deformable
      >>> maps = [jnp.array([[1.0, 3.0]]).reshape(1, 1, 2, 1, 1)]
      >>> place = jnp.array([0.5, 0.5]).reshape(1, 1, 1, 1, 1, 2)
      >>> float(deformable.sample(maps, place, jnp.ones((1, 1, 1, 1, 1)))[0, 0, 0, 0])
      2.0
    """
    forms = {"gather": jax.vmap(_gather), "dense": jax.vmap(_dense)}

    def of_platform(*given):
        return jax.lax.platform_dependent(*given, tpu=forms["dense"], default=forms["gather"])

    return shard.per_example(forms.get(form, of_platform))(list(maps), places, weights)


def _gather(maps, places, weights):
    """Of one image, in one gather from all maps."""
    sizes = [one.shape[:2] for one in maps]
    values = jnp.concatenate([one.reshape(-1, *one.shape[2:]) for one in maps])
    index, share, start = [], [], 0
    for level, (rows, columns) in enumerate(sizes):
        x, y = (places[..., level, :, axis] * size - 0.5 for axis, size in ((0, columns), (1, rows)))
        left, top = jnp.floor(x), jnp.floor(y)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row, column = top + down, left + right
            near = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column))
            inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            row, column = jnp.clip(row, 0, rows - 1), jnp.clip(column, 0, columns - 1)
            index.append(start + (row * columns + column).astype(jnp.int32))
            share.append(jnp.where(inside, near, 0) * weights[..., level, :])
        start += rows * columns
    index, share = jnp.concatenate(index, -1), jnp.concatenate(share, -1)  # (q h 4·l·p)
    heads = jnp.arange(values.shape[1])[:, None]
    return jnp.einsum("qhp,qhpd->qhd", share.astype(values.dtype), values[index, heads])


@jax.checkpoint  # what the weights are made of, some times the maps' size for each query, is made again
def _dense(maps, places, weights):
    """Of one image, by products with hats: 1 at a place, falling to 0 one pixel from it."""
    result = None
    for level, one in enumerate(maps):
        rows, columns, heads = one.shape[:3]
        row, column = (jnp.asarray(axis.ravel(), jnp.float32) for axis in np.indices((rows, columns)))
        x, y = (places[..., level, :, axis] * size - 0.5 for axis, size in ((0, columns), (1, rows)))
        every = zip(*(part.transpose(2, 1, 0)[..., None] for part in (x, y, weights[..., level, :])))
        parts = (weight * _hat(x - column) * _hat(y - row) for x, y, weight in every)  # (h q r·c)
        spread = jnp.asarray(sum(parts), one.dtype)
        flat = one.reshape(rows * columns, heads, -1)
        part = jnp.einsum("hqn,nhd->qhd", spread, flat, preferred_element_type=jnp.float32)
        result = part if result is None else result + part
    assert result is not None
    return result.astype(maps[0].dtype)


def _hat(distance):
    return jnp.maximum(1 - jnp.abs(distance), 0)
