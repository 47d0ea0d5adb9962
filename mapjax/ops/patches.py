"""Gradients of a convolution as one matrix product each, over what the kernel sees at each place.

That is im2col (Chellapilla et al. 2006). On small maps, and with a stride, XLA's CPU backend takes up to 2.5 times as
long for them. What the kernel sees takes k·l times the memory of the places.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.ops import depthwise

Padding = tuple[tuple[int, int], tuple[int, int]]


def kernel_gradient(
    x: Float[Array, "b h w c"],
    gradient: Float[Array, "b i j d"],
    sides: tuple[int, int],
    *,
    stride: int,
    pads: Padding,
) -> Float[Array, "k l c d"]:
    """Gradient of a kernel of so many rows and columns: what it has seen, times the gradient of what it gave.

    Args:
      pads: zeros around x, (above, below), (left, right).
    """
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    seen = jnp.concatenate([depthwise.window(x, sides, *place, stride) for place in _places(sides)], -1)
    found = seen.reshape(-1, seen.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
    return found.reshape(*sides, x.shape[3], gradient.shape[3])


def input_gradient(
    shape: tuple[int, ...],
    kernel: Float[Array, "k l c d"],
    gradient: Float[Array, "b i j d"],
    *,
    stride: int,
    pads: Padding,
) -> Float[Array, "b h w c"]:
    """Gradient of an x of a shape: the product with the kernel, whose parts are added up where they were seen.

    The kernel is taken as it lies; as a convolution with the turned one it would be copied first.
    """
    spread = jax.lax.dot_general(gradient, kernel.reshape(-1, kernel.shape[3]), (((3,), (1,)), ((), ())))
    parts = jnp.split(spread, kernel.shape[0] * kernel.shape[1], axis=-1)
    total = jnp.zeros(shape, gradient.dtype)
    for (row, column), part in zip(_places(kernel.shape[:2]), parts):
        starts = [first - before for first, (before, _) in zip((row, column), pads)]
        spans = [(count - 1) * stride + 1 for count in part.shape[1:3]]
        edges = [(start, side - start - span, stride - 1) for start, side, span in zip(starts, shape[1:3], spans)]
        total += jax.lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return total


def size(gradient_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> int:
    """Count the numbers that the kernel sees at all places together."""
    batch, rows, columns, _ = gradient_shape
    return batch * rows * columns * kernel_shape[0] * kernel_shape[1] * kernel_shape[2]


def _places(sides: tuple[int, ...]):
    return itertools.product(range(sides[0]), range(sides[1]))
