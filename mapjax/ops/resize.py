"""Resizing of NHWC maps, whose gradient is no scatter (that is ten times as slow on a CPU), and of embeddings."""

import math
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


def pixel_shuffle(x: Float[Array, "b h w _"], factor: int) -> Float[Array, "b _ _ c"]:
    """Give the channels (factor factor c) of each place to the factor² places it becomes (Shi et al. 2016)."""
    batch, rows, columns, channels = x.shape
    parts = x.reshape(batch, rows, columns, factor, factor, channels // factor**2)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * factor, columns * factor, -1)


def resize_positions(
    embedding: Float[Array, "1 s d"], positions: tuple[int, int], grid: tuple[int, int]
) -> Float[Array, "1 t d"]:
    """Position embeddings of a class token and a grid of patches, for another grid: bicubic, corners on corners.

    Args:
      embedding: s = 1 + rows*columns of `positions`.
      grid: rows and columns wanted, t = 1 + rows*columns.
    """
    if positions == grid:
        return embedding
    rows, columns = (jnp.asarray(_cubic(*lengths), embedding.dtype) for lengths in zip(positions, grid))
    patches = embedding[0, 1:].reshape(*positions, -1)
    patches = jnp.einsum("pi,qj,ijd->pqd", rows, columns, patches)
    return jnp.concatenate([embedding[:, :1], patches.reshape(1, -1, embedding.shape[-1])], 1)


def _cubic(length: int, size: int, a: float = -0.75) -> np.ndarray:
    """Matrix (size length) of cubic convolution (Keys 1981) with torch's a; beyond the ends the last value goes on."""
    places = np.linspace(0, length - 1, size) if size > 1 else np.zeros(1)
    matrix = np.zeros((size, length))
    for row, place in zip(matrix, places):
        for k in range(math.floor(place) - 1, math.floor(place) + 3):
            d = abs(place - k)
            inner, outer = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
            row[min(max(k, 0), length - 1)] += inner if d <= 1 else outer if d < 2 else 0
    return matrix
