"""DETR (Carion et al. 2020): an encoder over a backbone's last map, a decoder over learned queries, a box a query.

Names of parameters are those of the published files in transformers' form, by `mapjax.weights.huggingface`.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mapjax.errors import UserError
from mapjax.models.attention import EPSILON, MLP, RULES, Attention, EncoderLayer, FeedForward, sine_positions
from mapjax.models.compose import by_stride, heads_below, make_backbone
from mapjax.models.layers import Conv, Dense, Dropout, LayerNorm, module_of, run, torch_default, variables_of
from mapjax.sharding import tensor
from mapjax.task import Model

HEADS = ("^class_embed/",)


class Encoder(nn.Module):
    """Layers "0", "1", …: tokens, their positions and mask → tokens."""

    depth: int
    layer: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, positions, mask, train: bool):
        for i in range(self.depth):
            x = EncoderLayer(**self.layer, name=str(i))(x, positions, mask, train)
        return x


class DecoderLayer(nn.Module):
    """Queries (b q d) see each other, then the tokens (b s d)."""

    heads: int
    hidden: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, embeddings, tokens, positions, mask, train: bool):
        placed = x + embeddings
        y = Attention(self.heads, self.dtype, name="self_attn")(placed, placed, x)
        x = LayerNorm(EPSILON, self.dtype, name="self_attn_layer_norm")(x + Dropout(self.dropout)(y, train))
        attention = Attention(self.heads, self.dtype, name="encoder_attn")
        y = attention(x + embeddings, tokens + positions, tokens, mask)
        x = LayerNorm(EPSILON, self.dtype, name="encoder_attn_layer_norm")(x + Dropout(self.dropout)(y, train))
        return FeedForward(self.hidden, nn.relu, self.dropout, self.dtype, name="mlp")(x, train)


class Decoder(nn.Module):
    """Layers "0", "1", …, and the one "norm" after each: the queries after every layer (b l q d)."""

    depth: int
    layer: Mapping[str, Any]

    @nn.compact
    def __call__(self, embeddings, tokens, positions, mask, train: bool):
        x, outputs = jnp.zeros_like(embeddings), []
        norm = LayerNorm(EPSILON, self.layer["dtype"], name="norm")
        for i in range(self.depth):
            x = DecoderLayer(**self.layer, name=str(i))(x, embeddings, tokens, positions, mask, train)
            outputs.append(norm(x))
        return jnp.stack(outputs, 1)


class DETR(nn.Module):
    """Images and where in them the image is without its padding → scores and boxes of queries.

    reads: name of the backbone's map.
    """

    backbone: nn.Module
    reads: str
    classes: int
    queries: int
    width: int
    depth: tuple[int, int]
    layer: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, extent, train: bool):
        features = self.backbone(images, train)
        x = features[self.reads]
        x = Conv(self.width, 1, bias=True, init=torch_default, dtype=self.dtype, name="input_projection")(x)
        rows, columns = (inside(extent, images.shape, x.shape, axis) for axis in (1, 0))
        positions = sine_positions(along(rows), along(columns), self.width, paired=True).astype(self.dtype)
        mask = (rows[:, :, None] & columns[:, None, :]).reshape(len(x), 1, 1, -1)
        tokens = Encoder(self.depth[0], self.layer, name="encoder")(
            x.reshape(len(x), -1, self.width), positions, mask, train
        )
        embeddings = self.param("query_embed", nn.initializers.normal(1.0), (self.queries, self.width), jnp.float32)
        embeddings = jnp.broadcast_to(embeddings.astype(self.dtype), (len(x), *embeddings.shape))
        states = Decoder(self.depth[1], self.layer, name="decoder")(embeddings, tokens, positions, mask, train)
        logits = Dense(self.classes + 1, dtype=self.dtype, name="class_embed")(states).astype(jnp.float32)
        boxes = MLP((self.width, self.width, 4), dtype=self.dtype, name="bbox_embed")(states)
        boxes = nn.sigmoid(boxes.astype(jnp.float32))
        return {
            "features": features,
            "query_logits": logits[:, -1],
            "query_boxes": boxes[:, -1],
            "aux_query_logits": logits[:, :-1],
            "aux_query_boxes": boxes[:, :-1],
        }


def inside(extent: Float[Array, "b 4"], image: tuple[int, ...], grid: tuple[int, ...], axis: int) -> Array:
    """Say which columns (axis 0) or rows (1) of a map (b h w c) lie in the image, by the pixel at their beginning."""
    length, size = grid[2 - axis], image[2 - axis]
    pixel = jnp.arange(length) * size // length + 0.5
    return (pixel > extent[:, axis, None]) & (pixel < extent[:, axis + 2, None])


def along(real: Array) -> Float[Array, "b n"]:
    """Places of rows or columns, from the first in the image to the last, which is at 2π."""
    count = jnp.cumsum(real.astype(jnp.float32), -1)
    return count / (count[:, -1:] + 1e-6) * (2 * math.pi)


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50, "norm": "frozen"},
    queries: int = 100,
    width: int = 256,
    heads: int = 8,
    hidden: int = 2048,
    encoder: int = 6,
    decoder: int = 6,
    dropout: float = 0.1,
    dtype: str = "float32",
) -> Model:
    """Make a DETR; the defaults are those of the paper's DETR-R50.

    Of images (b h w 3, normalised) it gives "query_logits" (b q c+1, no object last) and "query_boxes" (b q 4; centre
    x,y, width and height as shares of the frame), and as "aux_query_logits" (b l-1 q c+1) and "aux_query_boxes" those
    of the decoder's layers before the last. Its calls:

        queries(variables, images, extent, *, denoising, train, key) -> the same and stats, where extent (b 4) is the
            box in pixels that holds the image without its padding, which is not looked at; `denoising` must be None
        frame(shape of the images, extent) -> the box (b 4) in pixels that boxes are shares of: the extent

    Args:
      classes: without "no object".
      backbone: a node of the config that names a network with levels; the coarsest is read.
      queries: the most boxes that an image may be given.
      width: of tokens and queries, a multiple of 4 and of `heads`.
      heads: of attention.
      hidden: width of the feed-forward layers.
      encoder, decoder: layers.
      dropout: rate, in training.
      dtype: of the arithmetic; parameters, scores and boxes are float32.

    Raises:
      UserError: a backbone without maps, or options out of range.

    Example:
      >>> from mapjax.models.detectors import detr
      >>> sorted(detr.make(classes=91, backbone={"name": "resnet", "depth": 18}).calls)
      ['frame', 'queries']
    """
    least = {"queries": queries, "encoder": encoder, "decoder": decoder, "heads": heads, "hidden": hidden}
    for name, value in least.items():
        if value < 1:
            raise UserError(f"detr: {name}={value} must be 1 or more.")
    if width % 4 or width % heads:
        raise UserError(f"detr: width={width} must be a multiple of 4 and of heads={heads}.")
    node, kind = {"name": "resnet", **backbone}, jnp.dtype(dtype)
    body = make_backbone("detr", node, dtype)
    if not body.levels:
        raise UserError(f"detr: the backbone {node['name']!r} gives no maps; choose another, as dict(name='resnet').")
    layer = {"heads": heads, "hidden": hidden, "dropout": dropout, "dtype": kind}
    reads = list(by_stride(body.levels).values())[-1]
    module = DETR(module_of(body), reads, classes, queries, width, (encoder, decoder), layer, kind)
    queried = partial(_run, module)

    def apply(variables, images, *, train=False, key=None):
        return queried(variables, images, _whole(images), train=train, key=key)

    return Model(
        jax.jit(partial(_init, module)),
        apply,
        {"queries": queried, "frame": lambda shape, extent: extent},
        heads=(*heads_below("backbone", body), *HEADS),
        rules=(*tensor.below("backbone", body.rules), *tensor.below("(en|de)coder", RULES)),
    )


def _whole(images) -> Float[Array, "b 4"]:
    height, width = images.shape[1:3]
    return jnp.tile(jnp.array([0.0, 0.0, width, height]), (len(images), 1))


def _init(module: DETR, key, images):
    return variables_of(module, key, images, _whole(images), False)


def _run(module: DETR, variables, images, extent, *, denoising=None, train: bool = False, key=None):
    if denoising is not None:
        raise UserError("detr takes no queries of the truth; set task.denoising=0, or choose model.name='rt_detr'.")
    return run(module, "__call__", variables, images, extent, train=train, key=key)
