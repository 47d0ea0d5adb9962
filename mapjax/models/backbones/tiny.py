"""A tiny convolutional network for 8×8 digits: four 3×3 convolutions with batch norm and a mean over the map."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.layers import ConvNorm, Dense, Dropout, global_pool, model_of
from mapjax.ops import convolution
from mapjax.task import Model


class Tiny(nn.Module):
    """Image → features by name: "layer1" and "layer2" (strides 1 and 2), "pool", perhaps "logits"."""

    width: int
    dropout: float
    classes: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        outputs = {}
        for i, features in enumerate((self.width, 2 * self.width)):
            if i > 0:
                x = convolution.max_pool(x, 2, 2, 0)
            for k in range(2):
                conv = ConvNorm(features, activation=nn.relu, dtype=self.dtype, name=f"conv{2 * i + k + 1}")
                x = conv(x, train)
            outputs[f"layer{i + 1}"] = x
        outputs["pool"] = global_pool(x)
        if self.classes is not None:
            hidden = Dropout(self.dropout)(outputs["pool"], train)
            outputs["logits"] = Dense(self.classes, name="fc")(hidden)
        return outputs


def make(*, width: int = 24, dropout: float = 0.0, classes: int | None = None, dtype: str = "float32") -> Model:
    """Make a tiny network: images (b h w 3, normalised; any size from 2) → features by name, and "logits" (b classes).

    Args:
      width: channels of the first two convolutions; the other two have twice as many (24: 38 thousand parameters).
      dropout: rate before the classifier.
      classes: of "logits"; without there is no classifier.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Example:
      >>> from mapjax.models.backbones import tiny
      >>> tiny.make(width=8, classes=10).levels
      {'layer1': 1, 'layer2': 2}
    """
    module = Tiny(width, dropout, classes, jnp.dtype(dtype))
    return model_of(module, levels={"layer1": 1, "layer2": 2}, heads=("^fc/",))
