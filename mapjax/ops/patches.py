"""Convolution as one matrix product with what the kernel sees at each place (im2col: Chellapilla et al. 2006).

XLA's CPU backend computes the gradients of a convolution on small maps, and of one with a stride, several times slower
than the products that they are. What the kernel sees takes k·l times the memory of the outputs' places.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c d"], *, stride: int, pads: Padding
) -> Float[Array, "b i j d"]:
    """Convolve; `pads` are zeros (above, below), (left, right)."""
    return _seen(x, kernel.shape[:2], stride, pads) @ kernel.reshape(-1, kernel.shape[3])


def gradients(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c d"],
    gradient: Float[Array, "b i j d"],
    *,
    stride: int,
    pads: Padding,
) -> tuple[Float[Array, "b h w c"], Float[Array, "k l c d"]]:
    """Gradients of x and of the kernel, given that of the output of `conv`."""
    gradient = jax.lax.optimization_barrier(gradient)  # a plain array for both products
    return input_gradient(x.shape, kernel, gradient, stride, pads), kernel_gradient(x, kernel, gradient, stride, pads)


def kernel_gradient(x, kernel, gradient, stride: int, pads: Padding):
    """Gradient of the kernel: what it has seen, times what was asked of it."""
    seen = _seen(x, kernel.shape[:2], stride, pads)
    found = seen.reshape(-1, seen.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
    return found.reshape(kernel.shape)


def input_gradient(shape: tuple[int, ...], kernel, gradient, stride: int, pads: Padding):
    """Gradient of x: with stride 1 a convolution with the kernel turned, else each product put where it was seen."""
    rows, columns = kernel.shape[:2]
    if stride == 1:
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        ends = ((rows - 1 - pads[0][0], rows - 1 - pads[0][1]), (columns - 1 - pads[1][0], columns - 1 - pads[1][1]))
        return conv(gradient, turned, stride=1, pads=ends)
    spread = gradient @ kernel.reshape(-1, kernel.shape[3]).T  # b i j (k l c)
    parts = jnp.split(spread, rows * columns, axis=-1)
    total = jnp.zeros(shape, gradient.dtype)
    for (row, column), part in zip(itertools.product(range(rows), range(columns)), parts):
        edges = [
            (first - pad[0], side - (first - pad[0]) - ((count - 1) * stride + 1), stride - 1)
            for first, pad, side, count in zip((row, column), pads, shape[1:3], part.shape[1:3])
        ]
        total += jax.lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    return total


def _seen(x, sides: tuple[int, ...], stride: int, pads: Padding):
    """What the kernel sees at each place: (b i j (k l c))."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    counts = [(length - side) // stride + 1 for length, side in zip(x.shape[1:3], sides)]
    views = [
        jax.lax.slice(
            x,
            (0, row, column, 0),
            (len(x), row + (counts[0] - 1) * stride + 1, column + (counts[1] - 1) * stride + 1, x.shape[3]),
            (1, stride, stride, 1),
        )
        for row, column in itertools.product(range(sides[0]), range(sides[1]))
    ]
    return jnp.concatenate(views, -1)
