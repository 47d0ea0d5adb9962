"""LR-ASPP on a dilated MobileNet-V3-Large (Howard et al. 2019, arXiv 1905.02244), as torchvision has it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.backbones import mobilenet
from mapjax.models.compose import on_backbone
from mapjax.models.layers import Conv, ConvNorm, torch_default
from mapjax.ops.resize import bilinear
from mapjax.task import Model

LOW, HIGH = "block4", "head"  # the first map of stride 8, and the last of all


class Scale(nn.Module):
    """A factor for each channel out of the mean of the map, by a convolution 1×1 "1" and a sigmoid."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        return nn.sigmoid(Conv(self.features, 1, init=torch_default, dtype=self.dtype, name="1")(x))


class LRASPP(nn.Module):
    """A coarse map weighted by what the image holds, and scores of both a fine map and of it, summed."""

    classes: int
    channels: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, low, high, train: bool):
        options = {"norm": self.norm, "activation": nn.relu, "init": torch_default, "dtype": self.dtype}
        x = ConvNorm(self.channels, 1, name="cbr", **options)(high, train)
        x = bilinear(x * Scale(self.channels, self.dtype, name="scale")(high), (low.shape[1], low.shape[2]))
        score = {"kernel": 1, "bias": True, "init": torch_default, "dtype": jnp.float32}
        fine = Conv(self.classes, name="low_classifier", **score)(low)
        return fine + Conv(self.classes, name="high_classifier", **score)(x)


class Head(nn.Module):
    """Features → "map_logits" of its "classifier"."""

    classes: int
    channels: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        classifier = LRASPP(self.classes, self.channels, self.norm, self.dtype, name="classifier")
        return {"map_logits": classifier(features[LOW], features[HIGH], train)}


def make(
    *,
    classes: int,
    width: float = 1.0,
    channels: int = 128,
    norm: str = "batch",
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make an LR-ASPP: images (b h w 3, normalised) → "map_logits" (b h/8 w/8 classes, float32), and features.

    The features are those of a MobileNet-V3-Large whose last stage is dilated (stride 16); its published weights fit
    in.

    Args:
      width: factor of the backbone's channels.
      channels: of the head.
      norm: "batch", "frozen" or "group", of both.
      remat: recompute blocks in the backward pass to save memory.
      dtype: of the arithmetic; parameters and logits are float32.

    Raises:
      UserError: no such norm.

    Example:
      >>> from mapjax.models.segmenters import lraspp
      >>> lraspp.make(classes=21).heads
      ('(?<![^/])backbone/classifier/', '^classifier/')
    """
    backbone = mobilenet.make(
        version=3, size="large", width=width, norm=norm, dilated=True, blocks=True, remat=remat, dtype=dtype
    )
    return on_backbone(backbone, Head(classes, channels, norm, jnp.dtype(dtype)), heads=("^classifier/",))
