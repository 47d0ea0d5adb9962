"""Maps of falling resolution for SSDLite (Sandler et al. 2018; Howard et al. 2019): those of a MobileNet-V3, and
separable convolutions on them. Modules are named as torchvision's.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mapjax.models.backbones.inverted_residual import Block, InvertedResidual
from mapjax.models.backbones.mobilenet import v3_blocks
from mapjax.models.layers import ConvNorm, SqueezeExcite, make_divisible
from mapjax.models.necks.falling import Grid, halved

EXTRAS = (512, 256, 256, 128)  # channels


class MobileMaps(nn.Module):
    """MobileNet-V3-large up to the expansion of its last strided block, and to its end; four blocks more: 6 maps.

    width: factor of all channel counts.
    reduced: the last blocks have half the channels (Howard et al. 2019, table 6).
    convolution: what every ConvNorm takes.
    """

    width: float
    reduced: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, images, train: bool) -> list[Any]:
        stages = v3_blocks("large", self.width)
        blocks = [block for stage in stages[:-1] for block in stage]
        last = stages[-1]
        if self.reduced:
            half = [make_divisible(count / 2) for count in (last[0].features, last[1].expanded)]
            squeeze = make_divisible(half[1] / 4)
            rest = (one._replace(features=half[0], expanded=half[1], squeeze=squeeze) for one in last[1:])
            last = (last[0]._replace(features=half[0]), *rest)
        stem = make_divisible(16 * self.width)
        maps = list(Features(stem, tuple(blocks), last, self.convolution, name="features")(images, train))
        channels = tuple(max(16, int(count * self.width)) for count in EXTRAS)
        return [*maps, *Extras(channels, self.convolution, name="extra")(maps[-1], train)]

    @staticmethod
    def grids(height: int, width: int) -> list[Grid]:
        """Give the grids of the maps."""
        found = [(-(-height // 16), -(-width // 16))]
        for _ in range(1 + len(EXTRAS)):
            found.append(halved(found[-1]))
        return found


class Features(nn.Module):
    """What lies before the depthwise convolution of the last strided block, "0", and from it on, "1"."""

    stem: int
    blocks: tuple[Block, ...]
    last: tuple[Block, ...]
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, images, train: bool) -> tuple[Any, Any]:
        first = Beginning(self.stem, self.blocks, self.last[0], self.convolution, name="0")(images, train)
        return first, End(self.last, self.convolution, name="1")(first, train)


class Beginning(nn.Module):
    """The stem "0", blocks "1" …, and the expansion of the next one."""

    stem: int
    blocks: tuple[Block, ...]
    strided: Block
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        x = ConvNorm(self.stem, 3, 2, activation=nn.hard_swish, name="0", **self.convolution)(x, train)
        for i, block in enumerate(self.blocks, 1):
            x = InvertedResidual(block, "block", 0.0, self.convolution, name=str(i))(x, train)
        number, activation = str(1 + len(self.blocks)), self.strided.activation
        return ConvNorm(self.strided.expanded, 1, activation=activation, name=number, **self.convolution)(x, train)


class End(nn.Module):
    """The rest of the strided block, "0", blocks "1" …, and a last convolution to six times the channels."""

    blocks: tuple[Block, ...]
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        strided, *rest = self.blocks
        x = Rest(strided, self.convolution, name="0")(x, train)
        for i, block in enumerate(rest, 1):
            x = InvertedResidual(block, "block", 0.0, self.convolution, name=str(i))(x, train)
        head = {"activation": nn.hard_swish, "name": str(1 + len(rest)), **self.convolution}
        return ConvNorm(6 * x.shape[-1], 1, **head)(x, train)


class Rest(nn.Module):
    """An inverted residual after its expansion: depthwise "1", squeeze-excite "2", projection "3"."""

    block: Block
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        block = self.block
        options = {"groups": block.expanded, "activation": block.activation, **self.convolution}
        x = ConvNorm(block.expanded, block.kernel, block.stride, name="1", **options)(x, train)
        gate = (block.squeeze_activation, block.gate, self.convolution["dtype"])
        x = SqueezeExcite(block.squeeze, *gate, name="2")(x)
        return ConvNorm(block.features, 1, name="3", **self.convolution)(x, train)


class Extras(nn.Module):
    """Blocks "0", "1", …, each of half the size."""

    features: tuple[int, ...]
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool) -> list[Any]:
        maps = []
        for i, features in enumerate(self.features):
            x = Separable(features, self.convolution, name=str(i))(x, train)
            maps.append(x)
        return maps


class Separable(nn.Module):
    """A convolution 1×1 to half the channels, a depthwise one of stride 2, and one 1×1: "0", "1", "2"."""

    features: int
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        options, inner = {"activation": nn.relu6, **self.convolution}, self.features // 2
        x = ConvNorm(inner, 1, name="0", **options)(x, train)
        x = ConvNorm(inner, 3, 2, groups=inner, name="1", **options)(x, train)
        return ConvNorm(self.features, 1, name="2", **options)(x, train)
