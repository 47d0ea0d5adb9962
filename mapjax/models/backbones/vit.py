"""Vision Transformer (Dosovitskiy et al. 2020): an image as a sequence of patches; "small" is DeiT-S's size.

The projections of attention have the heads in their last axis (of `in_proj_kernel`, 3×outputs) and in their first (of
`out_proj`), so that splitting those axes over a mesh gives each device whole heads.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from mapjax.errors import UserError, near
from mapjax.models.layers import Conv, Dense, Dropout, LayerNorm, StochasticDepth, model_of
from mapjax.ops.resize import resize_positions
from mapjax.sharding import mesh, pipeline, tensor
from mapjax.task import Model

VARIANTS = {  # width, depth, heads, width of the MLP
    "small": (384, 12, 6, 1536),  # Touvron et al. 2021
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "huge": (1280, 32, 16, 5120),
}
HEADS = ("^heads/",)
LAYER = (  # how the parameters of a layer are split: by heads and by the hidden layer
    (r"self_attention/in_proj_kernel$", P(None, None, "model")),
    (r"self_attention/in_proj_bias$", P(None, "model")),
    (r"self_attention/out_proj/kernel$", tensor.IN),
    (r"mlp/0/kernel$", tensor.OUT),
    (r"mlp/0/bias$", tensor.EACH),
    (r"mlp/3/kernel$", tensor.IN),
)
xavier_uniform = nn.initializers.xavier_uniform()
scaled_normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
gelu = partial(nn.gelu, approximate=False)


class SelfAttention(nn.Module):
    """Tokens (b s d) → attended tokens (b s d), and its weights (b heads s s, float32) if asked for."""

    heads: int
    dropout: float
    weights: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        width = x.shape[-1]

        def init(key, shape, dtype):
            return xavier_uniform(key, (shape[0], math.prod(shape[1:])), dtype).reshape(shape)

        kernel = self.param("in_proj_kernel", init, (width, 3, width), jnp.float32)
        bias = self.param("in_proj_bias", nn.initializers.zeros, (3, width), jnp.float32)
        projected = jnp.einsum("bsi,ipo->bspo", x.astype(self.dtype), kernel.astype(self.dtype))
        projected += bias.astype(self.dtype)
        split = projected.reshape(*projected.shape[:3], self.heads, -1)
        query, key, value = split[:, :, 0], split[:, :, 1], split[:, :, 2]
        weights = None
        if self.weights or (train and self.dropout > 0):
            weights = attention_weights(query, key)
            kept = Dropout(self.dropout)(weights, train).astype(self.dtype)
            y = jnp.einsum("bhst,bthd->bshd", kept, value)
        else:
            y = jax.nn.dot_product_attention(query, key, value)
        return Dense(width, dtype=self.dtype, name="out_proj")(y.reshape(x.shape)), weights if self.weights else None


def attention_weights(query: Float[Array, "b s h d"], key: Float[Array, "b t h d"]) -> Float[Array, "b h s t"]:
    """Softmax over t of the scaled products of queries and keys, in float32 (Vaswani et al. 2017)."""
    scores = jnp.einsum("bshd,bthd->bhst", query, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores / math.sqrt(query.shape[-1]), -1)


class MLP(nn.Module):
    """Dense "0", GELU, dense "3"."""

    hidden: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        dense = partial(Dense, init=xavier_uniform, bias_init=nn.initializers.normal(1e-6), dtype=self.dtype)
        y = Dropout(self.dropout)(gelu(dense(self.hidden, name="0")(x)), train)
        return Dropout(self.dropout)(dense(x.shape[-1], name="3")(y), train)


class Layer(nn.Module):
    """Attention, then an MLP, each on normalized tokens and added to them."""

    heads: int
    mlp: int
    dropout: float
    attention_dropout: float
    weights: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool, rate: Any = 0.0):
        attention = SelfAttention(self.heads, self.attention_dropout, self.weights, self.dtype, name="self_attention")
        y, weights = attention(LayerNorm(dtype=self.dtype, name="ln_1")(x), train)
        x += StochasticDepth(rate)(Dropout(self.dropout)(y, train), train)
        y = MLP(self.mlp, self.dropout, self.dtype, name="mlp")(LayerNorm(dtype=self.dtype, name="ln_2")(x), train)
        return x + StochasticDepth(rate)(y, train), weights


class Layers(nn.Module):
    """Layers "encoder_layer_0", …: all their tokens and attention weights.

    stacked: the parameters of all layers are one array each, "stack", with the layer as the first axis: one layer is
      compiled instead of depth, and the layers can be cut over a mesh's `pipe` (then only the last tokens are given).
    """

    depth: int
    stochastic_depth: float
    remat: bool | str
    stacked: bool
    micro_batches: int
    options: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        rates = [self.stochastic_depth * i / max(self.depth - 1, 1) for i in range(self.depth)]
        if self.stacked:
            return self._run_stack(x, train, rates)
        layer = nn.remat(Layer, static_argnums=(2, 3), policy=_policy(self.remat)) if self.remat else Layer
        outputs = []
        for i, rate in enumerate(rates):
            x, weights = layer(name=f"encoder_layer_{i}", **self.options)(x, train, rate)
            outputs.append((x, weights))
        return outputs

    def _run_stack(self, x, train: bool, rates: list[float]):
        layer = Layer(**self.options, parent=None)

        def init(key):
            return jax.vmap(lambda k: layer.init(k, x[:1], False)["params"])(jax.random.split(key, self.depth))

        stack = {"params": self.param("stack", init)}
        if train and self.has_rng("dropout"):
            stack["key"] = jax.random.split(self.make_rng("dropout"), self.depth)
        if any(rates):
            stack["rate"] = jnp.asarray(rates)

        def block(one, x, number):
            rngs = {"dropout": jax.random.fold_in(one["key"], number)} if "key" in one else {}
            params = mesh.use(one["params"], LAYER)
            return layer.apply({"params": params}, x, train, one.get("rate", 0.0), rngs=rngs)[0]

        block = jax.checkpoint(block, policy=_policy(self.remat)) if self.remat else block
        # A training batch that makes a larger bubble than was asked for is refused; evaluation takes any.
        last, each = pipeline.apply(block, stack, x, micro_batches=self.micro_batches, exact=train)
        if each is None:
            return [(last, None)]
        return [(tokens, None) for tokens in each]


def _policy(remat: bool | str) -> Any:
    """What rematerialisation keeps: nothing, or the results of matrix products."""
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None


class Encoder(nn.Module):
    """Tokens (b 1+i*j d) of a grid (i, j) → what each layer makes of them, and the last normalized by "ln"."""

    positions: tuple[int, int]
    dropout: float
    layers: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, grid: tuple[int, int], train: bool):
        shape = (1, 1 + math.prod(self.positions), x.shape[-1])
        embedding = self.param("pos_embedding", nn.initializers.normal(0.02), shape, jnp.float32)
        x += resize_positions(embedding, self.positions, grid).astype(self.dtype)
        outputs = Layers(**self.layers, name="layers")(Dropout(self.dropout)(x, train), train)
        return outputs, LayerNorm(dtype=self.dtype, name="ln")(outputs[-1][0])


class Heads(nn.Module):
    """Its dense "head"."""

    classes: int

    @nn.compact
    def __call__(self, x):
        return Dense(self.classes, init=nn.initializers.zeros, name="head")(x)


class ViT(nn.Module):
    """Image → feature maps by name, all of stride `patch`: "stem", "layer1", …, "map"; "pool", perhaps "logits"."""

    patch: int
    width: int
    encoder: Mapping[str, Any]
    classes: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train: bool = False):
        height, width = images.shape[1:3]
        if min(height, width) < self.patch:
            raise UserError(f"vit: an image of {height}×{width} is smaller than one patch of {self.patch} pixels.")
        options = {"padding": 0, "bias": True, "init": scaled_normal, "dtype": self.dtype}
        stem = Conv(self.width, self.patch, self.patch, name="conv_proj", **options)(images)
        first = self.param("class_token", nn.initializers.zeros, (1, 1, self.width), jnp.float32).astype(self.dtype)
        first = jnp.broadcast_to(first, (len(stem), 1, self.width))
        tokens = jnp.concatenate([first, stem.reshape(len(stem), -1, self.width)], 1)
        encoder = Encoder(**self.encoder, dtype=self.dtype, name="encoder")
        layers, last = encoder(tokens, (stem.shape[1], stem.shape[2]), train)
        outputs = {"stem": stem}
        missing = self.encoder["layers"]["depth"] - len(layers)  # a pipeline gives its last layer only
        outputs |= {f"layer{missing + i}": x[:, 1:].reshape(stem.shape) for i, (x, _) in enumerate(layers, 1)}
        if layers[0][1] is not None:
            outputs["attention"] = jnp.stack([weights for _, weights in layers if weights is not None], 1)
        outputs |= {"map": last[:, 1:].reshape(stem.shape), "pool": last[:, 0].astype(jnp.float32)}
        if self.classes is not None:
            outputs["logits"] = Heads(self.classes, name="heads")(outputs["pool"])
        return outputs


def make(
    *,
    variant: str = "base",
    patch: int = 16,
    image_size: int | tuple[int, int] = 224,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp: int | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    attention: bool = False,
    classes: int | None = None,
    remat: bool | str = False,
    stacked: bool = False,
    micro_batches: int = 4,
    dtype: str = "float32",
) -> Model:
    """Make a ViT: images (b h w 3, normalised) → features by name, and "logits" (b classes) if `classes` is given.

    "stem" and "layer1" … are the tokens of the patches as maps (b h/patch w/patch width), rounded down; "map" is the
    last, normalized; "pool" is the normalized class token.

    Args:
      variant: "small", "base", "large" or "huge".
      patch: side of a patch in pixels (16 or 32; 14 for huge).
      image_size: of the grid of position embeddings; images of other sizes get interpolated ones.
      width: of the tokens, if another than the variant's; so are the next three.
      depth: layers.
      heads: of attention.
      mlp: width of the MLP's hidden layer.
      dropout, attention_dropout: rates.
      stochastic_depth: rate of the last layer, with a linear ramp from 0 at the first.
      attention: give "attention" too, the weights of every layer (b depth heads s s, s = 1 + patches, the class token
        first, float32): b*depth*heads*s² numbers, and no fused kernel.
      remat: recompute layers in the backward pass to save memory; "dots" keeps the results of matrix products.
      stacked: hold the parameters of all layers in one array each, as a mesh with `pipe` needs them.
      micro_batches: that a batch is cut into in such a mesh: many for a small bubble.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Raises:
      UserError: no such variant, a width that the heads do not divide, an image_size that the patch does not divide.

    Example:
      >>> from mapjax.models.backbones import vit
      >>> levels = vit.make(variant="small", classes=10).levels
      >>> len(levels), levels["map"]
      (14, 16)
    """
    if variant not in VARIANTS:
        raise UserError(f"vit has no variant={variant!r}.{near(variant, VARIANTS)}")
    sizes = zip((width, depth, heads, mlp), VARIANTS[variant])
    width, depth, heads, mlp = (usual if given is None else given for given, usual in sizes)
    if width % heads:
        raise UserError(f"vit: width={width} must be a multiple of heads={heads}.")
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if any(side % patch or side < patch for side in sides):
        raise UserError(f"vit: image_size={image_size} must be a multiple of patch={patch}.")
    layer = {
        "heads": heads,
        "mlp": mlp,
        "dropout": dropout,
        "attention_dropout": attention_dropout,
        "weights": attention,
        "dtype": jnp.dtype(dtype),
    }
    if stacked and attention:
        raise UserError("vit: attention weights are not given by stacked layers; set stacked=False or attention=False.")
    if remat not in (False, True, "dots"):
        raise UserError(f"vit: remat={remat!r} must be False, True or 'dots'.")
    layers = {
        "depth": depth,
        "stochastic_depth": stochastic_depth,
        "remat": remat,
        "stacked": stacked,
        "micro_batches": micro_batches,
        "options": layer,
    }
    encoder = {"positions": (sides[0] // patch, sides[1] // patch), "dropout": dropout, "layers": layers}
    module = ViT(patch=patch, width=width, encoder=encoder, classes=classes, dtype=jnp.dtype(dtype))
    levels = dict.fromkeys(("stem", *(f"layer{i + 1}" for i in range(depth)), "map"), patch)
    rules = (*tensor.stacked(LAYER), *LAYER) if stacked else LAYER
    return model_of(module, levels=levels, heads=HEADS, rules=rules)
