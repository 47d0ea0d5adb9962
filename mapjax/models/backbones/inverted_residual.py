"""The inverted residual (Sandler et al. 2018, arXiv 1801.04381) and the chain of them that MobileNet-V2, -V3 and
EfficientNet are: stem, stages, head.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.backbones.resnet import NORMS
from mapjax.models.layers import (
    Activation,
    Conv,
    ConvNorm,
    Dense,
    Dropout,
    Init,
    Norm,
    SqueezeExcite,
    StochasticDepth,
)
from mapjax.sharding import tensor
from mapjax.sharding.mesh import Rules

HEADS = ("^classifier/",)
SPLIT = (  # ends of the paths of a branch that begins with an expansion, 0; 1 is depthwise, 2 perhaps squeezes
    (r"/[01]/0/kernel$", tensor.CONV_OUT),
    (r"/[01]/1/", tensor.EACH),
    (r"/2/fc1/kernel$", tensor.CONV_IN),
    (r"/2/fc2/kernel$", tensor.CONV_OUT),
    (r"/2/fc2/bias$", tensor.EACH),
    (r"/[23]/(0/)?kernel$", tensor.CONV_IN),
)
PADDINGS = ("torch", "SAME")  # k // 2 zeros on each side, or TensorFlow's rule
normal = nn.initializers.normal(0.01)


class Block(NamedTuple):
    """What an inverted residual is made of: channels out and inside, the depthwise convolution, squeeze-excite."""

    features: int
    expanded: int
    kernel: int
    stride: int
    activation: Activation
    squeeze: int = 0  # channels; 0 is none
    squeeze_activation: Activation = nn.relu
    gate: Activation = nn.sigmoid
    dilation: int = 1


class Branch(nn.Module):
    """Expansion 1×1 (where there is one), depthwise convolution, squeeze-excite (perhaps), projection 1×1; numbered.

    bare: the projection and its normalization are two of the numbered modules, instead of "0" and "1" of one.
    """

    block: Block
    bare: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        block, dtype, i = self.block, self.convolution["dtype"], 0
        if block.expanded != x.shape[-1]:
            x = ConvNorm(block.expanded, 1, activation=block.activation, name="0", **self.convolution)(x, train)
            i = 1
        options = {"groups": block.expanded, "activation": block.activation, "dilation": block.dilation}
        x = ConvNorm(block.expanded, block.kernel, block.stride, name=str(i), **options, **self.convolution)(x, train)
        if block.squeeze:
            i += 1
            x = SqueezeExcite(block.squeeze, block.squeeze_activation, block.gate, dtype, name=str(i))(x)
        if not self.bare:
            return ConvNorm(block.features, 1, name=str(i + 1), **self.convolution)(x, train)
        x = Conv(block.features, 1, dtype=dtype, name=str(i + 1))(x)
        return Norm(**norm_of(self.convolution), name=str(i + 2))(x, train)


class InvertedResidual(nn.Module):
    """A branch, and the input added where it has the branch's shape.

    branch: its name, "block", or "conv" in MobileNet-V2, where the projection is bare.
    drop_path: share of the images whose branch is left out in training.
    convolution: what every ConvNorm takes.
    """

    block: Block
    branch: str
    drop_path: float
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        y = Branch(self.block, self.branch == "conv", self.convolution, name=self.branch)(x, train)
        if self.block.stride != 1 or x.shape[-1] != self.block.features:
            return y
        return x + StochasticDepth(self.drop_path)(y, train)


class Stage(nn.Module):
    """Inverted residuals, numbered from `first`, with the shares that are left out in training."""

    blocks: tuple[Block, ...]
    drop_paths: tuple[float, ...]
    branch: str
    remat: bool
    convolution: Mapping[str, Any]

    @nn.compact
    def __call__(self, x, train: bool):
        for i, (block, drop_path) in enumerate(zip(self.blocks, self.drop_paths)):
            x = residual(self.remat)(block, self.branch, drop_path, self.convolution, name=str(i))(x, train)
        return x


def ramp(last: float, counts: Sequence[int]) -> list[tuple[float, ...]]:
    """Rates from 0 in equal steps towards `last`, which the block after all would have; by stage."""
    total = sum(counts)
    rates = [last * i / total for i in range(total)]
    return [tuple(rates[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))]


def residual(remat: bool) -> Any:
    """The class of an inverted residual, perhaps with its values computed again in the backward pass."""
    return nn.remat(InvertedResidual, static_argnums=(2,)) if remat else InvertedResidual


class Features(nn.Module):
    """Image → "stem" (stride 2), "stage1", … and "head": a convolution 3×3, inverted residuals, a convolution 1×1.

    nested: each stage is a numbered module of numbered blocks; otherwise the blocks are numbered throughout.
    drop_path: where stochastic depth would arrive after the last block; it grows from 0 in equal steps.
    each: give what every block makes too: "block1", … (of stages that are not nested).
    """

    stem: int
    stages: tuple[tuple[Block, ...], ...]
    head: int
    activation: Activation
    convolution: Mapping[str, Any]
    branch: str = "block"
    nested: bool = False
    drop_path: float = 0.0
    remat: bool = False
    each: bool = False

    @nn.compact
    def __call__(self, x, train: bool):
        x = ConvNorm(self.stem, 3, 2, activation=self.activation, name="0", **self.convolution)(x, train)
        outputs = {"stem": x}
        number = 1
        for i, (blocks, rates) in enumerate(zip(self.stages, ramp(self.drop_path, [len(s) for s in self.stages]))):
            if self.nested:
                x = Stage(blocks, rates, self.branch, self.remat, self.convolution, name=str(number))(x, train)
                number += 1
            else:
                for block, rate in zip(blocks, rates):
                    module = residual(self.remat)(block, self.branch, rate, self.convolution, name=str(number))
                    x = module(x, train)
                    if self.each:
                        outputs[f"block{number}"] = x
                    number += 1
            outputs[f"stage{i + 1}"] = x
        last = ConvNorm(self.head, 1, activation=self.activation, name=str(number), **self.convolution)
        return {**outputs, "head": last(x, train)}


def levels_of(stages: Sequence[Sequence[Block]], each: bool = False) -> dict[str, int]:
    """The strides of the maps of `Features` by name, finest first.

    Of those of one stride "head" is the first: who takes the last is not given the wide layer of the classifier.
    """
    found, stride, number = {"stem": 2}, 2, 1
    for i, blocks in enumerate(stages, 1):
        for block in blocks:
            stride *= block.stride
            found |= {f"block{number}": stride} if each else {}
            number += 1
        found[f"stage{i}"] = stride
    return dict(sorted({"head": stride, **found}.items(), key=lambda level: level[1]))


def rules_of(stem: int, stages: Sequence[Sequence[Block]], *, branch: str = "block", nested: bool = False) -> Rules:
    """How the parameters of `Features` are split: those of the blocks that expand.

    A depthwise convolution alone is no pair: to split it, its input would have to be brought together.
    """
    names, channels, number = [], stem, 1
    for i, blocks in enumerate(stages, 1):
        for j, block in enumerate(blocks):
            if block.expanded != channels:
                names.append(f"{i}/{j}" if nested else str(number))
            channels = block.features
            number += 1
    return tuple((f"features/({'|'.join(names)})/{branch}{ending}", spec) for ending, spec in SPLIT)


class Classifier(nn.Module):
    """Dropout "0" and a dense layer "1"."""

    classes: int
    dropout: float
    kernel_init: Init = normal

    @nn.compact
    def __call__(self, x, train: bool):
        return Dense(self.classes, init=self.kernel_init, dtype=jnp.float32, name="1")(Dropout(self.dropout)(x, train))


def convolution_of(norm: str, epsilon: float, momentum: float, padding: str, dtype: str) -> dict[str, Any]:
    """What every ConvNorm of such a network takes.

    Raises:
      UserError: a norm or padding that does not exist.
    """
    if norm not in NORMS:
        raise UserError(f"the network has no norm={norm!r}.{near(norm, NORMS)}")
    if padding not in PADDINGS:
        raise UserError(f"the network has no padding={padding!r}.{near(padding, PADDINGS)}")
    pads = "SAME" if padding == "SAME" else None
    return {"norm": norm, "epsilon": epsilon, "momentum": momentum, "padding": pads, "dtype": jnp.dtype(dtype)}


def norm_of(convolution: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `convolution_of` that a Norm takes."""
    return {"kind": convolution["norm"], **{key: convolution[key] for key in ("epsilon", "momentum", "dtype")}}
