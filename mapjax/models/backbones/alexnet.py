"""AlexNet in its one-column form (Krizhevsky 2014, arXiv 1404.5997; first Krizhevsky et al. 2012)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.layers import Conv, Dense, Dropout, MapDense, adaptive_pool, model_of, require_size, torch_default
from mapjax.ops import convolution
from mapjax.sharding import tensor
from mapjax.task import Model

LEAST = 63  # smallest side of an image that leaves a pixel after the last pool
GRID = 6
LAYERS = (  # name, torchvision's index, channels, kernel, stride, pool after it
    ("conv1", "0", 64, 11, 4, "pool1"),
    ("conv2", "3", 192, 5, 1, "pool2"),
    ("conv3", "6", 384, 3, 1, None),
    ("conv4", "8", 256, 3, 1, None),
    ("conv5", "10", 256, 3, 1, "pool5"),
)


LEVELS = {"conv1": 4, "pool1": 8, "conv2": 8, "pool2": 16, "conv3": 16, "conv4": 16, "conv5": 16, "pool5": 32}
HEADS = ("^classifier/",)
RULES = (  # the two convolutions with no pool between them, and the dense layers, which hold most of the parameters
    (r"features/6/kernel$", tensor.CONV_OUT),
    (r"features/6/bias$", tensor.EACH),
    (r"features/8/kernel$", tensor.CONV_IN),
    (r"classifier/1/map_kernel$", tensor.CONV_OUT),
    (r"classifier/1/bias$", tensor.EACH),
    (r"classifier/4/kernel$", tensor.IN),
)


class Features(nn.Module):
    """The five convolutions, each with ReLU, and three pools: image → all of them by name."""

    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        outputs = {}
        for name, index, channels, kernel, stride, pool in LAYERS:
            padding = 2 if kernel > 3 else 1
            options = {"padding": padding, "bias": True, "init": torch_default, "dtype": self.dtype}
            x = nn.relu(Conv(round(channels * self.width), kernel, stride, name=index, **options)(x))
            outputs[name] = x
            if pool is not None:
                outputs[pool] = x = convolution.max_pool(x, padding=0)
        return outputs


class Classifier(nn.Module):
    """Map of 6×6 → "fc6", "fc7" (after ReLU) and "logits", with dropout before the first two layers."""

    hidden: int
    classes: int
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        x = Dropout(self.dropout)(x, train)
        fc6 = nn.relu(MapDense(self.hidden, dtype=self.dtype, name="1")(x))
        x = Dropout(self.dropout)(fc6, train)
        fc7 = nn.relu(Dense(self.hidden, dtype=self.dtype, name="4")(x))
        return {"fc6": fc6, "fc7": fc7, "logits": Dense(self.classes, dtype=jnp.float32, name="6")(fc7)}


class AlexNet(nn.Module):
    """Image → features by name, with classes "logits"; see `make`."""

    width: float = 1.0
    classes: int | None = None
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        require_size("alexnet", x, LEAST)
        outputs = Features(self.width, self.dtype, name="features")(x)
        pooled = adaptive_pool(outputs["pool5"], GRID)
        outputs["pool"] = pooled.reshape(len(x), -1).astype(jnp.float32)
        if self.classes is not None:
            hidden = round(4096 * self.width)
            classifier = Classifier(hidden, self.classes, self.dropout, self.dtype, name="classifier")
            outputs |= classifier(pooled, train)
        return outputs


def make(*, width: float = 1.0, classes: int | None = None, dropout: float = 0.5, dtype: str = "float32") -> Model:
    """Make an AlexNet: images (b h w 3, normalised, sides of 63 or more) → outputs by name.

    "conv1" … "conv5" are maps after ReLU (strides 4, 8, 16, 16, 16), "pool1", "pool2" and "pool5" after the max pools
    (strides 8, 16, 32), and "pool" (b 9216, float32) is pool5 averaged to 6×6, flattened by row, column and channel;
    with classes also "fc6" and "fc7" (b 4096, after ReLU) and "logits" (b classes, float32).

    Args:
      width: factor of all channel counts.
      dropout: before fc6 and fc7.
      dtype: of the arithmetic; parameters are float32. Kernels start as torchvision's, biases at zero.

    Example:
      >>> from mapjax.models.backbones import alexnet
      >>> levels = alexnet.make(classes=10).levels
      >>> levels["conv1"], levels["pool5"]
      (4, 32)
    """
    return model_of(AlexNet(width, classes, dropout, jnp.dtype(dtype)), levels=LEVELS, heads=HEADS, rules=RULES)
