"""Max pooling in windows that do not overlap, which tells the place of each largest, and its inverse.

Places are numbered row by row within a window, so that pooling, unpooling and the gradients of both are choices among
size² images; none is a scatter.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def max_pool(x: Float[Array, "b h w c"], size: int = 2) -> tuple[Float[Array, "b i j c"], UInt8[Array, "b i j c"]]:
    """Largest of each size×size window and its place there, the first of equals; a rest of the image is left out."""
    return _max_pool(x, size)


def max_pool_all(x: Float[Array, "b h w c"], size: int = 2) -> tuple[Float[Array, "b i j c"], UInt8[Array, "b i j c"]]:
    """As `max_pool`, with windows at the ends that are only partly inside."""
    below, right = (-side % size for side in x.shape[1:3])
    return _max_pool(jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), constant_values=-jnp.inf), size)


def max_of_three(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Largest of each 3×3 window, at every second row and column, with a border that is never the largest.

    By rows and columns of even and odd places: neither is the whole padded, nor any place looked at twice along an
    axis. On a CPU that takes half the time of slices.
    """
    height, width = x.shape[1:3]
    if height % 2 or width % 2:
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), constant_values=-jnp.inf)
    rows = [_with_both_sides(x[:, row::2, 0::2], x[:, row::2, 1::2], 2) for row in (0, 1)]
    return _with_both_sides(rows[0], rows[1], 1)


def _with_both_sides(even, odd, axis: int):
    """Largest of each even place and the odd ones before and after it."""
    edges = [(0, 0, 0)] * 4
    edges[axis] = (1, -1, 0)
    before = jax.lax.pad(odd, jnp.asarray(-jnp.inf, odd.dtype), edges)
    return jnp.maximum(jnp.maximum(before, even), odd)


def unpool(
    x: Float[Array, "b i j c"], places: UInt8[Array, "b i j c"], shape: tuple[int, int], size: int = 2
) -> Float[Array, "b h w c"]:
    """Put each value where the largest of its window was, among zeros (Zeiler et al. 2011).

    Args:
      places: as `max_pool` gives them.
      shape: rows and columns of the map that was pooled, h and w.
    """
    b, i, j, c = x.shape
    spread = [jnp.where(places == place, x, 0) for place in range(size**2)]
    rows = [jnp.stack(spread[k * size : (k + 1) * size], 3).reshape(b, i, size * j, c) for k in range(size)]
    whole = jnp.stack(rows, 2).reshape(b, size * i, size * j, c)[:, : shape[0], : shape[1]]
    below, right = shape[0] - whole.shape[1], shape[1] - whole.shape[2]
    return jnp.pad(whole, ((0, 0), (0, below), (0, right), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x, size: int):
    """The places serve the gradient too, rather than x."""
    phases = _phases(x, size)
    largest = reduce(jnp.maximum, phases)
    places = jnp.full(largest.shape, size**2 - 1, jnp.uint8)
    for place in reversed(range(size**2 - 1)):
        places = jnp.where(phases[place] == largest, jnp.uint8(place), places)
    return largest, places


def _forward(x, size: int):
    # The barrier keeps later layers from computing these again.
    largest, places = jax.lax.optimization_barrier(_max_pool(x, size))
    return (largest, places), (places, jnp.zeros(x.shape[1:3], jnp.uint8))


def _backward(size: int, saved, gradients):
    places, frame = saved
    return (unpool(gradients[0], places, frame.shape, size),)


_max_pool.defvjp(_forward, _backward)


def _phases(x, size: int):
    """The size² images that hold one place of every window each, row by row."""
    height, width = (side // size * size for side in x.shape[1:3])
    return [x[:, i:height:size, j:width:size] for i in range(size) for j in range(size)]
