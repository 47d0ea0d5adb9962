"""EfficientNet B0 to B7 (Tan & Le 2019, arXiv 1905.11946) and the Lite ones of TensorFlow's model garden, which leave
out squeeze-excite, have ReLU6 for SiLU, and keep the stem, the head and the depth of the first and last stage.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from mapjax.errors import UserError, near
from mapjax.models.backbones.inverted_residual import (
    HEADS,
    Block,
    Classifier,
    Features,
    convolution_of,
    levels_of,
    normal,
    rules_of,
)
from mapjax.models.layers import global_pool, make_divisible, model_of
from mapjax.task import Model

STEM = 32
HEAD = 1280  # of the Lite networks; otherwise four times the last stage
STAGES = (  # expansion, kernel, stride of the first, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class Variant(NamedTuple):
    """Factors of width and depth, and what the published weights were trained with."""

    width: float
    depth: float
    dropout: float
    epsilon: float = 1e-5
    momentum: float = 0.1
    lite: bool = False


VARIANTS = {
    "b0": Variant(1.0, 1.0, 0.2),
    "b1": Variant(1.0, 1.1, 0.2),
    "b2": Variant(1.1, 1.2, 0.3),
    "b3": Variant(1.2, 1.4, 0.3),
    "b4": Variant(1.4, 1.8, 0.4),
    "b5": Variant(1.6, 2.2, 0.4, 1e-3, 0.01),
    "b6": Variant(1.8, 2.6, 0.5, 1e-3, 0.01),
    "b7": Variant(2.0, 3.1, 0.5, 1e-3, 0.01),
    "lite0": Variant(1.0, 1.0, 0.2, 1e-3, 0.01, lite=True),
    "lite1": Variant(1.0, 1.1, 0.2, 1e-3, 0.01, lite=True),
    "lite2": Variant(1.1, 1.2, 0.3, 1e-3, 0.01, lite=True),
    "lite3": Variant(1.2, 1.4, 0.3, 1e-3, 0.01, lite=True),
    "lite4": Variant(1.4, 1.8, 0.3, 1e-3, 0.01, lite=True),
}


class EfficientNet(nn.Module):
    """Image → "stem", "stage1" … "stage7", "head", "pool", perhaps "logits"; see `make`."""

    width: float
    depth: float
    lite: bool
    classes: int | None
    dropout: float
    drop_path: float
    remat: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool = False):
        stages = blocks_of(self.width, self.depth, self.lite)
        stem = stem_of(self.width, self.lite)
        head = HEAD if self.lite else 4 * stages[-1][-1].features
        activation = nn.relu6 if self.lite else nn.silu
        options = {"drop_path": self.drop_path, "remat": self.remat, "convolution": self.convolution}
        outputs = Features(stem, stages, head, activation, nested=True, name="features", **options)(x, train)
        outputs["pool"] = global_pool(outputs["head"])
        if self.classes is not None:
            # Torchvision's is uniform within 1/√classes: fine for 1,000, but scores of ±10 to begin with for 10.
            classifier = Classifier(self.classes, self.dropout, normal, name="classifier")
            outputs["logits"] = classifier(outputs["pool"], train)
        return outputs


def stem_of(width: float, lite: bool) -> int:
    """The channels of the first convolution."""
    return STEM if lite else make_divisible(STEM * width)


def blocks_of(width: float, depth: float, lite: bool) -> tuple[tuple[Block, ...], ...]:
    """The inverted residuals by stage."""
    channels = stem_of(width, lite)
    stages = []
    for i, (expansion, kernel, stride, features, count) in enumerate(STAGES):
        features, blocks = make_divisible(features * width), []
        fixed = lite and i in (0, len(STAGES) - 1)
        for j in range(count if fixed else math.ceil(count * depth)):
            expanded, squeeze = channels * expansion, 0 if lite else max(1, channels // 4)
            activation, step = nn.relu6 if lite else nn.silu, stride if j == 0 else 1
            blocks.append(Block(features, expanded, kernel, step, activation, squeeze, nn.silu, nn.sigmoid))
            channels = features
        stages.append(tuple(blocks))
    return tuple(stages)


def make(
    *,
    variant: str = "b0",
    width: float = 1.0,
    depth: float = 1.0,
    classes: int | None = None,
    dropout: float | None = None,
    drop_path: float = 0.2,
    norm: str = "batch",
    epsilon: float | None = None,
    momentum: float | None = None,
    padding: str | None = None,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make an EfficientNet: images (b h w 3, normalised) → features by name, with `classes` "logits" (b classes).

    Features are "stem" (stride 2), "stage1" … "stage7" (strides 2, 4, 8, 16, 16, 32, 32), "head" (32) and "pool" (b c).

    Args:
      variant: "b0" … "b7", "lite0" … "lite4".
      width: a further factor of its channels.
      depth: a further factor of its blocks.
      dropout: before the last layer.
      drop_path: share of the images that leave out a block in training (stochastic depth): 0 at the first block,
        growing in equal steps to almost this at the last.
      epsilon: of batch normalization. None, here and in the next two, is what the published weights (torchvision's,
        TensorFlow's of Lite) were trained with; timm's "tf_…" have epsilon 1e-3 and padding "SAME".
      momentum: of batch normalization.
      padding: "torch" (k // 2 on each side) or "SAME" (TensorFlow's rule).
      norm: "batch", "frozen" (running statistics, never trained) or "group".
      remat: recompute blocks in the backward pass to save memory.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Raises:
      UserError: a variant, norm or padding that does not exist.

    Example:
      >>> from mapjax.models.backbones import efficientnet
      >>> levels = efficientnet.make(variant="b0", classes=10).levels
      >>> levels["stage3"], levels["head"]
      (8, 32)
    """
    if variant not in VARIANTS:
        raise UserError(f"efficientnet has no variant={variant!r}.{near(str(variant), VARIANTS)}")
    chosen = VARIANTS[variant]
    convolution = convolution_of(
        norm,
        chosen.epsilon if epsilon is None else epsilon,
        chosen.momentum if momentum is None else momentum,
        padding or ("SAME" if chosen.lite else "torch"),
        dtype,
    )
    rates = (chosen.dropout if dropout is None else dropout, drop_path)
    scale = (chosen.width * width, chosen.depth * depth)
    stages = blocks_of(*scale, chosen.lite)
    return model_of(
        EfficientNet(*scale, chosen.lite, classes, *rates, remat, convolution),
        levels=levels_of(stages),
        heads=HEADS,
        rules=rules_of(stem_of(scale[0], chosen.lite), stages, nested=True),
    )
