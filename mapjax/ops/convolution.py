"""Convolution and pooling of NHWC images, in the form that each platform runs fastest.

XLA's CPU backend is slow at the weight gradients of convolutions and at depthwise ones, and knows no Winograd form;
there a 1×1 convolution is a matrix product, a depthwise one shifts, products and sums, a 3×3 one on a large map goes
by Winograd tiles, dilated or not, and on a small one, or with a stride, its gradients are products. A TPU pads channels
to 128, so that of an image's three hardly anything is left; there the first convolution sees 2×2 pixels as one of
twelve. Elsewhere XLA's own is right.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.ops import depthwise, patches, pooling, winograd

LAYOUT = ("NHWC", "HWIO", "NHWC")
MOST_SEEN = 16 * 2**20  # bytes of what a kernel sees, that a product is made of
FEWEST_TILES = 48  # of 4×4 outputs, that Winograd's form pays (measured on 2 cores, 64 to 720 channels)
Padding = tuple[tuple[int, int], tuple[int, int]]


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l cg d"],
    stride: int = 1,
    *,
    padding: int | tuple[int, int] | str | None = None,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b i j d"]:
    """Convolution; not twice differentiable and without a forward-mode derivative where a fast form is taken.

    Args:
      padding: zeros on each side of rows and columns; None is torch's k // 2, "SAME" TensorFlow's rule.
      groups: the channels are split in so many groups, cg = c / groups; cg = 1 is a depthwise convolution.
    """
    pads = _pads(x, kernel, stride, padding, dilation)
    if groups == 1:
        return _dense(x, kernel, stride, pads, dilation)
    slow = partial(_direct, stride=stride, pads=pads, groups=groups, dilation=dilation)
    if groups == x.shape[-1] == kernel.shape[3]:
        options = {"stride": stride, "pads": pads, "dilation": dilation}
        fast, gradients = (partial(f, **options) for f in (depthwise.conv, depthwise.gradients))
        return _by_platform(x, kernel, fast, gradients, slow)
    merged = partial(_merged, stride=stride, pads=pads, groups=groups, dilation=dilation)

    def merged_gradients(x, kernel, gradient):
        return jax.vjp(merged, x, kernel)[1](gradient)

    return _by_platform(x, kernel, merged, merged_gradients, slow)


def _dense(x, kernel, stride: int, pads: Padding, dilation: int):
    """Convolve every channel with every other."""
    if kernel.shape[:2] == (1, 1) and pads == ((0, 0), (0, 0)):
        return _by_platform(x[:, ::stride, ::stride], kernel, _pointwise, _pointwise_gradients, _direct)
    same = kernel.shape[:2] == (3, 3) and pads == ((dilation, dilation),) * 2 and stride == 1
    if same and _tiles_pay(x, dilation):
        slow = partial(_direct, pads=pads, dilation=dilation)
        fast, gradients = (partial(f, dilation=dilation) for f in (winograd.conv3x3, winograd.gradients))
        # Of few channels only the gradients gain.
        return _by_platform(x, kernel, fast if x.shape[-1] >= 8 else slow, gradients, slow)
    slow = partial(_direct, stride=stride, pads=pads, dilation=dilation)
    if kernel.shape[:2] == (3, 3) and dilation == 1 and _products_pay(x, kernel, jax.eval_shape(slow, x, kernel)):
        gradients = partial(_gradients_by_products, slow=slow, stride=stride, pads=pads)
        return _by_platform(x, kernel, slow, gradients, slow)
    if x.shape[-1] <= 4 and stride == 2 and dilation == 1 and not (x.shape[1] % 2 or x.shape[2] % 2):
        return jax.lax.platform_dependent(x, kernel, tpu=partial(_of_blocks, pads=pads), default=slow)
    return slow(x, kernel)


def _of_blocks(x, kernel, pads: Padding):
    """Convolve with stride 2 as with stride 1 over squares of 2×2 pixels, each one pixel of four times the channels.

    x has even sides. The kernel is padded with zeros to whole blocks, in front so that its first lies on one.
    """
    outputs = [(side + sum(pad) - size) // 2 + 1 for side, size, pad in zip(x.shape[1:3], kernel.shape, pads)]
    fronts = [before % 2 for before, _ in pads]
    ends = [(size + front) % 2 for size, front in zip(kernel.shape, fronts)]
    kernel = jnp.pad(kernel, (*zip(fronts, ends), (0, 0), (0, 0)))
    rows, columns = (size // 2 for size in kernel.shape[:2])
    kernel = kernel.reshape(rows, 2, columns, 2, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(rows, columns, -1, kernel.shape[-1])
    x = jnp.concatenate([x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)], -1)
    blocks = []
    for (before, _), front, size, block, side in zip(pads, fronts, outputs, (rows, columns), x.shape[1:3]):
        first = (before + front) // 2
        blocks.append((first, size + block - 1 - first - side))  # as many as the outputs need, and no more
    return _direct(x, kernel, pads=tuple(blocks))


def _merged(x, kernel, stride: int, pads: Padding, groups: int, dilation: int):
    """A grouped convolution as a few dense ones of at least 32 channels, whose kernels are zero between groups.

    XLA's grouped convolution takes up to 6 times as long on a CPU, and its gradient a hundred times.
    """
    inputs, outputs = kernel.shape[2], kernel.shape[3] // groups
    together = next(n for n in range(1, groups + 1) if groups % n == 0 and (n * inputs >= 32 or n == groups))
    found = []
    for first in range(0, groups, together):
        blocks = kernel[..., first * outputs : (first + together) * outputs]
        blocks = blocks.reshape(*kernel.shape[:3], together, outputs)
        wide = jnp.einsum("klcgo,gh->klhcgo", blocks, jnp.eye(together, dtype=kernel.dtype))
        wide = wide.reshape(*kernel.shape[:2], together * inputs, together * outputs)
        part = x[..., first * inputs : (first + together) * inputs]
        found.append(_dense(part, wide, stride, pads, dilation))
    return jnp.concatenate(found, -1)


def _pads(x, kernel, stride: int, padding: int | tuple[int, int] | str | None, dilation: int) -> Padding:
    sides = [dilation * (size - 1) + 1 for size in kernel.shape[:2]]
    if isinstance(padding, str):
        (top, bottom), (left, right) = jax.lax.padtype_to_pads(x.shape[1:3], sides, (stride, stride), padding)
        return (top, bottom), (left, right)
    if padding is None:
        padding = (sides[0] // 2, sides[1] // 2)
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    return (rows, rows), (columns, columns)


def _tiles_pay(x, dilation: int = 1) -> bool:
    """Say whether there are enough tiles for what their transforms of the kernel cost, and full enough.

    A tile takes 36 multiplications a pair of channels, and each of its outputs 9 in the direct form: of a map that is
    as small as the dilation, nearly all of a tile is padding.
    """
    batch, height, width, _ = x.shape
    tiles = winograd.tiles(x.shape, dilation)
    return x.dtype == jnp.float32 and tiles >= FEWEST_TILES and 36 * tiles < 9 * batch * height * width


def _products_pay(x, kernel, output) -> bool:
    """Say whether what the kernel sees is small enough to be kept for a product (measured on 2 cores).

    Of a mesh of devices each would have to bring the others' channels for it.
    """
    alone = jax.sharding.get_abstract_mesh().size <= 1
    small = 4 * patches.size(output.shape, kernel.shape) <= MOST_SEEN
    return alone and small and x.dtype == jnp.float32 and x.shape[3] >= 16


def _gradients_by_products(x, kernel, gradient, *, slow, stride: int, pads: Padding):
    """Gradients of x and of the kernel, each in the form that is fastest for its sizes."""
    of_x = patches.input_gradient(x.shape, kernel, gradient, stride=stride, pads=pads)
    if stride > 1:
        return of_x, patches.kernel_gradient(x, gradient, kernel.shape[:2], stride=stride, pads=pads)
    if pads == ((1, 1), (1, 1)) and 4 * winograd.tiles(x.shape) >= max(x.shape[3], kernel.shape[3]):
        return of_x, winograd.kernel_gradient(x, gradient)
    return of_x, jax.vjp(partial(slow, x), kernel)[1](gradient)[0]


def _direct(x, kernel, stride: int = 1, pads: Padding = ((0, 0), (0, 0)), groups: int = 1, dilation: int = 1):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )  # fmt: skip


def _pointwise(x, kernel):
    return x @ kernel[0, 0]


def _pointwise_gradients(x, kernel, gradient):
    # Behind the barrier the gradient is a plain array. Else XLA computes it, with the backward pass of the
    # normalization before it, once more in transposed order for the product with x, against the cache.
    gradient = jax.lax.optimization_barrier(gradient)
    rows, columns = (one.reshape(-1, one.shape[-1]) for one in (x, gradient))
    return gradient @ kernel[0, 0].T, (rows.T @ columns)[None, None]


def _by_platform(
    x, kernel, fast: Callable[..., Any], fast_gradients: Callable[..., Any], slow: Callable[..., Any]
) -> Any:
    """Convolve by `fast` on a CPU and by `slow` elsewhere."""
    return _chosen(x, kernel, fast, fast_gradients, slow)


# The platform is chosen in the forward and in the backward pass, so that each keeps x and the kernel only.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _chosen(x, kernel, fast, fast_gradients, slow):
    del fast_gradients
    return jax.lax.platform_dependent(x, kernel, cpu=fast, default=slow)


def _forward(x, kernel, fast, fast_gradients, slow):
    return _chosen(x, kernel, fast, fast_gradients, slow), (x, kernel)


def _backward(fast, fast_gradients, slow, saved, gradient):
    del fast

    def direct(x, kernel, gradient):
        return jax.vjp(slow, x, kernel)[1](gradient)

    return jax.lax.platform_dependent(*saved, gradient, cpu=fast_gradients, default=direct)


_chosen.defvjp(_forward, _backward)


def max_pool(
    x: Float[Array, "b h w c"], size: int = 3, stride: int = 2, padding: int = 1, *, ceil: bool = False
) -> Float[Array, "b i j c"]:
    """Largest of each size×size window; by default the pool in the stem of a ResNet.

    As maxima of slices, one axis after the other: the gradient of XLA's windows is 4 to 16 times slower on a CPU.

    Args:
      padding: never the largest.
      ceil: a last window that is only partly inside counts too (torch's ceil_mode).
    """
    if size == stride and padding == 0 and not ceil:
        return pooling.max_pool(x, size)[0]
    if (size, stride, padding, ceil) == (3, 2, 1, False):
        return _max_of_three(x)
    return _max_of_slices(x, size, stride, padding, ceil)


@jax.custom_vjp
def _max_of_three(x):
    """Pool in the stem of a ResNet; on a CPU the form by parities is the faster forward, that by slices backward."""
    return jax.lax.platform_dependent(x, cpu=pooling.max_of_three, default=_slices_of_three)


def _slices_of_three(x):
    return _max_of_slices(x, size=3, stride=2, padding=1, ceil=False)


_max_of_three.defvjp(lambda x: (_max_of_three(x), x), lambda x, gradient: jax.vjp(_slices_of_three, x)[1](gradient))


def _max_of_slices(x, size: int, stride: int, padding: int, ceil: bool):
    for axis in (1, 2):
        length = x.shape[axis] + 2 * padding - size
        count = (-(-length // stride) if ceil else length // stride) + 1
        if ceil and (count - 1) * stride >= x.shape[axis] + padding:
            count -= 1  # a window that would start in the padding
        ends = [(0, 0)] * 4
        reach = (count - 1) * stride + size
        ends[axis] = (padding, max(reach - padding - x.shape[axis], 0))
        x = jnp.pad(x, ends, constant_values=-jnp.inf)
        slices = [jax.lax.slice_in_dim(x, k, k + (count - 1) * stride + 1, stride, axis) for k in range(size)]
        x = slices[0]
        for other in slices[1:]:
            x = jnp.maximum(x, other)
    return x


def avg_pool(
    x: Float[Array, "b h w c"], size: int, stride: int | None = None, padding: int = 0
) -> Float[Array, "b i j c"]:
    """Mean of each size×size window; padding counts as zeros, as torch has it."""
    stride = size if stride is None else stride
    for axis in (1, 2):
        ends = [(0, 0)] * 4
        ends[axis] = (padding, padding)
        x = jnp.pad(x, ends)
        count = (x.shape[axis] - size) // stride + 1
        slices = [jax.lax.slice_in_dim(x, k, k + (count - 1) * stride + 1, stride, axis) for k in range(size)]
        total = slices[0]
        for other in slices[1:]:
            total += other
        x = total / size
    return x
