"""The mask head of two-stage detectors (He et al. 2017, arXiv 1703.06870): pooled features → a mask within each box."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mapjax.models.heads.boxes import rules_of_convs
from mapjax.models.heads.rpn import Pointwise
from mapjax.models.layers import ConvNorm
from mapjax.ops import convolution
from mapjax.ops.resize import pixel_shuffle
from mapjax.sharding.mesh import Rules

HEAD = "mask_head"
kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # what torch calls the fan out of these


class MaskHead(nn.Module):
    """Convolutions "0", "1", … of pooled features (n p p d), each with its normalization and ReLU."""

    convs: int
    channels: int
    norm: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        for i in range(self.convs):
            options = {"norm": self.norm, "activation": nn.relu, "dtype": self.dtype}
            x = ConvNorm(self.channels, name=str(i), **options)(x, train)
        return x


class MaskPredictor(nn.Module):
    """Features (n p p d) and a class for each (n) → logits (n 2p 2p) of the mask of that class.

    There is a mask for background too, as in torchvision, and nothing asks for it.
    """

    classes: int
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, classes):
        x = nn.relu(Doubled(self.channels, 2, shuffled=False, dtype=self.dtype, name="conv5_mask")(x))
        init = nn.initializers.normal(0.001)
        kernel, bias = Pointwise(self.classes + 1, init, name="mask_fcn_logits")(self.channels)
        # One column each: of 80 classes that is an eightieth of the products. Places are put in order when one channel
        # of each is left, and not all.
        chosen = kernel[0, 0].T[classes + 1].astype(self.dtype)
        logits = pixel_shuffle(jnp.einsum("npqfd,nd->npqf", x, chosen).astype(jnp.float32), 2)[..., 0]
        return logits + bias[classes + 1][:, None, None]


class Doubled(nn.Module):
    """Transposed convolution to twice the size: torch's ConvTranspose2d of 2×2, or of 4×4 with a padding of 1.

    shuffled: False leaves the four places that each becomes beside each other, (n h w 4 d).
    """

    features: int
    kernel: int
    shuffled: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("up_kernel", kaiming_fan_in, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        found = quartered(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)
        return pixel_shuffle(found.reshape(*x.shape[:3], -1), 2) if self.shuffled else found


def quartered(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, "n h w 4 d"]:
    """Transposed convolution of stride 2, padded by k / 2 - 1; an axis has the four places that each becomes, in rows.

    A convolution gives each place these four: where zeros are put between the places instead, three of four products
    are with zeros.

    Args:
      kernel: k is 2 or 4; (row, column) as torch has them.
    """
    size, features = kernel.shape[0], kernel.shape[3]
    reach = size // 2 - 1
    # Output 2i + a takes from input i + d the tap a - 2d + reach, where there is one.
    taps = np.arange(2) - 2 * np.arange(-reach, reach + 1)[:, None] + reach
    taps = np.where((taps >= 0) & (taps < size), taps, size)
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    chosen = padded[taps[:, None, :, None], taps[None, :, None, :]]  # (d e a b c features)
    chosen = chosen.transpose(0, 1, 4, 2, 3, 5).reshape(len(taps), len(taps), -1, 4 * features)
    return convolution.conv(x, chosen, 1).reshape(*x.shape[:3], 4, features)


def rules_of(convs: int) -> Rules:
    """How the parameters are split: each two convolutions are a pair."""
    return rules_of_convs(HEAD, range(convs))
