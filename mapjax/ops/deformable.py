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


def _dense(maps, places, weights):
    """Of one image, by products with hats: 1 at a place, falling to 0 one pixel from it."""
    result = None
    for level, one in enumerate(maps):
        rows, columns = one.shape[:2]
        x, y = (places[..., level, :, axis] * size - 0.5 for axis, size in ((0, columns), (1, rows)))
        part = _read(one, *(part.transpose(2, 1, 0) for part in (x, y, weights[..., level, :])))
        result = part if result is None else result + part
    assert result is not None
    return result.astype(maps[0].dtype)


@jax.custom_vjp
def _read(one, x, y, weight):
    """What a query's places on one map hold: a product with their weights over all pixels.

    Args:
      one (r c h d).
      x, y, weight (p h q): places in pixels of the map, whole in their centres.

    Returns:
      (q h d), float32.
    """
    flat = one.reshape(-1, *one.shape[2:])
    return jnp.einsum("hqn,nhd->qhd", _spread(one, x, y, weight), flat, preferred_element_type=jnp.float32)


def _spread(one, x, y, weight):
    """Weights of each query's places over all pixels (h q r·c)."""
    row, column = (jnp.asarray(axis.ravel(), jnp.float32) for axis in np.indices(one.shape[:2]))
    every = zip(*(part[..., None] for part in (x, y, weight)))
    return jnp.asarray(sum(weight * _hat(x - column) * _hat(y - row) for x, y, weight in every), one.dtype)


def _read_forward(*given):
    return _read(*given), given  # not the weights, some times the map's size for each query: they are made again


def _read_backward(given, gradient):
    """Of a place by the four pixels around it, which a sum over all picks out: fewer steps than slopes of the hats."""
    one, x, y, weight = given
    rows, columns = one.shape[:2]
    flat, gradient = one.reshape(rows * columns, *one.shape[2:]), gradient.astype(one.dtype)
    of_map = jnp.einsum("hqn,qhd->nhd", _spread(*given), gradient, preferred_element_type=jnp.float32)
    seen = jnp.einsum("qhd,nhd->hqn", gradient, flat, preferred_element_type=jnp.float32)
    pixel = jnp.arange(rows * columns)

    def held(row, column):
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        index = jnp.where(inside, row * columns + column, -1).astype(jnp.int32)
        return jnp.stack([jnp.where(place[..., None] == pixel, seen, 0).sum(-1) for place in index])

    left, top = jnp.floor(x), jnp.floor(y)
    right_of, below = x - left, y - top
    (a, b), (c, d) = ([held(top + down, left + right) for right in (0, 1)] for down in (0, 1))
    of_x = (1 - below) * (b - a) + below * (d - c)
    of_y = (1 - right_of) * (c - a) + right_of * (d - b)
    of_weight = (1 - below) * (a + right_of * (b - a)) + below * (c + right_of * (d - c))
    return of_map.reshape(one.shape).astype(one.dtype), weight * of_x, weight * of_y, of_weight


_read.defvjp(_read_forward, _read_backward)


def _hat(distance):
    return jnp.maximum(1 - jnp.abs(distance), 0)
