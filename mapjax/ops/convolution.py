"""Convolution and pooling of NHWC pictures, in the form that each platform runs fastest.

XLA's CPU backend is slow at the weight gradients of convolutions, and knows no Winograd form; there a 1×1
convolution is a matrix product and a 3×3 one on a large map goes by Winograd tiles. Elsewhere XLA's own is right.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.ops import winograd

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int = 1) -> Float[Array, "b i j d"]:
    """k×k convolution with k // 2 zeros around the picture."""
    if kernel.shape[0] == 1:
        return jax.lax.platform_dependent(x[:, ::stride, ::stride], kernel, cpu=_pointwise, default=_direct)
    if kernel.shape[0] == 3 and stride == 1 and _tiles_pay(x, kernel):
        return _by_platform(x, kernel)
    return _direct(x, kernel, stride)


def _tiles_pay(x, kernel) -> bool:
    """Say whether there are enough 4×4 tiles for what their transforms of the kernel cost (measured on 2 cores)."""
    batch, height, width, channels = x.shape
    tiles = batch * -(-height // winograd.OUT) * -(-width // winograd.OUT)
    return x.dtype == jnp.float32 and channels >= 32 and tiles >= max(channels, kernel.shape[3])


def _direct(x, kernel, stride: int = 1):
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=LAYOUT)


def _pointwise(x, kernel):
    return x @ kernel[0, 0]


# The platform is chosen in the forward and in the backward pass, so that each keeps x and the kernel only.
@jax.custom_vjp
def _by_platform(x, kernel):
    return jax.lax.platform_dependent(x, kernel, cpu=winograd.conv3x3, default=_direct)


def _forward(x, kernel):
    return _by_platform(x, kernel), (x, kernel)


def _backward(saved, gradient):
    def direct(x, kernel, gradient):
        return jax.vjp(_direct, x, kernel)[1](gradient)

    return jax.lax.platform_dependent(*saved, gradient, cpu=winograd.gradients, default=direct)


_by_platform.defvjp(_forward, _backward)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Largest of each 3×3 window, stride 2, padding 1 (the stem of a ResNet).

    As maxima of slices, one axis after the other: the gradient of XLA's windows is 4 to 16 times slower on a CPU.
    """
    for axis in (1, 2):
        ends = [(0, 0)] * 4
        ends[axis] = (1, x.shape[axis] % 2)
        x = jnp.pad(x, ends, constant_values=-jnp.inf)
        first, second, third = (
            jax.lax.slice_in_dim(x, start, x.shape[axis] - 2 + start, 2, axis) for start in range(3)
        )
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x
