"""Feature pyramid (Lin et al. 2017, arXiv 1612.03144): backbone features with equal channels, the fine informed by the
coarse.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.models.layers import Conv, Norm, kaiming_uniform


class FPN(nn.Module):
    """Backbone features, finest first → as many maps of `channels`, and on top one or two more.

    Each map has the stride of the one before it, or twice that.

    norm: after each convolution, in place of its bias.
    top: "pool" is one more map, every second place of the last; "pyramid" and "backbone" are two more, convolved from
      the pyramid's last map or the backbone's.
    """

    channels: int = 256
    norm: str = "none"
    dtype: Any = jnp.float32
    top: str = "pool"

    @nn.compact
    def __call__(self, features: Sequence[Any], train: bool = False) -> list[Any]:
        inner = Blocks(self.channels, 1, self.norm, self.dtype, name="inner_blocks")(features, train)
        for i in reversed(range(len(inner) - 1)):
            coarse, size = inner[i + 1], inner[i].shape[1:3]
            inner[i] += coarse if coarse.shape[1:3] == size else upsample(coarse, size)
        outputs = Blocks(self.channels, 3, self.norm, self.dtype, name="layer_blocks")(inner, train)
        if self.top == "pool":
            return [*outputs, outputs[-1][:, ::2, ::2]]
        last = outputs[-1] if self.top == "pyramid" else features[-1]
        return [*outputs, *Coarser(self.channels, self.dtype, name="extra_blocks")(last)]


class Coarser(nn.Module):
    """Two maps on top of one, each of half the size (Lin et al. 2017, RetinaNet, arXiv 1708.02002)."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x) -> list[Any]:
        options = {"bias": True, "init": kaiming_uniform, "dtype": self.dtype}
        p6 = Conv(self.channels, 3, 2, name="p6", **options)(x)
        return [p6, Conv(self.channels, 3, 2, name="p7", **options)(nn.relu(p6))]


class Blocks(nn.Module):
    """A block "0", "1", … for each of the maps."""

    channels: int
    kernel: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> list[Any]:
        options = (self.channels, self.kernel, self.norm, self.dtype)
        return [Block(*options, name=str(i))(x, train) for i, x in enumerate(maps)]


class Block(nn.Module):
    """Its convolution "0" and normalization "1"."""

    channels: int
    kernel: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"bias": self.norm == "none", "init": kaiming_uniform, "dtype": self.dtype}
        x = Conv(self.channels, self.kernel, name="0", **options)(x)
        return Norm(self.norm, dtype=self.dtype, name="1")(x, train)


def upsample(x: Float[Array, "b h w c"], shape: tuple[int, int]) -> Float[Array, "b i j c"]:
    """Nearest neighbour, twice as large, cropped to `shape`: what a map of half that size (rounded up) becomes."""
    b, h, w, c = x.shape
    doubled = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
    return doubled[:, : shape[0], : shape[1]]
