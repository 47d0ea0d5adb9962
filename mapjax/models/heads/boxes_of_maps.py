"""Heads of SSD: on each map its own convolutions, for a score of each class and background, and a box."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.layers import Conv, ConvNorm

xavier = nn.initializers.xavier_uniform()
narrow = nn.initializers.normal(0.03)


class MapsHead(nn.Module):
    """Maps → "site_logits" (b r c+1), background first, and "site_deltas" (b r 4); r by map, row, column, default box.

    boxes: of a place of each map.
    separable: how a depthwise convolution with normalization before each is made, for SSDLite; None: there is none.
    """

    classes: int
    boxes: Sequence[int]
    separable: Mapping[str, Any] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> dict[str, Any]:
        found = {}
        for key, name, width in (
            ("site_logits", "classification_head", self.classes + 1),
            ("site_deltas", "regression_head", 4),
        ):
            channels = [width * boxes for boxes in self.boxes]
            outputs = Branch(channels, self.separable, self.dtype, name=name)(maps, train)
            flat = [x.reshape(len(x), -1, width) for x in outputs]
            found[key] = jnp.concatenate(flat, 1).astype(jnp.float32)
        return found


class Branch(nn.Module):
    """Its "module_list"."""

    channels: Sequence[int]
    separable: Mapping[str, Any] | None
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> list[Any]:
        return ModuleList(self.channels, self.separable, self.dtype, name="module_list")(maps, train)


class ModuleList(nn.Module):
    """Layers "0", "1", …, one a map."""

    channels: Sequence[int]
    separable: Mapping[str, Any] | None
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> list[Any]:
        if self.separable is not None:
            layers = [Separable(n, self.separable, name=str(i)) for i, n in enumerate(self.channels)]
            return [layer(x, train) for layer, x in zip(layers, maps, strict=True)]
        options = {"bias": True, "init": xavier, "dtype": self.dtype}
        layers = [Conv(n, name=str(i), **options) for i, n in enumerate(self.channels)]
        return [layer(x) for layer, x in zip(layers, maps, strict=True)]


class Separable(nn.Module):
    """A depthwise convolution 3×3 with normalization and ReLU6, "0", and a convolution 1×1, "1"."""

    features: int
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        depthwise = ConvNorm(
            x.shape[-1], 3, groups=x.shape[-1], activation=nn.relu6, init=narrow, name="0", **self.convolution
        )
        dtype = self.convolution["dtype"]
        return Conv(self.features, 1, bias=True, init=narrow, dtype=dtype, name="1")(depthwise(x, train))
