"""GoogLeNet (Szegedy et al. 2014, arXiv 1409.4842) with batch normalization, and 3×3 where the paper has 5×5, as
torchvision has it; Inception-v3 shares its unit and its change of input.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mapjax.models.layers import (
    Conv,
    Dense,
    Dropout,
    Init,
    MapDense,
    Norm,
    adaptive_pool,
    global_pool,
    model_of,
    require_size,
)
from mapjax.ops import convolution
from mapjax.ops.images import MEAN, STD
from mapjax.sharding import tensor
from mapjax.task import Model

LEAST = 15  # smallest side of an image that leaves a pixel after the last pool
BLOCKS = {  # channels of 1×1; of 1×1, 3×3; of 1×1, 3×3; of 1×1 after a pool
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
POOLS = {"inception3b": 3, "inception4e": 2}  # side of the pool after a block
AUXILIARY = {"inception4a": "aux1", "inception4d": "aux2"}
HEADS = ("^fc/", r"^aux\d/")
RULES = (  # of each branch the 1×1 and what follows it
    (r"inception\w+/branch[23]/0/conv/kernel$", tensor.CONV_OUT),
    (r"inception\w+/branch[23]/0/bn/", tensor.EACH),
    (r"inception\w+/branch[23]/1/conv/kernel$", tensor.CONV_IN),
)
normal = nn.initializers.normal(0.01)


class Unit(nn.Module):
    """Convolution "conv", batch normalization "bn" and ReLU (torchvision's BasicConv2d)."""

    features: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padding: int | None = None
    init: Init = normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"padding": self.padding, "init": self.init, "dtype": self.dtype}
        x = Conv(self.features, self.kernel, self.stride, name="conv", **options)(x)
        return nn.relu(Norm(epsilon=1e-3, dtype=self.dtype, name="bn")(x, train))


class Branch(nn.Module):
    """Units one after the other, numbered from `first`."""

    units: tuple[tuple[int, int], ...]  # features, kernel
    first: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        for i, (features, kernel) in enumerate(self.units, self.first):
            x = Unit(features, kernel, dtype=self.dtype, name=str(i))(x, train)
        return x


class Inception(nn.Module):
    """Four branches side by side, with the channels of a row of BLOCKS."""

    channels: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        single, reduce, three, reduce_more, twice, pool = self.channels
        pooled = convolution.max_pool(x, 3, 1, 1)
        branches = (
            Unit(single, dtype=self.dtype, name="branch1")(x, train),
            Branch(((reduce, 1), (three, 3)), dtype=self.dtype, name="branch2")(x, train),
            Branch(((reduce_more, 1), (twice, 3)), dtype=self.dtype, name="branch3")(x, train),
            Branch(((pool, 1),), 1, dtype=self.dtype, name="branch4")(pooled, train),
        )
        return jnp.concatenate(branches, -1)


class Auxiliary(nn.Module):
    """A classifier in the middle, which helps training only."""

    classes: int
    width: float = 1.0
    dropout: float = 0.7
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        x = Unit(round(128 * self.width), dtype=self.dtype, name="conv")(adaptive_pool(x, 4), train)
        x = nn.relu(MapDense(round(1024 * self.width), init=normal, dtype=self.dtype, name="fc1")(x))
        x = Dropout(self.dropout)(x, train)
        return Dense(self.classes, init=normal, dtype=jnp.float32, name="fc2")(x)


class GoogLeNet(nn.Module):
    """Image → features by name, with classes "logits"; see `make`."""

    width: float = 1.0
    transform_input: bool = False
    aux: bool = True
    classes: int | None = None
    dropout: float = 0.2
    dropout_aux: float = 0.7
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        require_size("googlenet", x, LEAST)
        outputs = self.stem(to_symmetric(jnp.asarray(x)) if self.transform_input else x, train)
        x = convolution.max_pool(outputs["conv3"], padding=0, ceil=True)
        block = nn.remat(Inception, static_argnums=(2,)) if self.remat else Inception
        for name, channels in BLOCKS.items():
            channels = tuple(round(count * self.width) for count in channels)
            outputs[name] = x = block(channels, self.dtype, name=name)(x, train)
            if name in AUXILIARY and self.classes is not None and self.aux and (train or self.is_initializing()):
                head = Auxiliary(self.classes, self.width, self.dropout_aux, self.dtype, name=AUXILIARY[name])
                outputs[AUXILIARY[name]] = head(x, train)
            if name in POOLS:
                x = convolution.max_pool(x, POOLS[name], padding=0, ceil=True)
        outputs["pool"] = global_pool(x)
        if self.classes is not None:
            x = Dropout(self.dropout)(outputs["pool"], train)
            outputs["logits"] = Dense(self.classes, init=normal, dtype=jnp.float32, name="fc")(x)
        return outputs

    def stem(self, x, train: bool):
        narrow, wide = round(64 * self.width), round(192 * self.width)
        first = Unit(narrow, 7, 2, dtype=self.dtype, name="conv1")(x, train)
        x = convolution.max_pool(first, padding=0, ceil=True)
        x = Unit(narrow, 1, dtype=self.dtype, name="conv2")(x, train)
        return {"conv1": first, "conv3": Unit(wide, 3, dtype=self.dtype, name="conv3")(x, train)}


def levels_of() -> dict[str, int]:
    """The strides of the maps by name."""
    levels, stride = {"conv1": 2, "conv3": 4}, 8
    for name in BLOCKS:
        levels[name] = stride
        stride *= 2 if name in POOLS else 1
    return levels


def to_symmetric(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """From images normalised with ImageNet's mean and deviation to values between -1 and 1, in float32."""
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    return x.astype(jnp.float32) * (std / 0.5) + (mean - 0.5) / 0.5


def make(
    *,
    width: float = 1.0,
    transform_input: bool = True,
    aux: bool = True,
    classes: int | None = None,
    dropout: float = 0.2,
    dropout_aux: float = 0.7,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a GoogLeNet: images (b h w 3, normalised, sides of 15 or more) → outputs by name.

    "conv1" (stride 2), "conv3" (4), "inception3a" and "inception3b" (8), "inception4a" … "inception4e" (16),
    "inception5a" and "inception5b" (32) are maps, "pool" (b 1024, float32) the mean of the last; with classes also
    "logits" (b classes, float32), and in training "aux1" and "aux2", logits after inception4a and inception4d (the
    paper adds their losses at a weight of 0.3).

    Args:
      width: factor of all channel counts.
      transform_input: turn images normalised with ImageNet's mean and deviation into values between -1 and 1, as
        torchvision's published weights expect.
      aux: whether there are auxiliary heads.
      dropout: before the last layer of the head.
      dropout_aux: before the last layer of the auxiliary heads.
      remat: recompute each block in the backward pass to save memory.
      dtype: of the arithmetic; parameters are float32.

    Example:
      >>> from mapjax.models.backbones import googlenet
      >>> levels = googlenet.make(classes=10).levels
      >>> len(levels), levels["inception4a"]
      (11, 16)
    """
    arguments = (width, transform_input, aux, classes, dropout, dropout_aux, remat)
    return model_of(GoogLeNet(*arguments, jnp.dtype(dtype)), levels=levels_of(), heads=HEADS, rules=RULES)
