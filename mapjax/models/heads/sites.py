"""Heads of dense detectors on a pyramid: the same convolutions on every map, then a score for each class and a box.

RetinaNet (Lin et al. 2017, arXiv 1708.02002) and FCOS (Tian et al. 2019, arXiv 1904.01355); modules are torchvision's.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.models.layers import Conv, Norm
from mapjax.sharding import tensor
from mapjax.sharding.mesh import Rules

normal = nn.initializers.normal(0.01)
NORMS = ("none", "group")
DISTANCE = 2.0  # to begin with, in strides: of those that begin at 0 a ReLU lets every second one learn nothing


class SiteHead(nn.Module):
    """Maps of one width, finest first → "site_logits" (b r c), "site_deltas" (b r 4) and perhaps "site_quality" (b r).

    r is by level, row, column, and anchor.

    anchors: of each place.
    depth: convolutions before the last.
    flat: FCOS' numbering of them, with norms and ReLUs in one row, and its distances of 0 or more; else RetinaNet's.
    prior: the score of every class to begin with.
    """

    classes: int
    anchors: int
    depth: int
    norm: str
    prior: float
    flat: bool = False
    quality: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> dict[str, Any]:
        tower = {"depth": self.depth, "norm": self.norm, "flat": self.flat, "dtype": self.dtype}
        scores = {"cls_logits": (self.classes * self.anchors, math.log(self.prior / (1 - self.prior)))}
        boxes = {"bbox_reg": (4 * self.anchors, DISTANCE if self.flat else 0.0)}
        boxes |= {"bbox_ctrness": (self.anchors, 0.0)} if self.quality else {}
        found = Branch(scores, name="classification_head", **tower)(maps)
        found |= Branch(boxes, name="regression_head", **tower)(maps)
        if self.flat:
            found["bbox_reg"] = [nn.relu(x) for x in found["bbox_reg"]]
        outputs = {
            "site_logits": _joined(found["cls_logits"], self.classes),
            "site_deltas": _joined(found["bbox_reg"], 4),
        }
        return outputs | ({"site_quality": _joined(found["bbox_ctrness"], 1)[..., 0]} if self.quality else {})


def _joined(maps: Sequence[Any], width: int):
    """Maps (b h w a·width) → (b r width), float32."""
    return jnp.concatenate([x.reshape(len(x), -1, width) for x in maps], 1).astype(jnp.float32)


class Branch(nn.Module):
    """A tower "conv", and on it a 3×3 convolution for each of the outputs (name → channels, and the first bias)."""

    outputs: dict[str, tuple[int, float]]
    depth: int
    norm: str
    flat: bool
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> dict[str, list[Any]]:
        maps = Tower(self.depth, self.norm, self.flat, self.dtype, name="conv")(maps)
        options = {"bias": True, "init": normal, "dtype": self.dtype}
        convs = {
            name: Conv(width, bias_init=nn.initializers.constant(bias), name=name, **options)
            for name, (width, bias) in self.outputs.items()
        }
        return {name: [conv(x) for x in maps] for name, conv in convs.items()}


class Tower(nn.Module):
    """3×3 convolutions of the maps' width, each with normalization and ReLU, on every map."""

    depth: int
    norm: str
    flat: bool
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> Sequence[Any]:
        for i in range(self.depth):
            if self.flat:
                maps = _unit(maps, (str(3 * i), str(3 * i + 1)), True, self.norm, self.dtype)
            else:
                maps = Unit(self.norm, self.dtype, name=str(i))(maps)
        return maps


class Unit(nn.Module):
    """Convolution "0", normalization "1" (torchvision's Conv2dNormActivation)."""

    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> Sequence[Any]:
        return _unit(maps, ("0", "1"), self.norm == "none", self.norm, self.dtype)


def _unit(maps: Sequence[Any], names: tuple[str, str], bias: bool, norm: str, dtype: Any) -> Sequence[Any]:
    """Convolution, normalization and ReLU by these names, within the scope of the module that calls."""
    conv = Conv(maps[0].shape[-1], bias=bias, init=normal, dtype=dtype, name=names[0])
    scaled = Norm(norm, dtype=dtype, name=names[1])
    return [nn.relu(scaled(conv(x), False)) for x in maps]


def rules_of(depth: int, flat: bool) -> Rules:
    """How the parameters are split: each two convolutions of a tower are a pair."""
    found = []
    for first in range(0, depth - 1, 2):
        conv, norm, second = (
            (str(3 * first), str(3 * first + 1), str(3 * first + 3))
            if flat
            else (f"{first}/0", f"{first}/1", f"{first + 1}/0")
        )
        found += [
            (rf"head/\w+/conv/{conv}/kernel$", tensor.CONV_OUT),
            (rf"head/\w+/conv/({conv}/bias$|{norm}/)", tensor.EACH),
            (rf"head/\w+/conv/{second}/kernel$", tensor.CONV_IN),
        ]
    return tuple(found)
