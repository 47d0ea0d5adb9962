"""Layers of transformers over maps and queries, normalized after each branch (Vaswani et al. 2017; Carion et al. 2020).

Positions are added to queries and keys, not to values.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.models.layers import Dense, Dropout, LayerNorm
from mapjax.sharding import tensor

EPSILON = 1e-5  # of layer normalization
RULES = (  # how the parameters of a layer are split: by heads and by the hidden layer
    (r"[qkv]_proj/kernel$", tensor.OUT),
    (r"[qkv]_proj/bias$", tensor.EACH),
    (r"out_proj/kernel$", tensor.IN),
    (r"fc1/kernel$", tensor.OUT),
    (r"fc1/bias$", tensor.EACH),
    (r"fc2/kernel$", tensor.IN),
)
xavier_uniform = nn.initializers.xavier_uniform()


class Attention(nn.Module):
    """Queries (b q d), keys and values (b k d) → (b q d).

    mask: (b 1 q k), or what broadcasts to it: which keys a query may see.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query, key, value, mask=None):
        width = query.shape[-1]

        def project(x, name):
            x = Dense(width, init=xavier_uniform, dtype=self.dtype, name=name)(x)
            return x.reshape(*x.shape[:2], self.heads, -1)

        query, key, value = project(query, "q_proj"), project(key, "k_proj"), project(value, "v_proj")
        y = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return Dense(width, init=xavier_uniform, dtype=self.dtype, name="out_proj")(y.reshape(*y.shape[:2], width))


class FeedForward(nn.Module):
    """Two dense layers "fc1" and "fc2", the result added to the input and normalized by "final_layer_norm"."""

    hidden: int
    activation: Callable[..., Any]
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        width = x.shape[-1]
        y = self.activation(Dense(self.hidden, init=xavier_uniform, dtype=self.dtype, name="fc1")(x))
        y = Dense(width, init=xavier_uniform, dtype=self.dtype, name="fc2")(y)
        x += Dropout(self.dropout)(y, train)
        return LayerNorm(EPSILON, self.dtype, name="final_layer_norm")(x)


class EncoderLayer(nn.Module):
    """Tokens (b s d) and their positions → tokens: "self_attn" and then "mlp"."""

    heads: int
    hidden: int
    activation: Callable[..., Any] = nn.relu
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, positions, mask, train: bool):
        placed = x + positions
        y = Attention(self.heads, self.dtype, name="self_attn")(placed, placed, x, mask)
        x = LayerNorm(EPSILON, self.dtype, name="self_attn_layer_norm")(x + Dropout(self.dropout)(y, train))
        return FeedForward(self.hidden, self.activation, self.dropout, self.dtype, name="mlp")(x, train)


class MLP(nn.Module):
    """Dense layers "0", "1", … of some widths, with ReLU between them.

    last: how the last kernel is initialised.
    """

    widths: Sequence[int]
    last: Callable[..., Any] = xavier_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            final = i == len(self.widths) - 1
            x = Dense(width, init=self.last if final else xavier_uniform, dtype=self.dtype, name=str(i))(x)
            x = x if final else nn.relu(x)
        return x


def sine_positions(
    rows: Float[Array, "*b h"], columns: Float[Array, "*b w"], width: int, *, paired: bool
) -> Float[Array, "*b s d"]:
    """Position embeddings of a grid by sines and cosines of its rows' and columns' places, s = h·w, rows first.

    Args:
      width: d, a multiple of 4.
      paired: sine and cosine of one frequency stand side by side; else all sines come first.
    """
    share = 2 * jnp.arange(width // 4) / (width // 2) if paired else jnp.arange(width // 4) / (width // 4)
    frequencies = jnp.exp(-math.log(10000.0) * share.astype(jnp.float32))

    def encode(places):
        angles = places[..., None] * frequencies
        both = [jnp.sin(angles), jnp.cos(angles)]
        joined = jnp.stack(both, -1) if paired else jnp.stack(both, -2)
        return joined.reshape(*places.shape, width // 2)

    down, along = encode(rows)[..., :, None, :], encode(columns)[..., None, :, :]
    shape = (*rows.shape, columns.shape[-1], width // 2)
    grid = jnp.concatenate([jnp.broadcast_to(down, shape), jnp.broadcast_to(along, shape)], -1)
    return grid.reshape(*rows.shape[:-1], -1, width)
