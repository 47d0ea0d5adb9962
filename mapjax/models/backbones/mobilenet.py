"""MobileNet, versions 1 (Howard et al. 2017, arXiv 1704.04861), 2 (Sandler et al. 2018, arXiv 1801.04381) and
3 (Howard et al. 2019, arXiv 1905.02244).

Modules of versions 2 and 3 are named as torchvision's; version 1, which torchvision has not, as timm's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.backbones.inverted_residual import (
    HEADS,
    Block,
    Classifier,
    Features,
    convolution_of,
    levels_of,
    norm_of,
    normal,
    rules_of,
)
from mapjax.models.layers import Conv, Dense, Dropout, Norm, global_pool, make_divisible, model_of
from mapjax.task import Model

V1 = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # channels, blocks, stride of the first
V2 = (  # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
V3 = {  # a stage a line, of kernel, channels inside, channels, squeeze-excite, activation, stride
    "small": (
        ((3, 16, 16, True, "relu", 2),),
        ((3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1)),
        ((5, 96, 40, True, "hard_swish", 2), *2 * ((5, 240, 40, True, "hard_swish", 1),)),
        ((5, 120, 48, True, "hard_swish", 1), (5, 144, 48, True, "hard_swish", 1)),
        ((5, 288, 96, True, "hard_swish", 2), *2 * ((5, 576, 96, True, "hard_swish", 1),)),
    ),
    "large": (
        ((3, 16, 16, False, "relu", 1),),
        ((3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1)),
        ((5, 72, 40, True, "relu", 2), *2 * ((5, 120, 40, True, "relu", 1),)),
        (
            (3, 240, 80, False, "hard_swish", 2),
            (3, 200, 80, False, "hard_swish", 1),
            *2 * ((3, 184, 80, False, "hard_swish", 1),),
        ),
        ((3, 480, 112, True, "hard_swish", 1), (3, 672, 112, True, "hard_swish", 1)),
        ((5, 672, 160, True, "hard_swish", 2), *2 * ((5, 960, 160, True, "hard_swish", 1),)),
    ),
}
HIDDEN = {"small": 1024, "large": 1280}  # channels between the two dense layers of version 3


class Defaults(NamedTuple):
    """What the published weights of a version were trained with."""

    dropout: float
    epsilon: float
    momentum: float


DEFAULTS = {1: Defaults(0.001, 1e-5, 0.1), 2: Defaults(0.2, 1e-5, 0.1), 3: Defaults(0.2, 1e-3, 0.01)}


class Separable(nn.Module):
    """A depthwise convolution 3×3, then one 1×1; each with normalization and ReLU6."""

    features: int
    stride: int
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        norm, dtype = norm_of(self.convolution), self.convolution["dtype"]
        options = {"groups": x.shape[-1], "padding": self.convolution["padding"], "dtype": dtype}
        x = Conv(x.shape[-1], 3, self.stride, name="conv_dw", **options)(x)
        x = nn.relu6(Norm(**norm, name="bn1")(x, train))
        x = Conv(self.features, 1, dtype=dtype, name="conv_pw")(x)
        return nn.relu6(Norm(**norm, name="bn2")(x, train))


class Stage(nn.Module):
    """Separable convolutions "0", "1", …: the first with the stride."""

    features: int
    blocks: int
    stride: int
    remat: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        block = nn.remat(Separable, static_argnums=(2,)) if self.remat else Separable
        for i in range(self.blocks):
            stride = self.stride if i == 0 else 1
            x = block(self.features, stride, self.convolution, name=str(i))(x, train)
        return x


class Stages(nn.Module):
    """The stages of V1, numbered."""

    width: float
    remat: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        outputs = {}
        for i, (features, blocks, stride) in enumerate(V1):
            scaled = _scaled(features, self.width)
            stage = Stage(scaled, blocks, stride, self.remat, self.convolution, name=str(i))
            outputs[f"stage{i + 1}"] = x = stage(x, train)
        return outputs


class MobileNetV1(nn.Module):
    """Image → "stem" (stride 2), "stage1" … "stage5" (strides 2, 4, 8, 16, 32), "pool", perhaps "logits"."""

    width: float
    classes: int | None
    dropout: float
    remat: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool = False):
        padding, dtype = self.convolution["padding"], self.convolution["dtype"]
        x = Conv(_scaled(32, self.width), 3, 2, padding=padding, dtype=dtype, name="conv_stem")(x)
        x = nn.relu6(Norm(**norm_of(self.convolution), name="bn1")(x, train))
        stages = Stages(self.width, self.remat, self.convolution, name="blocks")
        outputs = {"stem": x, **stages(x, train)}
        outputs["pool"] = global_pool(outputs["stage5"])
        if self.classes is not None:
            x = Dropout(self.dropout)(outputs["pool"], train)
            outputs["logits"] = Dense(self.classes, init=normal, dtype=jnp.float32, name="classifier")(x)
        return outputs


class MobileNetV2(nn.Module):
    """Image → "stem" (stride 2), "stage1" … "stage7" (2, 4, 8, 16, 16, 32, 32), "head" (32), "pool", "logits"."""

    width: float
    classes: int | None
    dropout: float
    remat: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool = False):
        head = make_divisible(1280 * max(1.0, self.width))
        stem, stages = _scaled(32, self.width), v2_blocks(self.width)
        options = {"branch": "conv", "remat": self.remat, "convolution": self.convolution}
        outputs = Features(stem, stages, head, nn.relu6, name="features", **options)(x, train)
        outputs["pool"] = global_pool(outputs["head"])
        if self.classes is not None:
            outputs["logits"] = Classifier(self.classes, self.dropout, name="classifier")(outputs["pool"], train)
        return outputs


class HiddenClassifier(nn.Module):
    """Dense "0", hard swish "1", dropout "2", dense "3"."""

    classes: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.hard_swish(Dense(self.hidden, init=normal, dtype=jnp.float32, name="0")(x))
        return Dense(self.classes, init=normal, dtype=jnp.float32, name="3")(Dropout(self.dropout)(x, train))


class MobileNetV3(nn.Module):
    """Image → "stem" (stride 2), the stages, "head" (stride 32), "pool", perhaps "logits".

    Large: "stage1" … "stage6" (strides 2, 4, 8, 16, 16, 32). Small: "stage1" … "stage5" (strides 4, 8, 16, 16, 32).
    Dilated: the last stage and "head" have stride 16.
    """

    size: str
    width: float
    classes: int | None
    dropout: float
    remat: bool
    convolution: Mapping[str, Any]
    dilated: bool = False
    blocks: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        stages = v3_blocks(self.size, self.width, self.dilated)
        options = {"remat": self.remat, "each": self.blocks, "convolution": self.convolution, "name": "features"}
        features = Features(_scaled(16, self.width), stages, 6 * stages[-1][-1].features, nn.hard_swish, **options)
        outputs = features(x, train)
        outputs["pool"] = global_pool(outputs["head"])
        if self.classes is not None:
            hidden = _scaled(HIDDEN[self.size], self.width)
            classifier = HiddenClassifier(self.classes, hidden, self.dropout, name="classifier")
            outputs["logits"] = classifier(outputs["pool"], train)
        return outputs


def _scaled(channels: int, width: float) -> int:
    return make_divisible(channels * width)


def v2_blocks(width: float) -> tuple[tuple[Block, ...], ...]:
    """The inverted residuals of version 2 by stage."""
    stages, channels = [], _scaled(32, width)
    for expansion, features, count, stride in V2:
        features, blocks = _scaled(features, width), []
        for i in range(count):
            blocks.append(Block(features, channels * expansion, 3, stride if i == 0 else 1, nn.relu6))
            channels = features
        stages.append(tuple(blocks))
    return tuple(stages)


def v3_blocks(size: str, width: float, dilated: bool = False) -> tuple[tuple[Block, ...], ...]:
    """The inverted residuals of version 3 by stage; the last ones perhaps with dilation 2 instead of a stride."""

    def block(kernel, expanded, features, squeeze, activation, stride):
        expanded = _scaled(expanded, width)
        hidden = make_divisible(expanded / 4) if squeeze else 0
        act = nn.relu if activation == "relu" else nn.hard_swish
        return Block(_scaled(features, width), expanded, kernel, stride, act, hidden, nn.relu, nn.hard_sigmoid)

    *stages, last = (tuple(block(*row) for row in stage) for stage in V3[size])
    return (*stages, tuple(one._replace(stride=1, dilation=2) for one in last) if dilated else last)


def make(
    *,
    version: int = 2,
    size: str | None = None,
    width: float = 1.0,
    classes: int | None = None,
    dropout: float | None = None,
    norm: str = "batch",
    epsilon: float | None = None,
    momentum: float | None = None,
    padding: str = "torch",
    dilated: bool = False,
    blocks: bool = False,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a MobileNet: images (b h w 3, normalised) → features by name, with `classes` "logits" (b classes).

    Features are "stem", "stage1", … (version 1: strides 2, 4, 8, 16, 32; version 2: 2, 4, 8, 16, 16, 32, 32; version 3
    large: 2, 4, 8, 16, 16, 32, small: 4, 8, 16, 16, 32), "head" (versions 2 and 3, stride 32) and "pool" (b c).

    Args:
      version: 1, 2 or 3.
      size: of version 3, "large" or "small".
      width: factor of all channel counts.
      dropout: before the last layer.
      epsilon, momentum: of batch normalization; None is what the published weights (timm's of version 1, torchvision's
        of 2 and 3) were trained with; timm's of version 3 have epsilon 1e-5.
      norm: "batch", "frozen" (running statistics, never trained) or "group".
      padding: "torch" (k // 2 on each side) or "SAME" (TensorFlow's rule, for weights that come from there).
      dilated: the last stage of version 3 has dilation 2 instead of a stride (torchvision's `dilated`).
      blocks: give the maps "block1", … of each of its blocks too.
      remat: recompute blocks in the backward pass to save memory.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Raises:
      UserError: a version, size, norm or padding that does not exist, or what only version 3 has for another.

    Example:
      >>> from mapjax.models.backbones import mobilenet
      >>> mobilenet.make(version=3, size="small", classes=10).levels
      {'stem': 2, 'stage1': 4, 'stage2': 8, 'stage3': 16, 'stage4': 16, 'head': 32, 'stage5': 32}
    """
    if version not in DEFAULTS:
        raise UserError(f"a mobilenet of version={version!r} does not exist: choose 1, 2 or 3.")
    if version != 3 and size is not None:
        raise UserError(f"mobilenet: size={size!r} is of version 3; version={version} has a width only.")
    if version != 3 and (dilated or blocks):
        raise UserError(f"mobilenet: dilated and blocks are of version 3; version={version} has neither.")
    if version == 3 and size not in (None, *V3):
        raise UserError(f"mobilenet has no size={size!r}.{near(str(size), V3)}")
    default = DEFAULTS[version]
    epsilon = default.epsilon if epsilon is None else epsilon
    momentum = default.momentum if momentum is None else momentum
    convolution = convolution_of(norm, epsilon, momentum, padding, dtype)
    options = (width, classes, default.dropout if dropout is None else dropout, remat, convolution)
    if version == 1:
        levels = {"stem": 2, **{f"stage{i}": 2**i for i in range(1, 6)}}
        return model_of(MobileNetV1(*options), levels=levels, heads=HEADS)
    if version == 2:
        stages, module = v2_blocks(width), MobileNetV2(*options)
        rules = rules_of(_scaled(32, width), stages, branch="conv")
    else:
        stages = v3_blocks(size or "large", width, dilated)
        module = MobileNetV3(size or "large", *options, dilated, blocks)
        rules = rules_of(_scaled(16, width), stages)
    return model_of(module, levels=levels_of(stages, blocks), heads=HEADS, rules=rules)
