"""VGG (Simonyan & Zisserman 2014, arXiv 1409.1556), with or without batch normalization."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.models.layers import (
    Conv,
    Dense,
    Dropout,
    Init,
    MapDense,
    Norm,
    adaptive_pool,
    model_of,
    require_size,
)
from mapjax.ops import convolution, pooling
from mapjax.sharding import tensor
from mapjax.sharding.mesh import Rules
from mapjax.task import Model

LEAST = 32  # smallest side of an image that leaves a pixel after the last pool
GRID = 7
CHANNELS = (64, 128, 256, 512, 512)
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions


LEVELS = {f"{kind}{i}": 2 ** (i - (kind == "stage")) for i in range(1, 6) for kind in ("stage", "pool")}
HEADS = ("^classifier/",)
CLASSIFIER = (  # the dense layers hold most of the parameters
    (r"classifier/0/map_kernel$", tensor.CONV_OUT),
    (r"classifier/0/bias$", tensor.EACH),
    (r"classifier/3/kernel$", tensor.IN),
)


class Features(nn.Module):
    """Five stages of 3×3 convolutions, each followed by a pool: image → all of them by name.

    places: give "places1" … too, where each pool took its values from (`mapjax.ops.tiles`); sides are rounded up.
    """

    depth: int = 16
    width: float = 1.0
    batch_norm: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    places: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        stage = nn.remat(_convolve, static_argnums=(2, 3, 4, 5)) if self.remat else _convolve
        outputs = {}
        first = 0  # torchvision numbers convolutions, normalizations, ReLUs and pools in one row
        for i, (count, channels) in enumerate(zip(STAGES[self.depth], CHANNELS), 1):
            outputs[f"stage{i}"] = x = stage(self, x, first, count, round(channels * self.width), train)
            if self.places:
                x, outputs[f"places{i}"] = pooling.max_pool_all(x)
            else:
                x = convolution.max_pool(x, 2, 2, 0)
            outputs[f"pool{i}"] = x
            first += count * (3 if self.batch_norm else 2) + 1
        return outputs


def _convolve(features: Features, x, first: int, count: int, channels: int, train: bool):
    """One stage, within the scope of `features`: convolutions with their normalization, numbered from `first`."""
    step = 3 if features.batch_norm else 2
    for index in range(first, first + count * step, step):
        x = Conv(channels, bias=True, dtype=features.dtype, name=str(index))(x)
        if features.batch_norm:
            x = Norm(dtype=features.dtype, name=str(index + 1))(x, train)
        x = nn.relu(x)
    return x


class Classifier(nn.Module):
    """Map of 7×7 → "fc6", "fc7" (after ReLU) and "logits", with dropout after the first two layers."""

    hidden: int
    classes: int
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        normal = nn.initializers.normal(0.01)
        fc6 = nn.relu(MapDense(self.hidden, init=normal, dtype=self.dtype, name="0")(x))
        x = Dropout(self.dropout)(fc6, train)
        fc7 = nn.relu(Dense(self.hidden, init=normal, dtype=self.dtype, name="3")(x))
        x = Dropout(self.dropout)(fc7, train)
        return {"fc6": fc6, "fc7": fc7, "logits": Dense(self.classes, init=normal, dtype=jnp.float32, name="6")(x)}


class MapConv(nn.Module):
    """A dense layer over a map of `GRID`, applied at every place of a map: its kernel fits into a convolution."""

    features: int
    init: Init
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        def init(key, shape, dtype):
            return self.init(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)

        kernel = self.param("map_kernel", init, (GRID, GRID, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return convolution.conv(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class ConvClassifier(nn.Module):
    """Map → maps "fc6" and "fc7" (after ReLU): the first layers of `Classifier` as convolutions, dropout between."""

    hidden: int
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        normal = nn.initializers.normal(0.01)
        fc6 = nn.relu(MapConv(self.hidden, normal, self.dtype, name="0")(x))
        x = Dropout(self.dropout)(fc6, train)
        return {"fc6": fc6, "fc7": nn.relu(Dense(self.hidden, init=normal, dtype=self.dtype, name="3")(x))}


class VGG(nn.Module):
    """Image → features by name, with classes "logits"; see `make`."""

    depth: int = 16
    width: float = 1.0
    batch_norm: bool = False
    classes: int | None = None
    dropout: float = 0.5
    remat: bool = False
    convolutional: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        require_size("vgg", x, LEAST)
        arguments = (self.depth, self.width, self.batch_norm, self.remat, self.dtype)
        outputs = Features(*arguments, name="features")(x, train)
        hidden = round(4096 * self.width)
        if self.convolutional:
            classifier = ConvClassifier(hidden, self.dropout, self.dtype, name="classifier")
            return outputs | classifier(outputs["pool5"], train)
        pooled = adaptive_pool(outputs["pool5"], GRID)
        outputs["pool"] = pooled.reshape(len(x), -1).astype(jnp.float32)
        if self.classes is not None:
            classifier = Classifier(hidden, self.classes, self.dropout, self.dtype, name="classifier")
            outputs |= classifier(pooled, train)
        return outputs


def rules_of(depth: int, batch_norm: bool) -> Rules:
    """How the parameters of `Features` are split: each two convolutions with no pool between them are a pair.

    What a pool gives is whole, so that a decoder may read it.
    """
    step, first, pairs = 3 if batch_norm else 2, 0, []
    for count in STAGES[depth]:
        pairs += [(first + k * step, first + (k + 1) * step) for k in range(0, count - 1, 2)]
        first += count * step + 1
    opening, closing = ("|".join(str(number) for number in numbers) for numbers in zip(*pairs))
    norms = "|".join(str(number + 1) for number, _ in pairs)
    return (
        (rf"features/({opening})/kernel$", tensor.CONV_OUT),
        (rf"features/({opening})/bias$", tensor.EACH),
        *([(rf"features/({norms})/", tensor.EACH)] if batch_norm else []),
        (rf"features/({closing})/kernel$", tensor.CONV_IN),
    )


def make(
    *,
    depth: int = 16,
    batch_norm: bool = False,
    width: float = 1.0,
    classes: int | None = None,
    dropout: float = 0.5,
    remat: bool = False,
    convolutional: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a VGG: images (b h w 3, normalised, sides of 32 or more) → outputs by name.

    "stage1" … "stage5" are the maps before each max pool (strides 1, 2, 4, 8, 16), "pool1" … "pool5" those after it
    (strides 2 … 32), and "pool" (b 25088, float32) is pool5 averaged to 7×7, flattened by row, column and channel;
    with classes also "fc6" and "fc7" (b 4096, after ReLU) and "logits" (b classes, float32).

    Args:
      depth: 11, 13, 16 or 19 layers with weights.
      batch_norm: after each convolution (which keeps its bias).
      width: factor of all channel counts.
      dropout: after fc6 and fc7.
      remat: recompute each stage in the backward pass to save memory.
      dtype: of the arithmetic; parameters are float32.
      convolutional: without classes, give "fc6" and "fc7" as maps of stride 32 (of the same weights: Long et al.
        2015), and no "pool"; dropout after fc6.

    Raises:
      UserError: there is no such depth, or classes for a convolutional one.

    Example:
      >>> from mapjax.models.backbones import vgg
      >>> levels = vgg.make(depth=11, classes=10).levels
      >>> len(levels), levels["pool4"]
      (10, 16)
    """
    if depth not in STAGES:
        raise UserError(f"a vgg of depth={depth} does not exist: choose one of {', '.join(map(str, STAGES))}.")
    if convolutional and classes is not None:
        raise UserError("vgg: with convolutional=True it has no classes of its own; take the network 'fcn'.")
    return model_of(
        VGG(depth, width, batch_norm, classes, dropout, remat, convolutional, jnp.dtype(dtype)),
        levels=LEVELS | ({"fc6": 32, "fc7": 32} if convolutional else {}),
        # The convolutional one takes all layers of the classifier but the last, which is a head by itself.
        heads=("^classifier/6/", *HEADS) if convolutional else HEADS,
        rules=(*rules_of(depth, batch_norm), *CLASSIFIER),
    )
