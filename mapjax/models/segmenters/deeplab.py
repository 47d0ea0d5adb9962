"""DeepLabV3 (Chen et al. 2017, arXiv 1706.05587) on a dilated ResNet or MobileNet-V3, as torchvision has it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.models.compose import make_backbone, on_backbone
from mapjax.models.layers import Conv, ConvNorm, Dropout, Norm, torch_default
from mapjax.models.segmenters.fcn import HEADS, Heads
from mapjax.task import Model

CHANNELS = 256
BACKBONES = {  # what a node has unless it says otherwise, the map of the classifier, that of the auxiliary one
    "resnet": ({"output_stride": 8}, "layer4", "layer3"),
    "mobilenet": ({"version": 3, "dilated": True, "blocks": True}, "head", "block4"),
}


class Pooled(nn.Module):
    """The mean of the map, by a convolution 1×1 "1", normalization "2" and ReLU."""

    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        x = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        x = Conv(CHANNELS, 1, init=torch_default, dtype=self.dtype, name="1")(x)
        return nn.relu(Norm(self.norm, dtype=self.dtype, name="2")(x, train))


class Branches(nn.Module):
    """A convolution 1×1 "0", dilated ones 3×3 "1" …, and the whole map's mean: as many maps."""

    rates: tuple[int, ...]
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"norm": self.norm, "activation": nn.relu, "init": torch_default, "dtype": self.dtype}
        found = [ConvNorm(CHANNELS, 1, name="0", **options)(x, train)]
        for i, rate in enumerate(self.rates, 1):
            found.append(ConvNorm(CHANNELS, 3, dilation=rate, name=str(i), **options)(x, train))
        pooled = Pooled(self.norm, self.dtype, name=str(len(found)))(x, train)
        return [*found, jnp.broadcast_to(pooled, found[0].shape)]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the branches "convs", joined by the convolution 1×1 "project" and dropout."""

    rates: tuple[int, ...]
    dropout: float
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        x = jnp.concatenate(Branches(self.rates, self.norm, self.dtype, name="convs")(x, train), -1)
        options = {"norm": self.norm, "activation": nn.relu, "init": torch_default, "dtype": self.dtype}
        return Dropout(self.dropout)(ConvNorm(CHANNELS, 1, name="project", **options)(x, train), train)


class DeepLabHead(nn.Module):
    """ASPP "0", convolution 3×3 "1", normalization "2", ReLU, convolution 1×1 "4"."""

    classes: int
    rates: tuple[int, ...]
    norm: str = "batch"
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        x = ASPP(self.rates, self.dropout, self.norm, self.dtype, name="0")(x, train)
        x = Conv(CHANNELS, init=torch_default, dtype=self.dtype, name="1")(x)
        x = nn.relu(Norm(self.norm, dtype=self.dtype, name="2")(x, train))
        return Conv(self.classes, 1, bias=True, init=torch_default, dtype=jnp.float32, name="4")(x)


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50},
    rates: tuple[int, ...] | None = None,
    aux: bool = False,
    norm: str = "batch",
    dropout: float = 0.5,
    dtype: str = "float32",
) -> Model:
    """Make a DeepLabV3: images (b h w 3, normalised) → "map_logits" (b i j classes, float32), and the backbone's maps.

    They have the stride of the backbone's output: 8 on a ResNet, 16 on a MobileNet.

    Args:
      backbone: a node of the config that names "resnet" (output_stride 8 unless the node has another) or
        "mobilenet" (version 3, large, dilated); published weights of it fit in.
      rates: dilations of the pyramid; None is 12, 24, 36 (torchvision's), and half of these with output_stride 16, as
        the paper has it.
      aux: give "aux_map_logits" too, of an earlier map.
      norm: of the heads.
      dropout: after the pyramid.
      dtype: of the arithmetic; parameters and logits are float32.

    Raises:
      UserError: another backbone.

    Example:
      >>> import jax
      >>> from mapjax.models.segmenters import deeplab
      >>> model = deeplab.make(backbone={"name": "resnet", "depth": 18}, classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
      >>> outputs["map_logits"].shape
      (1, 4, 4, 3)
    """
    name = backbone.get("name")
    if name not in BACKBONES:
        raise UserError(f"deeplab stands on the backbone 'resnet' or 'mobilenet', not on {name!r}.")
    usual, main, aux_map = BACKBONES[name]
    node = {**usual, **backbone}
    if rates is None:
        rates = (6, 12, 18) if node.get("output_stride") == 16 else (12, 24, 36)
    head = {"rates": tuple(rates), "dropout": dropout}
    heads = Heads(DeepLabHead, main, aux_map if aux else None, classes, norm, head, jnp.dtype(dtype))
    return on_backbone(make_backbone("deeplab", node, dtype), heads, heads=HEADS)
