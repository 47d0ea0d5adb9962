"""RT-DETR's encoder (Zhao et al. 2023): attention within the coarsest map only, the scales joined by convolutions.

Its coarse maps inform the fine ones, and these the coarse ones again, by blocks of RepVGG (Ding et al. 2021) whose
parallel convolutions are kept apart.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.attention import EncoderLayer, sine_positions
from mapjax.models.layers import ConvNorm
from mapjax.models.necks.fpn import upsample


class HybridEncoder(nn.Module):
    """Maps of a backbone, finest first, each of half the size of the one before → as many maps of `width` channels.

    depth: layers of attention over the coarsest map.
    hidden: width of their feed-forward layers.
    expansion: of the channels within a block.
    """

    width: int = 256
    depth: int = 1
    heads: int = 8
    hidden: int = 1024
    expansion: float = 1.0
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> list[Any]:
        plain, active = {"dtype": self.dtype}, {"dtype": self.dtype, "activation": nn.silu}
        maps = [ConvNorm(self.width, 1, name=f"input_proj{i}", **plain)(x, train) for i, x in enumerate(maps)]
        maps[-1] = self._attend(maps[-1], train)
        inner, last = [maps[-1]], len(maps) - 1
        for i in range(last):
            inner[0] = ConvNorm(self.width, 1, name=f"lateral{i}", **active)(inner[0], train)
            fine = maps[last - i - 1]
            joined = jnp.concatenate([upsample(inner[0], fine.shape[1:3]), fine], -1)
            inner.insert(0, Fusion(self.width, self.expansion, self.dtype, name=f"fpn{i}")(joined, train))
        outputs = [inner[0]]
        for i in range(last):
            coarse = ConvNorm(self.width, 3, 2, name=f"downsample{i}", **active)(outputs[-1], train)
            joined = jnp.concatenate([coarse, inner[i + 1]], -1)
            outputs.append(Fusion(self.width, self.expansion, self.dtype, name=f"pan{i}")(joined, train))
        return outputs

    def _attend(self, x, train: bool):
        rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in x.shape[1:3])
        positions = sine_positions(rows, columns, self.width, paired=False).astype(self.dtype)
        tokens = x.reshape(len(x), -1, self.width)
        for i in range(self.depth):
            layer = EncoderLayer(self.heads, self.hidden, _gelu, self.dropout, self.dtype, name=f"layer{i}")
            tokens = layer(tokens, positions, None, train)
        return tokens.reshape(x.shape)


def _gelu(x):
    return nn.gelu(x, approximate=False)


class Fusion(nn.Module):
    """Two ways through a map, one of them with three RepVGG blocks, added (Wang et al. 2020, cross-stage partial)."""

    width: int
    expansion: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        hidden = int(self.width * self.expansion)
        options = {"activation": nn.silu, "dtype": self.dtype}
        y = ConvNorm(hidden, 1, name="conv1", **options)(x, train)
        for i in range(3):
            y = RepVGG(hidden, self.dtype, name=f"bottleneck{i}")(y, train)
        y += ConvNorm(hidden, 1, name="conv2", **options)(x, train)
        return y if hidden == self.width else ConvNorm(self.width, 1, name="conv3", **options)(y, train)


class RepVGG(nn.Module):
    """A 3×3 and a 1×1 convolution side by side, added and activated."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        sides = {"conv1": 3, "conv2": 1}
        return nn.silu(
            sum(ConvNorm(self.width, side, name=name, dtype=self.dtype)(x, train) for name, side in sides.items())
        )
