"""The mask head of dense detectors (Tian et al. 2020, CondInst, arXiv 2003.05664): a map of prototypes, and for each
site the filters that draw of them the mask of the object it answers for (ops/dynamic_masks.py).
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.models.heads.decoupled import Answer, Answers, Branches
from mapjax.models.layers import ConvNorm
from mapjax.models.necks.fpn import upsample
from mapjax.ops import dynamic_masks

FINEST = 8  # stride of the finest map of a dense detector's pyramid, "p3"


class SiteMasks(nn.Module):
    """What a detector answers → "prototypes" (b i j p) and "site_filters" (b r v), float32.

    stride: of the prototypes: 8, 4 or 2 pixels.
    prototypes: their channels p.
    hidden: of the dynamic convolutions but the last.
    width: channels of the maps on the way to the prototypes.
    filter_width: of the two convolutions before the filters.
    """

    stride: int
    prototypes: int
    hidden: tuple[int, ...]
    width: int
    filter_width: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, outputs: Mapping[str, Any], train: bool) -> dict[str, Any]:
        maps = outputs["features"]
        pyramid = [maps[name] for name in sorted(maps) if re.fullmatch(r"p[3-7]", name)]
        places = sum(x.shape[1] * x.shape[2] for x in pyramid)
        sites = outputs["site_logits"].shape[1]
        if not pyramid or sites % places:
            raise UserError("condinst needs a detector whose sites stand on a pyramid: yolo, yolox, fcos or retinanet.")
        options = {"norm": self.norm, "dtype": self.dtype}
        filters = Branches(self.filter_width, False, name="filter_convs", **options)(pyramid, train)
        count = dynamic_masks.count(self.prototypes, self.hidden)
        bias = _start(self.prototypes, self.hidden)
        filters = Answers(sites // places * count, bias, self.dtype, name="filters")(filters)
        return {
            "prototypes": Prototypes(self.stride, self.prototypes, self.width, name="prototypes", **options)(
                maps, pyramid[0], train
            ),
            "site_filters": filters.reshape(len(filters), sites, count),
        }


class Prototypes(nn.Module):
    """The finest map of the pyramid, magnified with what the backbone has of finer strides → (b i j p), float32."""

    stride: int
    prototypes: int
    width: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Mapping[str, Any], finest: Any, train: bool):
        options = {"norm": self.norm, "dtype": self.dtype}
        x = ConvNorm(self.width, 1, activation=nn.relu, name="top", **options)(finest, train)
        stride = FINEST
        while stride > self.stride:
            stride //= 2
            x = upsample(x, (2 * x.shape[1], 2 * x.shape[2]))
            if (beside := _of_shape(maps, x.shape[1:3])) is not None:
                x = x + ConvNorm(self.width, 1, name=f"lateral{stride}", **options)(beside, train)
            x = ConvNorm(self.width, activation=nn.relu, name=f"conv{stride}", **options)(nn.relu(x), train)
        return Answer(self.prototypes, nn.initializers.zeros, self.dtype, name="last")(x)


def _of_shape(maps: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Give the last map of a shape, which has seen the most layers; None where there is none."""
    found = [x for x in maps.values() if x.shape[1:3] == shape]
    return found[-1] if found else None


def _start(prototypes: int, hidden: tuple[int, ...]) -> Any:
    """Let every site begin with filters of He et al. 2015: of filters near 0 nothing reaches the prototypes."""

    def init(key, shape, dtype=jnp.float32):
        layers, parts = dynamic_masks.shapes(prototypes, hidden), []
        for one, (inner, outer) in zip(jax.random.split(key, len(layers)), layers):
            parts += [jax.random.normal(one, (inner * outer,), dtype) * (2 / inner) ** 0.5, jnp.zeros(outer, dtype)]
        start = jnp.concatenate(parts)
        return jnp.tile(start, shape[0] // len(start))

    return init
