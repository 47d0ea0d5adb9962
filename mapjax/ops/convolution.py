"""Convolution and pooling of NHWC pictures, in the form that each platform runs fastest."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int = 1) -> Float[Array, "b i j d"]:
    """k×k convolution with k // 2 zeros around the picture.

    XLA's CPU backend is slow at the weight gradient of a 1×1 kernel, so there that one is a matrix product.
    """
    if kernel.shape[0] == 1:
        return jax.lax.platform_dependent(x[:, ::stride, ::stride], kernel, cpu=_pointwise, default=_direct)
    return _direct(x, kernel, stride)


def _direct(x, kernel, stride: int = 1):
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=LAYOUT)


def _pointwise(x, kernel):
    return x @ kernel[0, 0]


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Largest of each 3×3 window, stride 2, padding 1 (the stem of a ResNet)."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
