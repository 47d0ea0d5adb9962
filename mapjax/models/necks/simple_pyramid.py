"""Simple feature pyramid (Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection",
arXiv 2203.16527): maps of several strides from the one map of a plain transformer.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.layers import Conv, LayerNorm, kaiming_uniform, torch_default
from mapjax.models.necks.fpn import Coarser
from mapjax.ops import convolution
from mapjax.ops.resize import pixel_shuffle

gelu = partial(nn.gelu, approximate=False)


class SimplePyramid(nn.Module):
    """The last of the features → a map of `channels` for each of `strides`, and on top one or two more.

    Finer maps are made by transposed convolutions, coarser ones by pools.

    stride: of the features, a power of 2, as all strides are.
    top: "pool" or "pyramid", as an FPN's.
    """

    stride: int
    strides: tuple[int, ...]
    channels: int = 256
    dtype: Any = jnp.float32
    top: str = "pool"

    @nn.compact
    def __call__(self, features: Sequence[Any], train: bool = False) -> list[Any]:
        del train
        outputs = []
        for stride in self.strides:
            branch = Branch(round(math.log2(self.stride / stride)), self.channels, self.dtype, name=f"stride{stride}")
            outputs.append(branch(features[-1]))
        if self.top == "pool":
            return [*outputs, outputs[-1][:, ::2, ::2]]
        return [*outputs, *Coarser(self.channels, self.dtype, name="extra_blocks")(outputs[-1])]


class Branch(nn.Module):
    """A map at 2^doublings times its resolution: "up0" … (or pools), then "inner" 1×1 and "outer" 3×3 with norms."""

    doublings: int
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        for i in range(self.doublings):
            if i > 0:
                x = gelu(LayerNorm(dtype=self.dtype, name=f"up_norm{i - 1}")(x))
            x = Transposed(width // 2 ** (i + 1), self.dtype, name=f"up{i}")(x)
        for _ in range(-self.doublings):
            x = convolution.max_pool(x, 2, 2, 0)
        for name, kernel in (("inner", 1), ("outer", 3)):
            x = Conv(self.channels, kernel, init=kaiming_uniform, dtype=self.dtype, name=name)(x)
            x = LayerNorm(dtype=self.dtype, name=f"{name}_norm")(x)
        return x


class Transposed(nn.Module):
    """A transposed convolution 2×2 of stride 2: no two of its windows overlap, so it is a product, and a shuffle."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", torch_default, (x.shape[-1], 4 * self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return pixel_shuffle(x, 2) + bias.astype(self.dtype)
