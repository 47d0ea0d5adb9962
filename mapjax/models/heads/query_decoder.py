"""A decoder whose queries read maps at a few learned places and refine a box each (Zhu et al. 2020; Zhao et al. 2023).

The places are those of RT-DETRv2 (Lv et al. 2024): offsets are in the query's box, halved, a share for each point.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mapjax.models.attention import EPSILON, MLP, Attention, FeedForward, xavier_uniform
from mapjax.models.layers import Dense, Dropout, LayerNorm
from mapjax.ops import deformable

PRIOR = 0.01  # the score of each class before training (Lin et al. 2017)
OFFSET_SCALE = 0.5
zeros = nn.initializers.zeros


def class_head(classes: int, name: str, dtype: Any) -> Dense:
    """Scores of classes, which begin at PRIOR."""
    bias = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
    return Dense(classes, init=xavier_uniform, bias_init=bias, dtype=dtype, name=name)


def inverse_sigmoid(x: Float[Array, "*n"], epsilon: float = 1e-5) -> Float[Array, "*n"]:
    """Logit of a share, which is kept off 0 and 1."""
    x = jnp.clip(x, 0, 1)
    return jnp.log(jnp.maximum(x, epsilon) / jnp.maximum(1 - x, epsilon))


class DeformableAttention(nn.Module):
    """Queries (b q d) with their boxes (b q 4; shares) and maps (b h w d) → what they read (b q d).

    points: places that a query's head reads in each map.
    form: of ops/deformable.py.
    """

    heads: int
    points: int
    form: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, boxes, maps: Sequence[Any]):
        width, levels = x.shape[-1], len(maps)
        shape = (*x.shape[:2], self.heads, levels, self.points)
        dense = {"init": zeros, "dtype": self.dtype}
        count = self.heads * levels * self.points
        offsets = Dense(2 * count, bias_init=self._directions, name="sampling_offsets", **dense)(x)
        weights = Dense(count, name="attention_weights", **dense)(x).astype(jnp.float32)
        weights = nn.softmax(weights.reshape(*shape[:3], -1)).reshape(shape)
        offsets = offsets.astype(jnp.float32).reshape(*shape, 2) * (OFFSET_SCALE / self.points)
        boxes = boxes[:, :, None, None, None]
        value = Dense(width, init=xavier_uniform, dtype=self.dtype, name="value_proj")
        values = [value(one).reshape(*one.shape[:3], self.heads, -1) for one in maps]
        read = deformable.sample(values, boxes[..., :2] + offsets * boxes[..., 2:], weights, self.form)
        return Dense(width, init=xavier_uniform, dtype=self.dtype, name="output_proj")(read.reshape(x.shape))

    def _directions(self, key, shape, dtype):
        """Offsets in which heads begin: each looks in a direction of its own, its points ever further."""
        del key
        angle = 2 * np.pi * np.arange(self.heads) / self.heads
        ways = np.stack([np.cos(angle), np.sin(angle)], -1)
        ways /= np.abs(ways).max(-1, keepdims=True)
        steps = np.arange(1, self.points + 1)[:, None]
        levels = shape[0] // (2 * self.heads * self.points)
        return jnp.asarray(np.tile((ways[:, None, None] * steps), (1, levels, 1, 1)).reshape(shape), dtype)


class DecoderLayer(nn.Module):
    """Queries see each other, then the maps."""

    heads: int
    hidden: int
    points: int
    form: str
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, embeddings, boxes, maps, mask, train: bool):
        placed = x + embeddings
        y = Attention(self.heads, self.dtype, name="self_attn")(placed, placed, x, mask)
        x = LayerNorm(EPSILON, self.dtype, name="self_attn_layer_norm")(x + Dropout(self.dropout)(y, train))
        attention = DeformableAttention(self.heads, self.points, self.form, self.dtype, name="encoder_attn")
        y = attention(x + embeddings, boxes, maps)
        x = LayerNorm(EPSILON, self.dtype, name="encoder_attn_layer_norm")(x + Dropout(self.dropout)(y, train))
        return FeedForward(self.hidden, nn.relu, self.dropout, self.dtype, name="mlp")(x, train)


class Decoder(nn.Module):
    """Queries (b q d), the boxes they begin with (b q 4; shares) and maps → scores and boxes of every layer (b l q _).

    mask: (b 1 q q) or None: which queries one may see.
    """

    classes: int
    depth: int
    layer: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, boxes, maps, mask, train: bool):
        width, dtype = x.shape[-1], self.layer["dtype"]
        place = MLP((2 * width, width), dtype=dtype, name="query_pos_head")
        logits, found = [], []
        for i in range(self.depth):
            boxes = jax.lax.stop_gradient(boxes)
            x = DecoderLayer(**self.layer, name=str(i))(x, place(boxes), boxes, maps, mask, train)
            change = MLP((width, width, 4), last=zeros, dtype=dtype, name=f"bbox_embed{i}")(x).astype(jnp.float32)
            boxes = nn.sigmoid(change + inverse_sigmoid(boxes))
            found.append(boxes)
            logits.append(class_head(self.classes, f"class_embed{i}", dtype)(x).astype(jnp.float32))
        return jnp.stack(logits, 1), jnp.stack(found, 1)
