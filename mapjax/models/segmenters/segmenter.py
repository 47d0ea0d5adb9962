"""Segmenter (Strudel et al. 2021, arXiv 2105.05633): a vision transformer whose patches are told apart, each by itself
or by tokens of the classes that attend to all of them.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.backbones import vit
from mapjax.models.compose import make_backbone, on_backbone
from mapjax.models.layers import Dense, LayerNorm
from mapjax.ops.resize import bilinear
from mapjax.task import Model

DECODERS = ("linear", "mask")
PATCH = 16
HEAD_WIDTH = 64  # of attention, as in the encoder's variants
truncated = nn.initializers.truncated_normal(0.02)


class Linear(nn.Module):
    """Features → "map_logits" (b i j classes) by one dense layer "head" on every patch."""

    classes: int

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        return {"map_logits": Dense(self.classes, init=truncated, dtype=jnp.float32, name="head")(features["map"])}


class Mask(nn.Module):
    """Features → "map_logits" (b i j classes) of the mask transformer "head"."""

    classes: int
    layers: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        transformer = MaskTransformer(self.classes, self.layers, self.dropout, self.dtype, name="head")
        return {"map_logits": transformer(features["map"], train)}


class MaskTransformer(nn.Module):
    """Patches (b i j d), and a token for each class, attend to each other; a logit is how well two of them agree."""

    classes: int
    layers: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        shape, width = x.shape, x.shape[-1]
        x = Dense(width, init=truncated, dtype=self.dtype, name="proj_dec")(x.reshape(shape[0], -1, width))
        tokens = self.param("cls_emb", truncated, (self.classes, width), jnp.float32).astype(self.dtype)
        x = jnp.concatenate([x, jnp.broadcast_to(tokens, (len(x), self.classes, width))], 1)
        heads = max(width // HEAD_WIDTH, 1)
        for i in range(self.layers):
            layer = vit.Layer(heads, 4 * width, self.dropout, 0.0, dtype=self.dtype, name=f"layer{i}")
            x, _ = layer(x, train)
        x = LayerNorm(dtype=self.dtype, name="decoder_norm")(x)
        options = {"bias": False, "init": nn.initializers.normal(width**-0.5), "dtype": jnp.float32}
        patches = _unit(Dense(width, name="proj_patch", **options)(x[:, : -self.classes]))
        tokens = _unit(Dense(width, name="proj_classes", **options)(x[:, -self.classes :]))
        agreement = jnp.einsum("bpd,bcd->bpc", patches, tokens)
        logits = LayerNorm(1e-5, name="mask_norm")(agreement)
        return logits.reshape(*shape[:3], self.classes)


def _unit(x):
    """Vectors of length 1 over the last axis; a zero one stays, with a gradient."""
    return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "vit", "variant": "small"},
    decoder: str = "mask",
    layers: int = 2,
    dropout: float = 0.1,
    dtype: str = "float32",
) -> Model:
    """Make a Segmenter: images (b h w 3, normalised, of any size) → "map_logits" (b i j classes, float32).

    An image is resized to whole patches first (sides rounded up), so i and j are h and w over the patch, rounded up,
    and a map covers the image exactly. The encoder's maps are given by name too.

    Args:
      backbone: a node of the config that names "vit"; published weights of it fit in. Its position embeddings are
        those of its own image_size (224 if not given), interpolated for others.
      decoder: "mask" (a transformer with a token for each class; at least 2 classes) or "linear".
      layers, dropout: of the mask transformer.
      dtype: of the arithmetic; parameters and logits are float32.

    Raises:
      UserError: another backbone, an unknown decoder, or a mask transformer for one class.

    Example:
      >>> import jax
      >>> from mapjax.models.segmenters import segmenter
      >>> model = segmenter.make(backbone={"name": "vit", "variant": "small", "depth": 1}, decoder="linear", classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
      >>> outputs["map_logits"].shape
      (1, 2, 2, 3)
    """
    if backbone.get("name") != "vit":
        raise UserError(f"segmenter stands on the backbone 'vit', not on {backbone.get('name')!r}.")
    if decoder not in DECODERS:
        raise UserError(f"segmenter has no decoder={decoder!r}.{near(decoder, DECODERS)}")
    if decoder == "mask" and classes < 2:
        raise UserError("segmenter: decoder='mask' compares classes, so it needs 2 or more; take decoder='linear'.")
    encoder = _whole_patches(make_backbone("segmenter", backbone, dtype), backbone.get("patch", PATCH))
    head = Linear(classes) if decoder == "linear" else Mask(classes, layers, dropout, jnp.dtype(dtype))
    return on_backbone(encoder, head, heads=("^head/",), rules=vit.LAYER)


def _whole_patches(model: Model, patch: int) -> Model:
    """The network on images that are resized so that patches cover them."""

    def fit(images):
        rows, columns = (-(-side // patch) * patch for side in images.shape[1:3])
        return bilinear(jnp.asarray(images), (rows, columns))

    def init(key, images):
        return model.init(key, fit(images))

    def apply(variables, images, *, train=False, key=None):
        return model.apply(variables, fit(images), train=train, key=key)

    return model._replace(init=init, apply=apply)
