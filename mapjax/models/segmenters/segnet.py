"""SegNet (Badrinarayanan et al. 2017, arXiv 1511.00561): a decoder that mirrors the encoder and knows where its max
pools took their values from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.backbones import vgg
from mapjax.models.compose import on_backbone
from mapjax.models.layers import Conv, ConvNorm, model_of, torch_default
from mapjax.ops import pooling
from mapjax.sharding import tensor
from mapjax.task import Model

SMALL = (64, 64, 64, 64)  # channels of SegNet-Basic, one convolution a stage
ENCODERS = ("vgg16", "small")
PAIR = (  # the first two convolutions of each stage of the decoder; the last stage has one, as each of the small one
    (r"decoder[2-5]_0/0/kernel$", tensor.CONV_OUT),
    (r"decoder[2-5]_0/1/", tensor.EACH),
    (r"decoder[2-5]_1/0/kernel$", tensor.CONV_IN),
)


class VGGEncoder(nn.Module):
    """The "features" of VGG-16 with batch normalization, named as torchvision's; with places."""

    width: float
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool = False):
        options = {"batch_norm": True, "places": True, "dtype": self.dtype, "name": "features"}
        return vgg.Features(16, self.width, **options)(x, train)


class SmallEncoder(nn.Module):
    """A convolution and a pool a stage: "stage1", "places1", "pool1", …"""

    channels: tuple[int, ...]
    kernel: int
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool = False):
        outputs = {}
        for i, channels in enumerate(self.channels, 1):
            conv = ConvNorm(channels, self.kernel, activation=nn.relu, dtype=self.dtype, name=f"stage{i}")
            outputs[f"stage{i}"] = x = conv(x, train)
            x, outputs[f"places{i}"] = pooling.max_pool_all(x)
            outputs[f"pool{i}"] = x
        return outputs


class Decoder(nn.Module):
    """Features with places → "map_logits" (b h w classes, float32).

    stages: channels of the convolutions of each stage of the encoder, finest first; the decoder has them in reverse,
      but that the last convolution of a stage goes to the channels of the next finer one. The very last goes to
      classes, by a kernel of `last`; one of 1 comes after that convolution (SegNet-Basic), a larger one in its place.
    """

    stages: tuple[tuple[int, ...], ...]
    classes: int
    kernel: int
    last: int
    dtype: Any

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        x = features[f"pool{len(self.stages)}"]
        for i in reversed(range(1, len(self.stages) + 1)):
            x = pooling.unpool(x, features[f"places{i}"], features[f"stage{i}"].shape[1:3])
            finer = self.stages[max(i - 2, 0)][-1:] if i > 1 or self.last == 1 else ()
            for k, channels in enumerate((*self.stages[i - 1][:-1], *finer)):
                conv = ConvNorm(channels, self.kernel, activation=nn.relu, dtype=self.dtype, name=f"decoder{i}_{k}")
                x = conv(x, train)
        head = Conv(self.classes, self.last, bias=True, init=torch_default, dtype=jnp.float32, name="head")
        return {"map_logits": head(x)}


def make(*, classes: int, encoder: str = "vgg16", width: float = 1.0, kernel: int = 3, dtype: str = "float32") -> Model:
    """Make a SegNet: images (b h w 3, normalised, of any size) → "map_logits" (b h w classes, float32).

    Also the encoder's maps by name: "stage1" … before each pool, "pool1" … after it, and "places1" … (uint8), which
    of the four pixels each pooled value is.

    Args:
      encoder: "vgg16" (with batch normalization; torchvision's vgg16_bn fits in) or "small" (four convolutions).
      width: factor of all channel counts.
      kernel: of "small": SegNet-Basic has 7, which costs five times as much as 3.
      dtype: of the arithmetic; parameters and logits are float32.

    Raises:
      UserError: no such encoder, or a kernel for VGG-16.

    Example:
      >>> import jax
      >>> from mapjax.models.segmenters import segnet
      >>> model = segnet.make(encoder="small", classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
      >>> outputs["map_logits"].shape
      (1, 32, 32, 3)
    """
    if encoder not in ENCODERS:
        raise UserError(f"segnet has no encoder={encoder!r}.{near(encoder, ENCODERS)}")
    if encoder == "vgg16" and kernel != 3:
        raise UserError(f"segnet: kernel={kernel} is of encoder='small'; that of 'vgg16' is 3.")
    kind = jnp.dtype(dtype)
    if encoder == "vgg16":
        stages = _scaled([(channels,) * count for channels, count in zip(vgg.CHANNELS, vgg.STAGES[16])], width)
        rules, pair = vgg.rules_of(16, batch_norm=True), PAIR
        backbone = model_of(VGGEncoder(width, kind), levels=vgg.LEVELS, heads=vgg.HEADS, rules=rules)
    else:
        stages, pair = _scaled([(channels,) for channels in SMALL], width), ()
        levels = {name: stride for name, stride in vgg.LEVELS.items() if int(name[-1]) <= len(SMALL)}
        backbone = model_of(SmallEncoder(tuple(stage[0] for stage in stages), kernel, kind), levels=levels)
    decoder = Decoder(stages, classes, kernel, 3 if encoder == "vgg16" else 1, kind)
    return on_backbone(backbone, decoder, heads=("^head/",), rules=pair)


def _scaled(stages: Sequence[Sequence[int]], width: float) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(round(channels * width) for channels in stage) for stage in stages)
