"""ConvNeXt (Liu et al. 2022): a residual network of 7×7 depthwise convolutions and the blocks of a transformer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.layers import Conv, Dense, LayerNorm, StochasticDepth, global_pool, model_of, require_size
from mapjax.sharding import tensor
from mapjax.task import Model

VARIANTS = {  # blocks and channels of each stage, and the rate of stochastic depth of torchvision's recipes
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 0.1),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768), 0.4),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024), 0.5),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536), 0.5),
}
HEADS = ("^classifier/",)
RULES = (  # the two dense layers of a block are a pair
    (r"block/3/kernel$", tensor.OUT),
    (r"block/3/bias$", tensor.EACH),
    (r"block/5/kernel$", tensor.IN),
)
normal = nn.initializers.normal(0.02)  # the paper cuts it at ±2, a hundred standard deviations away
gelu = partial(nn.gelu, approximate=False)


class Block(nn.Module):
    """Residual block: its "block" times "layer_scale", left out for some images in training."""

    layer_scale: float
    rate: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (x.shape[-1],), jnp.float32)
        y = Branch(self.dtype, name="block")(x) * scale.astype(self.dtype)
        return x + StochasticDepth(self.rate)(y, train)


class Branch(nn.Module):
    """Depthwise 7×7 convolution "0", norm "2", dense "3" to four times the channels, GELU, dense "5" back."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        dense = partial(Dense, init=normal, dtype=self.dtype)
        x = Conv(channels, 7, groups=channels, bias=True, init=normal, dtype=self.dtype, name="0")(x)
        x = LayerNorm(dtype=self.dtype, name="2")(x)
        return dense(channels, name="5")(gelu(dense(4 * channels, name="3")(x)))


class Stage(nn.Module):
    """Blocks "0", "1", …, each with its rate of stochastic depth."""

    rates: tuple[float, ...]
    layer_scale: float
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i, rate in enumerate(self.rates):
            x = block(self.layer_scale, rate, self.dtype, name=str(i))(x, train)
        return x


class Stem(nn.Module):
    """Convolution "0" of 4×4 patches, norm "1"."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = Conv(self.features, 4, 4, padding=0, bias=True, init=normal, dtype=self.dtype, name="0")(x)
        return LayerNorm(dtype=self.dtype, name="1")(x)


class Downsample(nn.Module):
    """Norm "0", convolution "1" of 2×2 patches."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = LayerNorm(dtype=self.dtype, name="0")(x)
        return Conv(self.features, 2, 2, padding=0, bias=True, init=normal, dtype=self.dtype, name="1")(x)


class Features(nn.Module):
    """Stem "0", then a stage ("1", "3", "5", "7") and a downsampling in turns."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    layer_scale: float
    stochastic_depth: float
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool) -> dict[str, Any]:
        outputs = {"stem": Stem(self.widths[0], self.dtype, name="0")(x)}
        x, done, total = outputs["stem"], 0, sum(self.depths)
        for i, (blocks, features) in enumerate(zip(self.depths, self.widths)):
            if i > 0:
                x = Downsample(features, self.dtype, name=str(2 * i))(x)
            rates = tuple(self.stochastic_depth * (done + k) / max(total - 1, 1) for k in range(blocks))
            x = Stage(rates, self.layer_scale, self.remat, self.dtype, name=str(2 * i + 1))(x, train)
            outputs[f"layer{i + 1}"] = x
            done += blocks
        return outputs


class Classifier(nn.Module):
    """Norm "0", dense "2"."""

    classes: int

    @nn.compact
    def __call__(self, x):
        return Dense(self.classes, init=normal, name="2")(LayerNorm(name="0")(x))


class ConvNeXt(nn.Module):
    """Image → features by name: "stem" (stride 4), "layer1" … "layer4" (strides 4 … 32), "pool", perhaps "logits"."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    layer_scale: float = 1e-6
    stochastic_depth: float = 0.0
    classes: int | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        require_size("convnext", x, 4 * 2 ** (len(self.depths) - 1))
        arguments = (self.depths, self.widths, self.layer_scale, self.stochastic_depth, self.remat, self.dtype)
        outputs = Features(*arguments, name="features")(x, train)
        outputs["pool"] = global_pool(outputs[f"layer{len(self.depths)}"])
        if self.classes is not None:
            outputs["logits"] = Classifier(self.classes, name="classifier")(outputs["pool"])
        return outputs


def make(
    *,
    variant: str = "tiny",
    depths: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    layer_scale: float = 1e-6,
    stochastic_depth: float | None = None,
    classes: int | None = None,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a ConvNeXt: images (b h w 3, normalised; any size from 32) → features by name, and "logits" (b classes).

    Args:
      variant: "tiny", "small", "base" or "large".
      depths: blocks of its stages, if others.
      widths: channels of its stages, if others.
      layer_scale: what the scale of each branch begins with.
      stochastic_depth: rate of the last block, with a linear ramp from 0 at the first (None: the variant's, 0.1, 0.4,
        0.5 or 0.5).
      classes: of "logits"; without there is no classifier.
      remat: recompute blocks in the backward pass to save memory.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Raises:
      UserError: no such variant, or another number of depths than of widths.

    Example:
      >>> from mapjax.models.backbones import convnext
      >>> convnext.make(variant="tiny", classes=10).levels
      {'stem': 4, 'layer1': 4, 'layer2': 8, 'layer3': 16, 'layer4': 32}
    """
    if variant not in VARIANTS:
        raise UserError(f"convnext has no variant={variant!r}.{near(variant, VARIANTS)}")
    usual_depths, usual_widths, usual_rate = VARIANTS[variant]
    depths, widths = tuple(depths or usual_depths), tuple(widths or usual_widths)
    if len(depths) != len(widths):
        raise UserError(f"convnext: give as many depths as widths, a pair for each stage; found {depths} and {widths}.")
    module = ConvNeXt(
        depths=depths,
        widths=widths,
        layer_scale=layer_scale,
        stochastic_depth=usual_rate if stochastic_depth is None else stochastic_depth,
        classes=classes,
        remat=remat,
        dtype=jnp.dtype(dtype),
    )
    levels = {"stem": 4, **{f"layer{i + 1}": 4 * 2**i for i in range(len(depths))}}
    return model_of(module, levels=levels, heads=HEADS, rules=RULES)
