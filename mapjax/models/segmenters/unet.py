"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597), with its own encoder or any backbone as one.

Unlike the paper's, convolutions are padded and normalized, and a map grows by bilinear interpolation; the 1×1
convolution before it reduces the channels as the paper's up-convolution does, where it costs a quarter.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.compose import by_stride, make_backbone, on_backbone
from mapjax.models.layers import Conv, ConvNorm, Dropout, Init, model_of, torch_default
from mapjax.ops import pooling
from mapjax.ops.resize import bilinear, pixel_shuffle
from mapjax.sharding import tensor
from mapjax.task import Model

DEPTH = 4
WIDTH = 32  # with its own encoder
WIDTH_ON_BACKBONE = 16  # 32 channels at stride 2
NORMS = ("batch", "group", "none")
HEADS = (r"^head\d*/",)
PAIR = (  # the two convolutions of a level
    (r"conv1/0/kernel$", tensor.CONV_OUT),
    (r"conv1/0/bias$", tensor.EACH),
    (r"conv1/1/", tensor.EACH),
    (r"conv2/0/kernel$", tensor.CONV_IN),
)
ENCODER, DECODER = (tuple((rf"{level}\d/{end}", spec) for end, spec in PAIR) for level in ("level", "decoder"))


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
    """Image → "level0", "level1", …, each half as large as the one before; sides are rounded up.

    stride: of a convolution before the first level, 1 for none.
    """

    widths: tuple[int, ...]
    stride: int
    norm: str
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool = False):
        outputs = {}
        if self.stride > 1:
            options = {"stride": self.stride, "norm": self.norm, "activation": nn.relu, "dtype": self.dtype}
            x = ConvNorm(self.widths[0], 2 * self.stride + 1, name="stem", **options)(x, train)
        for i, width in enumerate(self.widths):
            if i > 0:
                x, _ = pooling.max_pool_all(x)
            outputs[f"level{i}"] = x = _double(self.remat)(width, self.norm, self.dtype, name=f"level{i}")(x, train)
        return outputs


class Decoder(nn.Module):
    """Features by name → "map_logits" (b i j classes, float32), `finer` times the resolution of the first of `names`.

    names: of the maps, finest first.
    widths: channels at each of them but the last.
    supervised: in training the other levels give "aux{i}_map_logits" too.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    classes: int
    finer: int
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
                logits = Conv(self.classes, 1, bias=True, init=torch_default, dtype=jnp.float32, name=f"head{i}")(x)
                outputs |= {f"aux{i}_map_logits": logits} if train else {}
        parts = self.classes * self.finer**2
        head = Conv(parts, 1, bias=True, init=_all_alike(self.classes), dtype=jnp.float32, name="head")
        return {"map_logits": pixel_shuffle(head(x), self.finer), **outputs}


def _all_alike(classes: int) -> Init:
    """All the places that one becomes begin with the same scores: no chequers to unlearn (Aitken et al. 2017)."""

    def init(key, shape, dtype):
        one = torch_default(key, (*shape[:-1], classes), dtype)
        return jnp.tile(one, shape[-1] // classes)

    return init


def grow(x, size: tuple[int, int]):
    """Bilinear to (rows, columns); of a map that was halved and rounded up, the part that is the image's.

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
    stride: int | None = None,
    norm: str = "batch",
    dropout: float = 0.0,
    subpixel: bool = True,
    supervised: bool = False,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a U-Net: images (b h w 3, normalised, of any size) → "map_logits" (b i j classes, float32).

    They are as large as the image (a backbone that rounds down may leave a few pixels at its border without any); the
    maps of the encoder are given by name too, "level0" … of its own one.

    Args:
      backbone: None, or a node of the config that names a network with maps of several strides; the last map of
        each stride is read, whatever the network. Published weights of it fit in.
      depth: how often its own encoder halves the image; None is 4. A backbone has its own.
      width: channels of the first level, doubled with each halving up to `widest`; None is 32, on a backbone 16, of
        stride 1 there.
      stride: of that first level of its own encoder; None is 1. With 2 it costs a quarter.
      norm: "batch", "group" or "none", of the decoder and its own encoder.
      dropout: on the coarsest map.
      subpixel: where the finest map has a stride, each of its places has scores for all pixels under it; without, one
        score for them all.
      supervised: train scores of every level of the decoder, as auxiliary ones (deep supervision: Lee et al. 2015).
      remat: recompute levels in the backward pass to save memory.
      dtype: of the arithmetic; parameters and logits are float32.

    Raises:
      UserError: an unknown norm, a depth or stride beside a backbone, or a backbone whose maps have one stride only.

    Example:
      >>> import jax
      >>> from mapjax.models.segmenters import unet
      >>> model = unet.make(depth=2, width=4, classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
      >>> outputs["map_logits"].shape
      (1, 32, 32, 3)
    """
    if norm not in NORMS:
        raise UserError(f"unet has no norm={norm!r}.{near(norm, NORMS)}")
    if backbone is None:
        depth = DEPTH if depth is None else depth
        if depth < 1:
            raise UserError(f"unet: depth={depth} must be 1 or more.")
        stride = 1 if stride is None else stride
        if stride < 1:
            raise UserError(f"unet: stride={stride} must be 1 or more.")
        widths = _widths(width or WIDTH, [2**i for i in range(depth + 1)], widest)
        found = {f"level{i}": stride * 2**i for i in range(depth + 1)}
        encoder = model_of(Encoder(widths, stride, norm, remat, jnp.dtype(dtype)), levels=found, rules=ENCODER)
        names, finer = tuple(found), stride if subpixel else 1
    else:
        if stride is not None:
            raise UserError(f"unet: stride={stride} is of its own encoder; the backbone has its own: leave stride out.")
        if depth is not None:
            raise UserError(f"unet: depth={depth} is of its own encoder; the backbone has its own: leave depth out.")
        encoder = make_backbone("unet", backbone, dtype)
        found = by_stride(encoder.levels)
        if len(found) < 2:
            raise UserError(f"unet: all maps of the backbone {backbone['name']!r} have one stride; choose another.")
        names, finer = tuple(found.values()), min(found) if subpixel else 1
        widths = _widths(width or WIDTH_ON_BACKBONE, list(found), widest)
    decoder = Decoder(names, widths[:-1], classes, finer, norm, dropout, supervised, remat, jnp.dtype(dtype))
    return cut_to_image(on_backbone(encoder, decoder, heads=HEADS, rules=DECODER))


def cut_to_image(model: Model) -> Model:
    """Leave out what maps of scores have beyond the image, where its sides are no multiples of a stride."""

    def apply(variables, images, *, train=False, key=None):
        outputs, stats = model.apply(variables, images, train=train, key=key)
        rows, columns = images.shape[1:3]
        maps = {name: value[:, :rows, :columns] for name, value in outputs.items() if name.endswith("map_logits")}
        return {**outputs, **maps}, stats

    return model._replace(apply=apply)


def _widths(width: int, strides: list[int], widest: int) -> tuple[int, ...]:
    return tuple(min(width * stride, widest) for stride in strides)
