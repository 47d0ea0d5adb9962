"""Maps of falling resolution for SSD (Liu et al. 2016, arXiv 1512.02325): a backbone's, and convolutions on them.

Modules of `VGGMaps` are named as torchvision's. Each says the grids of its maps (rows, columns) for an
image, without running.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.backbones import vgg
from mapjax.models.layers import Conv, ConvNorm
from mapjax.models.necks.body import centred
from mapjax.ops import convolution

Grid = tuple[int, int]
xavier = nn.initializers.xavier_uniform()


def halved(grid: Grid) -> Grid:
    """The grid after a convolution of stride 2 whose sides are rounded up."""
    return -(-grid[0] // 2), -(-grid[1] // 2)


class VGGMaps(nn.Module):
    """VGG-16 up to its third last pool, its last two dense layers as convolutions with holes, four blocks more: 6 maps.

    The first map is scaled to one length at each place, which is learned (Liu et al. 2015, ParseNet).
    """

    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool) -> list[Any]:
        del train
        x = VGGStages(self.width, self.dtype, name="features")(images)
        scale = self.param("scale_weight", nn.initializers.constant(20.0), (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.maximum(jnp.square(wide).sum(-1, keepdims=True), 1e-24))
        return [(wide / length * scale).astype(self.dtype), *VGGExtra(self.width, self.dtype, name="extra")(x)]

    @staticmethod
    def grids(height: int, width: int) -> list[Grid]:
        """Give the grids of the maps; the last may be empty."""
        first = halved((height // 4, width // 4))
        second = first[0] // 2, first[1] // 2
        fourth = halved(halved(second))
        return [first, second, halved(second), fourth, *((fourth[0] - n, fourth[1] - n) for n in (2, 4))]


class VGGStages(nn.Module):
    """The first four stages, numbered as torchvision's; the third pool rounds up."""

    width: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        number = 0
        for i, (count, channels) in enumerate(zip(vgg.STAGES[16][:4], vgg.CHANNELS)):
            if i:
                x = convolution.max_pool(x, 2, 2, 0, ceil=i == 3)
            for _ in range(count):
                x = nn.relu(Conv(round(channels * self.width), bias=True, dtype=self.dtype, name=str(number))(x))
                number += 2
            number += 1
        return x


class VGGExtra(nn.Module):
    """The fifth stage with what was dense, "0", then blocks "1" … "4": a map each."""

    width: float
    dtype: Any

    @nn.compact
    def __call__(self, x) -> list[Any]:
        def scaled(channels: int) -> int:
            return round(channels * self.width)

        maps = [VGGTail(scaled(512), scaled(1024), self.dtype, name="0")(x)]
        for i, (inner, outer, stride) in enumerate(((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1)), 1):
            maps.append(VGGBlock(scaled(inner), scaled(outer), stride, self.dtype, name=str(i))(maps[-1]))
        return maps


class VGGTail(nn.Module):
    """Pool "0", convolutions "1", "3" and "5", and "7": a pool "0", fc6 "1" with holes, fc7 "3"."""

    features: int
    dense: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = convolution.max_pool(x, 2, 2, 0)
        for name in ("1", "3", "5"):
            x = nn.relu(Conv(self.features, bias=True, dtype=self.dtype, name=name)(x))
        return VGGDense(self.dense, self.dtype, name="7")(x)


class VGGDense(nn.Module):
    """See `VGGTail`."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        options = {"bias": True, "init": xavier, "dtype": self.dtype}
        x = convolution.max_pool(x, 3, 1, 1)
        x = nn.relu(Conv(self.features, 3, dilation=6, name="1", **options)(x))
        return nn.relu(Conv(self.features, 1, name="3", **options)(x))


class VGGBlock(nn.Module):
    """A convolution 1×1 "0" and one 3×3 "2", with a stride or without a border."""

    inner: int
    outer: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        options = {"bias": True, "init": xavier, "dtype": self.dtype}
        x = nn.relu(Conv(self.inner, 1, name="0", **options)(x))
        padding = 1 if self.stride == 2 else 0
        return nn.relu(Conv(self.outer, 3, self.stride, padding=padding, name="2", **options)(x))


class BodyMaps(nn.Module):
    """Some maps of any network, "body", and blocks "extra/0" … on the last, each of half the size.

    reads, strides: of the body's maps.
    extras: channels of the blocks.
    norm: of the blocks.
    """

    body: nn.Module
    reads: tuple[str, ...]
    strides: tuple[int, ...]
    extras: Sequence[int]
    norm: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool) -> list[Any]:
        features, grids = self.body(images, train), self.grids(*images.shape[1:3])
        maps = [centred(features[name], grid) for name, grid in zip(self.reads, grids)]
        return [*maps, *Extras(self.extras, self.norm, self.dtype, name="extra")(maps[-1], train)]

    def grids(self, height: int, width: int) -> list[Grid]:
        """Give the grids of the maps."""
        found = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        for _ in self.extras:
            found.append(halved(found[-1]))
        return found


class Extras(nn.Module):
    """Blocks "0", "1", …; see `BodyMaps`."""

    features: Sequence[int]
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool) -> list[Any]:
        maps = []
        for i, features in enumerate(self.features):
            x = ExtraBlock(features, self.norm, self.dtype, name=str(i))(x, train)
            maps.append(x)
        return maps


class ExtraBlock(nn.Module):
    """A convolution 1×1 to half the channels, "0", and one 3×3 of stride 2, "1"."""

    features: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"norm": self.norm, "activation": nn.relu, "dtype": self.dtype}
        x = ConvNorm(max(1, self.features // 2), 1, name="0", **options)(x, train)
        return ConvNorm(self.features, 3, 2, name="1", **options)(x, train)
