"""Depthwise convolution as shifts, products and sums: what a CPU runs 4 to 8 times faster than XLA's own form."""

import itertools
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]


def conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l 1 c"], *, stride: int, pads: Padding, dilation: int = 1
) -> Float[Array, "b i j c"]:
    """Each channel with its own kernel; `pads` are zeros (above, below), (left, right)."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    places = itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    spans = tuple(_span(size, dilation) for size in kernel.shape[:2])
    met = (_shifted(x, spans, i * dilation, j * dilation, stride) * kernel[i, j, 0] for i, j in places)
    return reduce(jnp.add, met)


def gradients(x, kernel, gradient, *, stride: int, pads: Padding, dilation: int = 1):
    """Gradients of the sum of `conv` · `gradient` with respect to x and kernel."""
    arguments = (x, kernel, gradient, stride, pads, dilation)
    return _input_gradient(*arguments), _kernel_gradient(*arguments)


def _span(size: int, dilation: int) -> int:
    """Pixels from the first to the last that a kernel of `size` meets."""
    return dilation * (size - 1) + 1


def _shifted(x, spans: tuple[int, ...], row: int, column: int, stride: int):
    """What the kernel entry at (row, column) of the span meets: a strided window of the padded picture."""
    rows, columns = ((side - span) // stride for side, span in zip(x.shape[1:3], spans))
    limits = (len(x), row + rows * stride + 1, column + columns * stride + 1, x.shape[3])
    return jax.lax.slice(x, (0, row, column, 0), limits, (1, stride, stride, 1))


def _input_gradient(x, kernel, gradient, stride: int, pads: Padding, dilation: int):
    """Spread the gradient by the stride, then convolve it with the kernel turned by 180°."""
    config = [(0, 0, 0)]
    for axis, ((before, _), size) in enumerate(zip(pads, kernel.shape)):
        spread, reach = (gradient.shape[axis + 1] - 1) * stride + 1, _span(size, dilation) - 1
        low = reach - before
        config.append((low, x.shape[axis + 1] + reach - low - spread, stride - 1))
    wide = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [*config, (0, 0, 0)])
    return conv(wide, kernel[::-1, ::-1], stride=1, pads=((0, 0), (0, 0)), dilation=dilation)


def _kernel_gradient(x, kernel, gradient, stride: int, pads: Padding, dilation: int):
    """Sum over the rows of the output in a scan, so that the products of one row stay in the cache."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    rows, columns, _, channels = kernel.shape
    width = gradient.shape[2]

    def body(total, row):
        seen = jax.lax.dynamic_slice_in_dim(x, row * stride, _span(rows, dilation), 1)[:, ::dilation]
        wanted = jax.lax.dynamic_slice_in_dim(gradient, row, 1, 1)
        starts = range(0, _span(columns, dilation), dilation)
        shifted = [seen[:, :, n : n + (width - 1) * stride + 1 : stride] for n in starts]
        return total + jnp.stack([(one * wanted).sum((0, 2), dtype=jnp.float32) for one in shifted], 1), None

    total, _ = jax.lax.scan(body, jnp.zeros((rows, columns, channels), jnp.float32), jnp.arange(gradient.shape[1]))
    return total[:, :, None].astype(kernel.dtype)
