"""CSPDarknet: the darknet of YOLOv3 (Redmon & Farhadi 2018, arXiv 1804.02767) in cross-stage partial blocks (Wang et
al. 2020, arXiv 1911.11929; as YOLOv4's, Bochkovskiy et al. 2020, arXiv 2004.10934), named as in YOLOX (Ge et al. 2021,
arXiv 2107.08430).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.layers import Conv, Dense, Norm, global_pool, model_of, require_size, torch_default
from mapjax.ops import convolution
from mapjax.sharding import tensor
from mapjax.task import Model

LEVELS = {"stem": 2, "dark2": 4, "dark3": 8, "dark4": 16, "dark5": 32}
HEADS = ("^classifier/",)
NORMS = ("batch", "frozen", "group")
EPSILON, MOMENTUM = 1e-3, 0.03  # of YOLOX' batch normalization
SIZES = {  # depth and width of YOLOX' sizes
    "nano": (1 / 3, 0.25),
    "tiny": (1 / 3, 0.375),
    "s": (1 / 3, 0.5),
    "m": (2 / 3, 0.75),
    "l": (1.0, 1.0),
    "x": (4 / 3, 1.25),
}
RULES = (  # of a bottleneck, what is between its two convolutions
    (r"m/\d+/conv1/conv/kernel$", tensor.CONV_OUT),
    (r"m/\d+/conv1/bn/", tensor.EACH),
    (r"m/\d+/conv2/conv/kernel$", tensor.CONV_IN),
    (r"m/\d+/conv2/dconv/conv/kernel$", tensor.CONV_OUT),
    (r"m/\d+/conv2/dconv/bn/", tensor.EACH),
    (r"m/\d+/conv2/pconv/conv/kernel$", tensor.CONV_IN),
)


class Unit(nn.Module):
    """Convolution "conv", normalization "bn", SiLU."""

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    norm: str = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"groups": self.groups, "init": torch_default, "dtype": self.dtype}
        x = Conv(self.features, self.kernel, self.stride, name="conv", **options)(x)
        return nn.silu(Norm(self.norm, EPSILON, MOMENTUM, dtype=self.dtype, name="bn")(x, train))


class Separable(nn.Module):
    """A depthwise unit "dconv", and one of 1×1, "pconv"."""

    features: int
    kernel: int
    stride: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"norm": self.norm, "dtype": self.dtype}
        x = Unit(x.shape[-1], self.kernel, self.stride, x.shape[-1], name="dconv", **options)(x, train)
        return Unit(self.features, name="pconv", **options)(x, train)


def spatial(features: int, stride: int, depthwise: bool, norm: str, dtype: Any, name: str) -> nn.Module:
    """A 3×3 convolution with normalization and SiLU: whole, or depthwise and pointwise."""
    if depthwise:
        return Separable(features, 3, stride, norm, dtype, name=name)
    return Unit(features, 3, stride, norm=norm, dtype=dtype, name=name)


class Bottleneck(nn.Module):
    """A 1×1 unit "conv1", a 3×3 one "conv2", and perhaps the input added."""

    shortcut: bool
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        y = Unit(x.shape[-1], norm=self.norm, dtype=self.dtype, name="conv1")(x, train)
        y = spatial(x.shape[-1], 1, self.depthwise, self.norm, self.dtype, "conv2")(y, train)
        return x + y if self.shortcut else y


class Bottlenecks(nn.Module):
    """Bottlenecks "0", "1", …"""

    blocks: int
    shortcut: bool
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        for i in range(self.blocks):
            x = Bottleneck(self.shortcut, self.depthwise, self.norm, self.dtype, name=str(i))(x, train)
        return x


class CSP(nn.Module):
    """Half of the channels through bottlenecks ("conv1", "m"), half past them ("conv2"); both together ("conv3")."""

    features: int
    blocks: int
    shortcut: bool
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        options, half = {"norm": self.norm, "dtype": self.dtype}, self.features // 2
        inner = Unit(half, name="conv1", **options)(x, train)
        past = Unit(half, name="conv2", **options)(x, train)
        inner = Bottlenecks(self.blocks, self.shortcut, self.depthwise, name="m", **options)(inner, train)
        return Unit(self.features, name="conv3", **options)(jnp.concatenate([inner, past], -1), train)


class PyramidPool(nn.Module):
    """Spatial pyramid pooling (He et al. 2014): the map beside its maxima over 5×5, 9×9 and 13×13."""

    features: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"norm": self.norm, "dtype": self.dtype}
        maps = [Unit(x.shape[-1] // 2, name="conv1", **options)(x, train)]
        for _ in range(3):  # the pool of a pool is that of the larger window
            maps.append(convolution.max_pool(maps[-1], 5, 1, 2))
        return Unit(self.features, name="conv2", **options)(jnp.concatenate(maps, -1), train)


class Focus(nn.Module):
    """Four pixels of 2×2 as channels of one, and a 3×3 unit "conv"."""

    features: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = jnp.concatenate(corners, -1)
        return Unit(self.features, 3, norm=self.norm, dtype=self.dtype, name="conv")(x, train)


class Stage(nn.Module):
    """A 3×3 unit "0" of stride 2, then blocks: in the last stage a pool "1" before them."""

    features: int
    blocks: int
    last: bool
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        options = {"norm": self.norm, "dtype": self.dtype}
        x = spatial(self.features, 2, self.depthwise, self.norm, self.dtype, "0")(x, train)
        if self.last:
            x = PyramidPool(self.features, name="1", **options)(x, train)
        csp = CSP(self.features, self.blocks, not self.last, self.depthwise, name="2" if self.last else "1", **options)
        return csp(x, train)


class CSPDarknet(nn.Module):
    """Image → "stem", "dark2" … "dark5" (strides 2, 4, 8, 16, 32); with classes "pool" and "logits"."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    depthwise: bool
    norm: str
    classes: int | None
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool = False):
        require_size("csp_darknet", x, 32)
        if x.shape[1] % 2 or x.shape[2] % 2:
            raise UserError(f"csp_darknet needs sides that 2 divides, not {x.shape[1]}×{x.shape[2]}: set image_size.")
        outputs = {"stem": Focus(self.channels[0], self.norm, self.dtype, name="stem")(x, train)}
        x, stage = outputs["stem"], nn.remat(Stage, static_argnums=(2,)) if self.remat else Stage
        for i, (channels, blocks) in enumerate(zip(self.channels[1:], self.blocks, strict=True)):
            options = (channels, blocks, i == 3, self.depthwise, self.norm, self.dtype)
            outputs[f"dark{i + 2}"] = x = stage(*options, name=f"dark{i + 2}")(x, train)
        if self.classes is not None:
            outputs["pool"] = global_pool(x)
            outputs["logits"] = Dense(self.classes, name="classifier")(outputs["pool"])
        return outputs


def scaled_blocks(count: int, depth: float) -> int:
    """So many blocks, times the depth; at least one."""
    return max(round(count * depth), 1)


def make(
    *,
    size: str | None = None,
    depth: float | None = None,
    width: float | None = None,
    depthwise: bool | None = None,
    norm: str = "batch",
    classes: int | None = None,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a CSPDarknet: images (b h w 3, normalised, with even sides) → features by name.

    Args:
      size: "nano", "tiny", "s", "m", "l" or "x", which says the three that follow; None: "s".
      depth: factor of the blocks of each stage: 3, 9, 9 and 3.
      width: factor of the channels: 64 in the stem, 128, 256, 512 and 1024.
      depthwise: 3×3 convolutions are depthwise, with a 1×1 one behind each, as in "nano".
      norm: "batch", "frozen" (running statistics, never trained) or "group".
      classes: also give "pool" (b c) and "logits" (b classes).
      remat: recompute stages in the backward pass to save memory.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.

    Raises:
      UserError: a size or norm that does not exist, or a depth or width that is not positive.

    Example:
      >>> from mapjax.models.backbones import csp_darknet
      >>> csp_darknet.make(size="nano").levels
      {'stem': 2, 'dark2': 4, 'dark3': 8, 'dark4': 16, 'dark5': 32}
    """
    if size is not None and size not in SIZES:
        raise UserError(f"csp_darknet has no size={size!r}.{near(size, SIZES)}")
    if norm not in NORMS:
        raise UserError(f"csp_darknet has no norm={norm!r}.{near(norm, NORMS)}")
    usual = SIZES[size or "s"]
    depth, width = usual[0] if depth is None else depth, usual[1] if width is None else width
    if min(depth, width) <= 0 or round(width * 64) < 2:
        raise UserError(f"csp_darknet: depth={depth} must be above 0, and width={width} 0.04 or more.")
    channels = tuple(2 * round(width * 2**i / 2) for i in range(6, 11))
    blocks = tuple(scaled_blocks(count, depth) for count in (3, 9, 9, 3))
    options = (size == "nano" if depthwise is None else depthwise, norm, classes, remat, jnp.dtype(dtype))
    return model_of(CSPDarknet(channels, blocks, *options), levels=LEVELS, heads=HEADS, rules=RULES)
