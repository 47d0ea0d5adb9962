"""ResNet-9 for images of about 32×32 (Page 2018, "How to train your ResNet"): eight convolutions, a dense layer."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.layers import Activation, ConvNorm, Dense, model_of, torch_default
from mapjax.ops import convolution
from mapjax.sharding import tensor
from mapjax.task import Model

LEVELS = {"stem": 1, "layer1": 2, "layer2": 4, "layer3": 8}
HEADS = ("^fc/",)
RULES = (
    (r"residual\d/0/0/kernel$", tensor.CONV_OUT),
    (r"residual\d/0/1/", tensor.EACH),
    (r"residual\d/1/0/kernel$", tensor.CONV_IN),
)
ACTIVATIONS = {
    "relu": nn.relu,
    "celu": partial(nn.celu, alpha=0.075),  # as Page has it
    "gelu": partial(nn.gelu, approximate=False),
}


class Residual(nn.Module):
    """The input plus two convolutions "0" and "1" of it."""

    activation: Activation
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"activation": self.activation, "init": torch_default, "dtype": self.dtype}
        y = ConvNorm(x.shape[-1], name="0", **options)(x, train)
        return x + ConvNorm(x.shape[-1], name="1", **options)(y, train)


class ResNet9(nn.Module):
    """Image → features by name: "stem", "layer1" to "layer3" (strides 1, 2, 4, 8), "pool", perhaps "logits"."""

    width: int
    activation: Activation
    logit_scale: float
    classes: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        options = {"activation": self.activation, "init": torch_default, "dtype": self.dtype}
        outputs = {"stem": ConvNorm(self.width, name="stem", **options)(x, train)}
        x = outputs["stem"]
        for i in (1, 2, 3):
            x = ConvNorm(self.width * 2**i, name=f"layer{i}", **options)(x, train)
            x = convolution.max_pool(x, 2, 2, 0)
            if i != 2:
                x = Residual(self.activation, self.dtype, name=f"residual{i}")(x, train)
            outputs[f"layer{i}"] = x
        outputs["pool"] = x.max((1, 2)).astype(jnp.float32)
        if self.classes is not None:
            outputs["logits"] = Dense(self.classes, name="fc")(outputs["pool"]) * self.logit_scale
        return outputs


def make(
    *,
    width: int = 32,
    activation: str = "relu",
    logit_scale: float = 1.0,
    classes: int | None = None,
    dtype: str = "float32",
) -> Model:
    """Make a ResNet-9: images (b h w 3, normalised; any size from 8) → features by name, and "logits" (b classes).

    Args:
      width: channels of the stem, doubled by each of three layers; Page's is 64.
      activation: "relu", "celu" (α = 0.075) or "gelu".
      logit_scale: a constant factor of the logits; Page's is 0.125.
      classes: of "logits"; without there is no classifier.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Raises:
      UserError: no such activation.

    Example:
      >>> from mapjax.models.backbones import resnet9
      >>> resnet9.make(classes=10).levels
      {'stem': 1, 'layer1': 2, 'layer2': 4, 'layer3': 8}
    """
    if activation not in ACTIVATIONS:
        raise UserError(f"resnet9 has no activation={activation!r}.{near(activation, ACTIVATIONS)}")
    module = ResNet9(width, ACTIVATIONS[activation], logit_scale, classes, jnp.dtype(dtype))
    return model_of(module, levels=LEVELS, heads=HEADS, rules=RULES)
