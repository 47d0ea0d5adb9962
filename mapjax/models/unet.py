"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597), with its own encoder or any backbone as one.

Unlike the paper's, convolutions are padded and normalized, and a map grows by bilinear interpolation; the 1×1
convolution before it reduces the channels as the paper's up-convolution does, where it costs a quarter.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.backbone import levels, make_backbone, on_backbone
from mapjax.models.layers import Conv, ConvNorm, Dropout, model_of
from mapjax.ops import tiles
from mapjax.ops.resize import bilinear
from mapjax.task import Model

DEPTH = 4
WIDTH = 32  # with its own encoder
WIDTH_ON_BACKBONE = 16  # 32 channels at stride 2
NORMS = ("batch", "group", "none")


class DoubleConv(nn.Module):
    """Two convolutions 3×3, each with normalization and ReLU."""

    features: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        for name in ("conv1", "conv2"):
            x = ConvNorm(self.features, norm=self.norm, activation=nn.relu, dtype=self.dtype, name=name)(x, train)
        return x


class Encoder(nn.Module):
    """Picture → "level0", "level1", …: strides 1, 2, …; sides are halved and rounded up."""

    widths: tuple[int, ...]
    norm: str
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool = False):
        outputs = {}
        for i, width in enumerate(self.widths):
            if i > 0:
                x, _ = tiles.max_pool_all(x)
            outputs[f"level{i}"] = x = _double(self.remat)(width, self.norm, self.dtype, name=f"level{i}")(x, train)
        return outputs


class Decoder(nn.Module):
    """Features by name → "map_logits" (b i j classes, float32) at the resolution of the first of `names`.

    names: of the maps, finest first. widths: channels at each of them but the last. supervised: in training the other
    levels give "aux{i}_map_logits" too.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    classes: int
    norm: str
    dropout: float
    supervised: bool
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, features: Mapping[str, Any], train: bool = False):
        outputs = {}
        x = Dropout(self.dropout)(features[self.names[-1]], train)
        for i in reversed(range(len(self.widths))):
            skip, width = features[self.names[i]], self.widths[i]
            x = Conv(width, 1, bias=True, dtype=self.dtype, name=f"up{i}")(x)
            x = jnp.concatenate([skip, grow(x, skip.shape[1:3])], -1)
            x = _double(self.remat)(width, self.norm, self.dtype, name=f"decoder{i}")(x, train)
            if self.supervised and i > 0:
                logits = Conv(self.classes, 1, bias=True, dtype=jnp.float32, name=f"head{i}")(x)
                outputs |= {f"aux{i}_map_logits": logits} if train else {}
        return {"map_logits": Conv(self.classes, 1, bias=True, dtype=jnp.float32, name="head")(x), **outputs}


def grow(x, size: tuple[int, int]):
    """Bilinear to (rows, columns); of a map that was halved and rounded up, the part that is the picture's.

    To double and cut keeps every pixel over the window it came from, and has the faster form.
    """
    doubled = tuple(2 * small if wanted == 2 * small - 1 else wanted for small, wanted in zip(x.shape[1:3], size))
    return bilinear(x, (doubled[0], doubled[1]))[:, : size[0], : size[1]]


def _double(remat: bool) -> Any:
    return nn.remat(DoubleConv, static_argnums=(2,)) if remat else DoubleConv


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] | None = None,
    depth: int | None = None,
    width: int | None = None,
    widest: int = 512,
    norm: str = "batch",
    dropout: float = 0.0,
    supervised: bool = False,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a U-Net: images (b h w 3, normalised, of any size) → "map_logits" (b i j classes, float32).

    They are as large as the picture, or as the finest map of the backbone (stride 2 or 4 for most); the maps of the
    encoder are given by name too, "level0" … of its own one.

    Args:
      backbone: None, or a node of the config that names a network with maps of several strides; the last map of
        each stride is read, whatever the network. Published weights of it fit in.
      depth: how often its own encoder halves the picture; None is 4. A backbone has its own.
      width: channels at stride 1, doubled with each halving up to `widest`; None is 32, on a backbone 16.
      norm: "batch", "group" or "none", of the decoder and its own encoder. dropout: on the coarsest map.
      supervised: train scores of every level of the decoder, as auxiliary ones (deep supervision: Lee et al. 2015).
      remat: recompute levels in the backward pass to save memory. dtype: of the arithmetic; parameters and logits
        are float32.

    Raises:
      UserError: an unknown norm, a depth beside a backbone, or a backbone whose maps have one stride only.
    """
    if norm not in NORMS:
        raise UserError(f"unet has no norm={norm!r}.{near(norm, NORMS)}")
    if backbone is None:
        depth = DEPTH if depth is None else depth
        if depth < 1:
            raise UserError(f"unet: depth={depth} must be 1 or more.")
        widths = _widths(width or WIDTH, [2**i for i in range(depth + 1)], widest)
        encoder = model_of(Encoder(widths, norm, remat, jnp.dtype(dtype)))
        names = tuple(f"level{i}" for i in range(depth + 1))
    else:
        if depth is not None:
            raise UserError(f"unet: depth={depth} is of its own encoder; the backbone has its own: leave depth out.")
        encoder = make_backbone("unet", backbone, dtype)
        found = levels(encoder)
        if len(found) < 2:
            raise UserError(f"unet: all maps of the backbone {backbone['name']!r} have one stride; choose another.")
        names = tuple(level.name for level in found)
        widths = _widths(width or WIDTH_ON_BACKBONE, [level.stride for level in found], widest)
    return on_backbone(
        encoder, Decoder(names, widths[:-1], classes, norm, dropout, supervised, remat, jnp.dtype(dtype))
    )


def _widths(width: int, strides: list[int], widest: int) -> tuple[int, ...]:
    return tuple(min(width * stride, widest) for stride in strides)
