"""Region proposal network (Ren et al. 2015, arXiv 1506.01497): a score and a box for every anchor."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.layers import Conv

normal = nn.initializers.normal(0.01)


class RPN(nn.Module):
    """Its "head"; see `Head`."""

    channels: int
    anchors: int
    depth: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Sequence[Any]):
        return Head(self.channels, self.anchors, self.depth, self.dtype, name="head")(pyramid)


class Head(nn.Module):
    """Maps (b h w channels) of all levels → scores (b r) and offsets (b r 4) of their anchors, the same for all levels.

    r is by level, row, column, and anchor.

    depth: of convolutions before them.
    """

    channels: int
    anchors: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, pyramid: Sequence[Any]):
        hidden = Shared(self.channels, self.depth, self.dtype, name="conv")(pyramid)
        hidden = jnp.concatenate([x.reshape(len(x), -1, self.channels) for x in hidden], 1)
        scores = Pointwise(self.anchors, name="cls_logits")(self.channels)
        deltas = Pointwise(self.anchors * 4, name="bbox_pred")(self.channels)
        # One product for both: a TPU pads what each gives to 128 channels.
        kernel, bias = (jnp.concatenate(pair, -1).astype(self.dtype) for pair in zip(scores, deltas))
        both = hidden @ kernel[0, 0] + bias
        scores, deltas = jnp.split(both, [self.anchors], -1)
        return scores.reshape(len(both), -1), deltas.reshape(len(both), -1, 4)


class Pointwise(nn.Module):
    """The kernel and bias of a 1×1 convolution; `Head` applies two at once."""

    features: int
    init: Any = normal

    @nn.compact
    def __call__(self, channels: int):
        kernel = self.param("kernel", self.init, (1, 1, channels, self.features), jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


class Shared(nn.Module):
    """Convolutions "0", "1", … with ReLU, applied to every map."""

    channels: int
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> Sequence[Any]:
        for i in range(self.depth):
            maps = Unit(self.channels, self.dtype, name=str(i))(maps)
        return maps


class Unit(nn.Module):
    """A 3×3 convolution "0" and ReLU (torchvision's Conv2dNormActivation)."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> list[Any]:
        conv = Conv(self.channels, bias=True, init=normal, dtype=self.dtype, name="0")
        return [nn.relu(conv(x)) for x in maps]
