"""Bilinear resizing of NHWC maps, whose gradient is no scatter: that is ten times as slow on a CPU."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear(x: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b i j c"]:
    """Resize so that the corners of both maps coincide; pixels are squares with their values in the centres.

    That is torch's `interpolate` with align_corners=False. A smaller map is sampled, not averaged (no antialiasing).
    An axis that becomes exactly twice as long goes by shifts and weighted sums, any other by a matrix.

    Args:
      size: (rows, columns) wanted.
    """
    for axis, wanted in zip((1, 2), size):
        length = x.shape[axis]
        if wanted == 2 * length:
            x = _doubled(x, axis)
        elif wanted != length:
            weights = jnp.asarray(_weights(length, wanted), x.dtype)
            subscripts = "pi,bijc->bpjc" if axis == 1 else "pj,bijc->bipc"
            x = jnp.einsum(subscripts, weights, x, precision=jax.lax.Precision.HIGHEST)
    return x


def _doubled(x, axis: int):
    """Between two neighbours lie two new places, a quarter from either; beyond the ends the last value goes on."""
    length = x.shape[axis]
    cut = jax.lax.slice_in_dim
    before = jnp.concatenate([cut(x, 0, 1, axis=axis), cut(x, 0, length - 1, axis=axis)], axis)
    after = jnp.concatenate([cut(x, 1, length, axis=axis), cut(x, length - 1, length, axis=axis)], axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * length, *x.shape[axis + 1 :])


def _weights(length: int, size: int) -> np.ndarray:
    """Matrix (size length) with two weights a row, or one."""
    places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(length)), 0)
