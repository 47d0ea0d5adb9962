"""CifarNet for images of about 32×32 (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", arXiv:2404.00498).

Three blocks of two convolutions behind a stem that is not learned: the Haar transform of 2×2 patches in opponent
colours, which for photos is all but their principal components, each brought to unit variance (the paper takes the
components of the training set themselves). The last convolutions start as the identity.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mapjax.models.layers import Conv, Dense, Norm, model_of, torch_default
from mapjax.ops import convolution
from mapjax.task import Model

_HAAR = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])  # light, red–blue, green–purple


def whitening_kernel() -> np.ndarray:
    """The 12 orthonormal filters of the stem (2 2 3 12)."""
    return np.einsum("ai,bj,ck->ijkabc", _HAAR, _HAAR, _OPPONENT).reshape(2, 2, 3, 12).astype(np.float32)


def partial_identity(key, shape, dtype=jnp.float32):
    """Let the first outputs of a convolution be its inputs; the others start as torch starts them."""
    rows, columns, inputs, outputs = shape
    kernel = torch_default(key, shape, dtype)
    same = min(inputs, outputs)
    identity = jnp.zeros((rows, columns, inputs, same), dtype)
    identity = identity.at[rows // 2, columns // 2, jnp.arange(same), jnp.arange(same)].set(1)
    return jax.lax.dynamic_update_slice(kernel, identity, (0, 0, 0, 0))


class Stem(nn.Module):
    """Whitened 2×2 patches and their negatives: (b h w 3) → (b h-1 w-1 24), and an offset that is learned."""

    momentum: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        kernel = jnp.asarray(whitening_kernel(), self.dtype)
        x = convolution.conv(jnp.asarray(x, self.dtype), kernel, padding=0)
        x = Norm(momentum=self.momentum, scale=False, bias=False, dtype=self.dtype, name="norm")(x, train)
        bias = self.param("bias", nn.initializers.zeros, (24,), jnp.float32)
        return jnp.concatenate([x, -x], -1) + bias.astype(self.dtype)


class Block(nn.Module):
    """Two convolutions with batch norm (no scale) and GELU, a 2×2 maximum after the first."""

    features: int
    momentum: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        for k in (1, 2):
            x = Conv(self.features, init=partial_identity, dtype=self.dtype, name=f"conv{k}")(x)
            if k == 1:
                x = convolution.max_pool(x, 2, 2, 0)
            x = Norm(momentum=self.momentum, scale=False, dtype=self.dtype, name=f"norm{k}")(x, train)
            x = nn.gelu(x)
        return x


class CifarNet(nn.Module):
    """Image → features by name: "stem", "layer1" to "layer3" (strides 1, 2, 4, 8), "pool", perhaps "logits"."""

    widths: tuple[int, int, int]
    momentum: float
    logit_scale: float
    classes: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.gelu(Stem(self.momentum, self.dtype, name="stem")(x, train))
        outputs = {"stem": x}
        for i, width in enumerate(self.widths, 1):
            outputs[f"layer{i}"] = x = Block(width, self.momentum, self.dtype, name=f"layer{i}")(x, train)
        outputs["pool"] = x.max((1, 2)).astype(jnp.float32)
        if self.classes is not None:
            outputs["logits"] = Dense(self.classes, bias=False, name="fc")(outputs["pool"]) * self.logit_scale
        return outputs


def make(
    *,
    widths: tuple[int, int, int] = (64, 256, 256),
    momentum: float = 0.1,
    logit_scale: float = 1 / 9,
    classes: int | None = None,
    dtype: str = "float32",
) -> Model:
    """Make a CifarNet: images (b h w 3, normalised; any size from 10) → features by name, and "logits" (b classes).

    Args:
      widths: channels of the three blocks.
      momentum: of the running statistics.
      logit_scale: a constant factor.
      classes: of "logits"; without there is no classifier.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Example:
      >>> from mapjax.models.backbones import cifarnet
      >>> cifarnet.make(classes=10).levels
      {'stem': 1, 'layer1': 2, 'layer2': 4, 'layer3': 8}
    """
    first, second, third = widths
    module = CifarNet((first, second, third), momentum, logit_scale, classes, jnp.dtype(dtype))
    return model_of(module, levels={"stem": 1, "layer1": 2, "layer2": 4, "layer3": 8}, heads=("^fc/",))
