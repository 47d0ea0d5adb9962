"""ResNet (He et al. 2015), with the stride in the 3×3 convolution of a bottleneck as torchvision has it ("v1.5").

ResNeXt (Xie et al. 2016) is `groups` and `width_per_group`: ResNeXt-50 32x4d is depth 50 with 32 and 4. Wide ResNet
(Zagoruyko & Komodakis 2016) is `width_per_group=128`: only the inner convolutions of a bottleneck are wider. ResNet-vd
(He et al. 2018, ResNet-D), which RT-DETR stands on, is `stem="deep"` and `shortcut="pool"`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mapjax.errors import UserError, near
from mapjax.models.layers import Conv, ConvNorm, Dense, Norm, global_pool, model_of
from mapjax.ops import convolution
from mapjax.sharding import mesh, pipeline, tensor
from mapjax.task import Model

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
NORMS = ("batch", "frozen", "group")
STEMS = ("imagenet", "small", "deep")
SHORTCUTS = ("stride", "pool")
HEADS = ("^fc/",)
BOTTLENECK = (  # how the parameters of a block are split: its last two convolutions are a pair
    (r"conv2/kernel$", tensor.CONV_OUT),
    (r"bn2/", tensor.EACH),
    (r"conv3/kernel$", tensor.CONV_IN),
)
BASIC = (
    (r"conv1/kernel$", tensor.CONV_OUT),
    (r"bn1/", tensor.EACH),
    (r"conv2/kernel$", tensor.CONV_IN),
)


class Block(nn.Module):
    """Residual block: two 3×3 convolutions, or (bottleneck) 1×1, 3×3, 1×1 with four times the channels out."""

    features: int
    stride: int
    bottleneck: bool
    norm: Mapping[str, Any]
    zero_init: bool = False
    groups: int = 1
    width_per_group: int = 64
    dilation: int = 1
    shortcut: str = ""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        def conv_norm(y, i, features, kernel, stride=1, groups=1, scale_init=nn.initializers.ones):
            options = {"groups": groups, "dilation": self.dilation, "dtype": self.dtype}
            y = Conv(features, kernel, stride, name=f"conv{i}", **options)(y)
            return Norm(**self.norm, scale_init=scale_init, dtype=self.dtype, name=f"bn{i}")(y, train)

        last = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        if self.bottleneck:
            out = self.features * 4
            inner = max(1, int(self.features * (self.width_per_group / 64))) * self.groups
            y = nn.relu(conv_norm(x, 1, inner, 1))
            y = nn.relu(conv_norm(y, 2, inner, 3, self.stride, self.groups))
            y = conv_norm(y, 3, out, 1, scale_init=last)
        else:
            out = self.features
            y = nn.relu(conv_norm(x, 1, out, 3, self.stride))
            y = conv_norm(y, 2, out, 3, scale_init=last)
        if self.stride != 1 or x.shape[-1] != out or self.shortcut == "pool":
            pooled = self.shortcut == "pool"
            x = Downsample(out, self.stride, self.norm, pooled, self.dtype, name="downsample")(x, train)
        return nn.relu(x + y)


class Downsample(nn.Module):
    """The shortcut where a block changes size: 1×1 convolution "0", normalization "1".

    pooled: a mean of 2×2 places comes before, in place of the stride.
    """

    features: int
    stride: int
    norm: Mapping[str, Any]
    pooled: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        stride = 1 if self.pooled else self.stride
        if self.pooled and self.stride == 2:
            x = mean_pool(x)
        x = Conv(self.features, 1, stride, dtype=self.dtype, name="0")(x)
        return Norm(**self.norm, dtype=self.dtype, name="1")(x, train)


class Stem(nn.Module):
    """Three 3×3 convolutions "0", "1", "2" in place of one of 7×7, the first with a stride of 2."""

    features: int
    norm: Mapping[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        widths = (self.features // 2, self.features // 2, self.features)
        kind, epsilon = self.norm["kind"], self.norm["epsilon"]
        for i, width in enumerate(widths):
            options = {"norm": kind, "epsilon": epsilon, "activation": nn.relu, "dtype": self.dtype}
            x = ConvNorm(width, 3, 2 if i == 0 else 1, name=str(i), **options)(x, train)
        return x


def mean_pool(x):
    """Means of 2×2 places; at an odd border of those that there are."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    total = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c).sum((2, 4))
    rows, columns = (np.minimum(2, length - 2 * np.arange((length + 1) // 2)) for length in (h, w))
    return total / jnp.asarray(rows[:, None, None] * columns[:, None], x.dtype)


class Stage(nn.Module):
    """Blocks "0", "1", …: the first with the stride; `dilations` of the first and of the others.

    stacked: all blocks but the first have their parameters in one array each, "stack", with the block as first axis:
      one is compiled for all of them, and a mesh's `pipe` cuts them where their number divides over it.
    """

    blocks: int
    features: int
    stride: int
    bottleneck: bool
    norm: Mapping[str, Any]
    zero_init: bool = False
    groups: int = 1
    width_per_group: int = 64
    remat: bool = False
    stacked: bool = False
    micro_batches: int = 4
    dilations: tuple[int, int] = (1, 1)
    shortcut: str = "stride"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        options = {
            "zero_init": self.zero_init,
            "groups": self.groups,
            "width_per_group": self.width_per_group,
            "dtype": self.dtype,
        }
        for i in range(min(self.blocks, 1) if self.stacked else self.blocks):
            stride, dilation = (self.stride, self.dilations[0]) if i == 0 else (1, self.dilations[1])
            own = {"dilation": dilation, "shortcut": self.shortcut if i == 0 else "", **options}
            one = block(self.features, stride, self.bottleneck, self.norm, name=str(i), **own)
            x = one(x, train)
        if self.stacked and self.blocks > 1:
            options["dilation"] = self.dilations[1]
            x = self._run_stack(Block(self.features, 1, self.bottleneck, self.norm, parent=None, **options), x, train)
        return x

    def _run_stack(self, one: Block, x, train: bool):
        def init(key):
            keys = jax.random.split(key, self.blocks - 1)
            return jax.vmap(lambda key: one.init(key, x[:1], False))(keys)

        stack = {"params": self.param("stack", lambda key: init(key)["params"])}
        if self.norm["kind"] == "frozen":  # its numbers are statistics, which no key draws
            stack["stats"] = self.variable("stats", "stack", lambda: init(jax.random.key(0))["stats"]).value

        def run(variables, x, number):
            del number
            used = mesh.use(variables["params"], BOTTLENECK if self.bottleneck else BASIC)
            return one.apply(variables | {"params": used}, x, train)

        run = jax.checkpoint(run) if self.remat else run
        # A training batch that makes a larger bubble than was asked for is refused; evaluation takes any.
        return pipeline.apply(run, stack, x, micro_batches=self.micro_batches, exact=train, partly=True)[0]


class ResNet(nn.Module):
    """Image → features by name: "stem" (stride 2), "layer1" … "layer4" (strides 4 … 32), "pool", perhaps "logits".

    With the stem "small" the strides are 1, 1, 2, 4, 8; where the stride is the output's, later stages are dilated.
    """

    depth: int = 50
    width: float = 1.0
    groups: int = 1
    width_per_group: int = 64
    stem: str = "imagenet"
    shortcut: str = "stride"
    norm: str = "batch"
    epsilon: float = 1e-5
    classes: int | None = None
    zero_init: bool = False
    remat: bool = False
    stacked: bool = False
    micro_batches: int = 4
    output_stride: int = 32
    stages: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        norm = {"kind": self.norm, "epsilon": self.epsilon}
        if self.stem == "deep":
            x = Stem(round(64 * self.width), norm, self.dtype, name="conv1")(x, train)
        else:
            kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
            x = Conv(round(64 * self.width), kernel, stride, dtype=self.dtype, name="conv1")(x)
            x = nn.relu(Norm(**norm, dtype=self.dtype, name="bn1")(x, train))
        outputs = {"stem": x}
        if self.stem != "small":
            x = convolution.max_pool(x)
        options = {
            "bottleneck": self.depth >= 50,
            "norm": norm,
            "zero_init": self.zero_init,
            "groups": self.groups,
            "width_per_group": self.width_per_group,
            "remat": self.remat,
            "stacked": self.stacked,
            "micro_batches": self.micro_batches,
            "shortcut": self.shortcut,
            "dtype": self.dtype,
        }
        stages = STAGES[self.depth][: self.stages]
        for i, (blocks, (stride, dilations)) in enumerate(zip(stages, _steps(self.output_stride))):
            features, name = round(64 * 2**i * self.width), f"layer{i + 1}"
            stage = Stage(blocks, features, stride, dilations=dilations, name=name, **options)
            outputs[name] = x = stage(x, train)
        outputs["pool"] = global_pool(x)
        if self.classes is not None:
            outputs["logits"] = Dense(self.classes, dtype=jnp.float32, name="fc")(outputs["pool"])
        return outputs


def _steps(output_stride: int) -> list[tuple[int, tuple[int, int]]]:
    """The stride of each stage and its dilations, of the first block and of the others (Chen et al. 2017).

    A stage that would go beyond the output's stride keeps the resolution, and its convolutions see as far as ever.
    """
    steps, total, dilation = [(1, (1, 1))], 4, 1
    for _ in range(3):
        before = dilation
        if total == output_stride:
            dilation *= 2
            steps.append((1, (before, dilation)))
        else:
            total *= 2
            steps.append((2, (1, 1)))
    return steps


def levels_of(stem: str, output_stride: int, stages: int) -> dict[str, int]:
    """The strides of the maps by name."""
    first, finest = (1, 1) if stem == "small" else (2, 4)
    return {"stem": first, **{f"layer{i + 1}": min(finest * 2**i, output_stride) for i in range(stages)}}


def rules_of(depth: int, stacked: bool) -> mesh.Rules:
    """How the parameters are split; of a stage that is stacked, the first block is by itself."""
    block = BOTTLENECK if depth >= 50 else BASIC
    alone = tuple((rf"layer\d/\d+/{expression}", spec) for expression, spec in block)
    return (*tensor.stacked(block), *alone) if stacked else alone


def make(
    *,
    depth: int = 50,
    width: float = 1.0,
    groups: int = 1,
    width_per_group: int = 64,
    stem: str = "imagenet",
    shortcut: str = "stride",
    norm: str = "batch",
    epsilon: float = 1e-5,
    classes: int | None = None,
    zero_init: bool = False,
    remat: bool = False,
    stacked: bool = False,
    micro_batches: int = 4,
    output_stride: int = 32,
    stages: int = 4,
    dtype: str = "float32",
) -> Model:
    """Make a ResNet: images (b h w 3, normalised) → features by name, and "logits" (b classes) if `classes` is given.

    Args:
      depth: 18, 34, 50, 101 or 152.
      width: factor of all channel counts.
      groups, width_per_group: of the inner convolutions of a bottleneck (depth 50 and more): 32 and 4 is ResNeXt's
        32x4d, 1 and 128 a Wide ResNet "-2".
      stem: "imagenet" (7×7 of stride 2 and a pool), or "small" for images of about 32×32 (3×3 and no stride, as
        the CIFAR networks of the paper begin); "deep" is three of 3×3 in place of the one of 7×7.
      shortcut: where a stage begins: "stride", or "pool" for a mean before the convolution, which every stage has.
      norm: "batch", "frozen" (running statistics, never trained) or "group".
      epsilon: added to its variance.
      zero_init: each block starts as the identity (Goyal et al. 2017).
      remat: recompute blocks in the backward pass to save memory.
      dtype: of the arithmetic; parameters, "pool" and "logits" are float32.
      output_stride: 32, 16 or 8 (with the stem "imagenet"): the last stages are dilated instead of strided, as
        torchvision's `replace_stride_with_dilation` has it.
      stages: how many of the four there are: a network on it that reads no coarser maps needs no more.
      stacked: hold all blocks of a stage but the first in one array a parameter, as a mesh with `pipe` needs them; not
        with norm="batch".
      micro_batches: that a batch is cut into in such a mesh: many for a small bubble.

    Raises:
      UserError: a depth, norm or stem that there is not, or options that do not go together.

    Example:
      >>> from mapjax.models.backbones import resnet
      >>> resnet.make(depth=18, classes=10).levels
      {'stem': 2, 'layer1': 4, 'layer2': 8, 'layer3': 16, 'layer4': 32}
    """
    _require_known(depth, norm, stem, shortcut)
    if stacked and norm == "batch":
        raise UserError(
            "resnet: stacked=True cuts a batch into micro-batches, and norm='batch' would take the statistics of each "
            "by itself; set norm to 'group' or 'frozen'."
        )
    if output_stride not in (8, 16, 32) or (output_stride != 32 and stem == "small"):
        raise UserError(f"resnet: output_stride={output_stride} must be 32, 16 or 8, and 32 with stem='small'.")
    if not 1 <= stages <= 4:
        raise UserError(f"resnet: stages={stages} must be 1, 2, 3 or 4.")
    if depth < 50 and (groups, width_per_group) != (1, 64):
        raise UserError(f"resnet: groups and width_per_group are of bottlenecks, which depth={depth} has none of.")
    module = ResNet(
        depth=depth,
        width=width,
        groups=groups,
        width_per_group=width_per_group,
        stem=stem,
        shortcut=shortcut,
        norm=norm,
        epsilon=epsilon,
        classes=classes,
        zero_init=zero_init,
        remat=remat,
        stacked=stacked,
        micro_batches=micro_batches,
        output_stride=output_stride,
        stages=stages,
        dtype=jnp.dtype(dtype),
    )
    levels = levels_of(stem, output_stride, stages)
    return model_of(module, levels=levels, heads=HEADS, rules=rules_of(depth, stacked))


def _require_known(depth: int, norm: str, stem: str, shortcut: str) -> None:
    if depth not in STAGES:
        raise UserError(f"a resnet of depth={depth} does not exist: choose one of {', '.join(map(str, STAGES))}.")
    if norm not in NORMS:
        raise UserError(f"resnet has no norm={norm!r}.{near(norm, NORMS)}")
    if stem not in STEMS:
        raise UserError(f"resnet has no stem={stem!r}.{near(stem, STEMS)}")
    if shortcut not in SHORTCUTS:
        raise UserError(f"resnet has no shortcut={shortcut!r}.{near(shortcut, SHORTCUTS)}")
