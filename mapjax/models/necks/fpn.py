"""Feature pyramid (Lin et al. 2017): backbone features with equal channels, the fine informed by the coarse."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.models.layers import Conv, kaiming_uniform


class FPN(nn.Module):
    """Backbone features, finest first → as many maps of `channels`, and one more of twice the last stride."""

    channels: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Any]) -> list[Any]:
        inner = Blocks(self.channels, 1, self.dtype, name="inner_blocks")(features)
        for i in reversed(range(len(inner) - 1)):
            inner[i] += upsample(inner[i + 1], inner[i].shape[1:3])
        outputs = Blocks(self.channels, 3, self.dtype, name="layer_blocks")(inner)
        return [*outputs, outputs[-1][:, ::2, ::2]]


class Blocks(nn.Module):
    """A block "0", "1", … for each of the maps."""

    channels: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> list[Any]:
        return [Block(self.channels, self.kernel, self.dtype, name=str(i))(x) for i, x in enumerate(maps)]


class Block(nn.Module):
    """Its convolution "0" (torchvision's tree has room for a normalization "1")."""

    channels: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return Conv(self.channels, self.kernel, bias=True, init=kaiming_uniform, dtype=self.dtype, name="0")(x)


def upsample(x: Float[Array, "b h w c"], shape: tuple[int, int]) -> Float[Array, "b i j c"]:
    """Nearest neighbour, twice as large, cropped to `shape`: what a map of half that size (rounded up) becomes."""
    b, h, w, c = x.shape
    doubled = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
    return doubled[:, : shape[0], : shape[1]]
