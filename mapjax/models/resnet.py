"""ResNet (He et al. 2015), with the stride in the 3×3 convolution of a bottleneck as torchvision has it ("v1.5")."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.layers import Conv, Dense, Norm
from mapjax.ops import convolution
from mapjax.task import Model

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
NORMS = ("batch", "frozen", "group")


class Block(nn.Module):
    """Residual block: two 3×3 convolutions, or (bottleneck) 1×1, 3×3, 1×1 with four times the channels out."""

    features: int
    stride: int
    bottleneck: bool
    norm: Mapping[str, Any]
    zero_init: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        def conv_norm(y, i, features, kernel, stride=1, scale_init=nn.initializers.ones):
            y = Conv(features, kernel, stride, dtype=self.dtype, name=f"conv{i}")(y)
            return Norm(**self.norm, scale_init=scale_init, dtype=self.dtype, name=f"bn{i}")(y, train)

        last = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        if self.bottleneck:
            out = self.features * 4
            y = nn.relu(conv_norm(x, 1, self.features, 1))
            y = nn.relu(conv_norm(y, 2, self.features, 3, self.stride))
            y = conv_norm(y, 3, out, 1, scale_init=last)
        else:
            out = self.features
            y = nn.relu(conv_norm(x, 1, out, 3, self.stride))
            y = conv_norm(y, 2, out, 3, scale_init=last)
        if self.stride != 1 or x.shape[-1] != out:
            x = Downsample(out, self.stride, self.norm, self.dtype, name="downsample")(x, train)
        return nn.relu(x + y)


class Downsample(nn.Module):
    """The shortcut where a block changes size: 1×1 convolution "0", normalization "1"."""

    features: int
    stride: int
    norm: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(self.features, 1, self.stride, dtype=self.dtype, name="0")(x)
        return Norm(**self.norm, dtype=self.dtype, name="1")(x, train)


class Stage(nn.Module):
    """Blocks "0", "1", …: the first with the stride."""

    blocks: int
    features: int
    stride: int
    bottleneck: bool
    norm: Mapping[str, Any]
    zero_init: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.blocks):
            stride = self.stride if i == 0 else 1
            arguments = (self.features, stride, self.bottleneck, self.norm, self.zero_init, self.dtype)
            x = block(*arguments, name=str(i))(x, train)
        return x


class ResNet(nn.Module):
    """Picture → features by name: "stem" (stride 4), "layer1" … "layer4" (strides 4 … 32), with classes "logits"."""

    depth: int = 50
    width: float = 1.0
    norm: str = "batch"
    epsilon: float = 1e-5
    classes: int | None = None
    zero_init: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        norm = {"kind": self.norm, "epsilon": self.epsilon}
        x = Conv(round(64 * self.width), 7, 2, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(Norm(**norm, dtype=self.dtype, name="bn1")(x, train))
        x = convolution.max_pool(x)
        outputs = {"stem": x}
        for i, blocks in enumerate(STAGES[self.depth]):
            features, stride = round(64 * 2**i * self.width), 1 if i == 0 else 2
            arguments = (blocks, features, stride, self.depth >= 50, norm, self.zero_init, self.remat, self.dtype)
            outputs[f"layer{i + 1}"] = x = Stage(*arguments, name=f"layer{i + 1}")(x, train)
        if self.classes is not None:
            outputs["pool"] = x.astype(jnp.float32).mean((1, 2))
            outputs["logits"] = Dense(self.classes, dtype=jnp.float32, name="fc")(outputs["pool"])
        return outputs


def make(
    *,
    depth: int = 50,
    width: float = 1.0,
    norm: str = "batch",
    epsilon: float = 1e-5,
    classes: int | None = None,
    zero_init: bool = False,
    remat: bool = False,
    dtype: str = "float32",
) -> Model:
    """Make a ResNet: images (b h w 3, normalised) → features by name, and "logits" if `classes` is given.

    Args:
      depth: 18, 34, 50, 101 or 152. width: factor of all channel counts.
      norm: "batch", "frozen" (running statistics, never trained) or "group". epsilon: added to its variance.
      zero_init: each block starts as the identity (Goyal et al. 2017). remat: recompute blocks in the backward
      pass to save memory. dtype: of the arithmetic; parameters are float32.
    """
    module = module_of(
        depth=depth,
        width=width,
        norm=norm,
        epsilon=epsilon,
        classes=classes,
        zero_init=zero_init,
        remat=remat,
        dtype=dtype,
    )

    def init(key, images):
        variables = module.init(key, images)
        return {"params": variables["params"], "stats": variables.get("stats", {})}

    def apply(variables, images, *, train=False, key=None):
        del key
        outputs, changed = module.apply(variables, images, train, mutable=["stats"] if train else [])
        return outputs, changed.get("stats", {}) if train else variables["stats"]

    return Model(jax.jit(init), apply)


def module_of(*, depth: int = 50, norm: str = "batch", dtype: Any = "float32", **options: Any) -> ResNet:
    """The Linen module of `make`'s arguments, for networks that have a ResNet inside."""
    if depth not in STAGES:
        raise UserError(f"a resnet of depth={depth} does not exist: choose one of {', '.join(map(str, STAGES))}.")
    if norm not in NORMS:
        raise UserError(f"resnet has no norm={norm!r}.{near(norm, NORMS)}")
    for option in options:
        if option not in ResNet.__dataclass_fields__:
            raise UserError(f"resnet takes no {option!r}.{near(option, inspect.signature(make).parameters)}")
    return ResNet(depth=depth, norm=norm, dtype=jnp.dtype(dtype), **options)
