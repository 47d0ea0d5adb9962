"""A network of your own: patches, then blocks that mix places and channels (ConvMixer, Trockman & Kolter 2022).

--config.model="{'name': 'examples.network', 'width': 32, 'depth': 4}"
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax import Model


class Mixer(nn.Module):
    """Images (b h w 3) → features by name: "layer1" (b i j width), "pool" (b width), perhaps "logits" (b classes)."""

    width: int
    depth: int
    patch: int
    classes: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x):
        side = (self.patch, self.patch)
        x = nn.gelu(nn.Conv(self.width, side, side, dtype=self.dtype, name="patches")(x))
        for number in range(self.depth):
            places = nn.Conv(
                self.width, (3, 3), feature_group_count=self.width, dtype=self.dtype, name=f"places{number}"
            )
            channels = nn.Conv(self.width, (1, 1), dtype=self.dtype, name=f"channels{number}")
            x = nn.LayerNorm(dtype=self.dtype, name=f"norm{number}")(x + nn.gelu(places(x)))
            x = nn.gelu(channels(x))
        outputs = {"layer1": x, "pool": x.mean((1, 2)).astype(jnp.float32)}
        if self.classes is not None:
            outputs["logits"] = nn.Dense(self.classes, name="fc")(outputs["pool"])
        return outputs


def make(
    *, width: int = 32, depth: int = 4, patch: int = 2, classes: int | None = None, dtype: str = "float32"
) -> Model:
    """Make the network.

    Args:
      width: channels.
      depth: blocks.
      patch: side of a patch in pixels, and the stride of the features.
      classes: given by the program; without them there are no logits.
      dtype: of the arithmetic; parameters are float32.
    """
    module = Mixer(width, depth, patch, classes, jnp.dtype(dtype))

    def init(key, images):
        return {"params": module.init(key, images)["params"], "stats": {}}

    def apply(variables, images, *, train, key):
        del train, key  # no batch norm, no dropout: stats are as they were
        return module.apply({"params": variables["params"]}, images), variables["stats"]

    return Model(init, apply, levels={"layer1": patch}, heads=("^fc/",))
