"""Images on the device."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's images, RGB, 0 to 1
STD = (0.229, 0.224, 0.225)


def normalize(
    image: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
    mean: Sequence[float | int] = MEAN,
    std: Sequence[float | int] = STD,
) -> Float[Array, "b h w 3"]:
    """Images 0 to 255 → float32 with `mean` at 0 and the standard deviation `std` 1 (both of 0 to 1, RGB)."""
    scale = 1 / (255 * np.asarray(std, np.float32))
    return image.astype(jnp.float32) * scale - np.asarray(mean, np.float32) / np.asarray(std, np.float32)


def normalized(image: Array, normalize: Callable[[Array], Array]) -> Float[Array, "b h w 3"]:
    """Give images that are uint8 normalised, and those that are floats, which have been, as they are."""
    return normalize(image) if image.dtype == jnp.uint8 else image
