"""Decoupled heads of one-stage detectors (Ge et al. 2021, YOLOX, arXiv 2107.08430): of each point of a map the classes
come out of one branch and the box out of another. Each level has its own parameters.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mapjax.models.backbones.csp_darknet import Unit, spatial
from mapjax.models.layers import torch_default

PRIOR = 0.01  # of each class at each point before anything is learned (Lin et al. 2017, RetinaNet)
START = 2.0  # strides from a point to the sides of its box, before anything is learned
STRIDES = {"p3": 8, "p4": 16, "p5": 32}


def sites(height: int, width: int, shift: float, strides: Sequence[int] = tuple(STRIDES.values())) -> list[np.ndarray]:
    """Squares of side `stride` around the points of each level: (r_l 4) arrays, x1 y1 x2 y2, by row and column.

    Args:
      height, width: of the network's images, in pixels.
      shift: where in its cell the point is, in strides: 0.5 is the centre, 0 the corner.
      strides: of the levels.
    """
    found = []
    for stride in strides:
        rows, columns = (np.arange(-(-side // stride), dtype=np.float32) for side in (height, width))
        y, x = ((one + shift) * stride for one in np.meshgrid(rows, columns, indexing="ij"))
        half = stride / 2
        found.append(np.stack([x - half, y - half, x + half, y + half], -1).reshape(-1, 4).astype(np.float32))
    return found


class YoloxHead(nn.Module):
    """Maps (b h w _), finest first → "site_logits" (b r c), "site_deltas" (b r 4), "site_quality" (b r), float32.

    Names are YOLOX': "stems", "cls_convs", "reg_convs", "cls_preds", "reg_preds" and "obj_preds", numbered by level.
    """

    classes: int
    features: int
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> dict[str, Any]:
        options = {"norm": self.norm, "dtype": self.dtype}
        both = {"depthwise": self.depthwise, **options}
        maps = Stems(self.features, name="stems", **options)(maps, train)
        kinds = Branches(self.features, name="cls_convs", **both)(maps, train)
        places = Branches(self.features, name="reg_convs", **both)(maps, train)
        return {
            "site_logits": Answers(self.classes, _rare, self.dtype, name="cls_preds")(kinds),
            "site_deltas": Answers(4, nn.initializers.zeros, self.dtype, name="reg_preds")(places),
            "site_quality": Answers(1, _rare, self.dtype, name="obj_preds")(places)[..., 0],
        }


class YoloHead(nn.Module):
    """Maps (b h w _), finest first → "site_logits" (b r c) and "site_deltas" (b r 4; distances above 0), float32.

    The branch of the classes is depthwise: it needs less than that of the box (Wang et al. 2024, YOLOv10, arXiv
    2405.14458, section 3.2).

    features: of the two branches.
    """

    classes: int
    features: tuple[int, int]
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> dict[str, Any]:
        options = {"norm": self.norm, "dtype": self.dtype}
        kinds = Branches(self.features[0], True, name="cls_convs", **options)(maps, train)
        places = Branches(self.features[1], False, name="reg_convs", **options)(maps, train)
        deltas = Answers(4, nn.initializers.constant(START), self.dtype, name="reg_preds")(places)
        return {
            "site_logits": Answers(self.classes, _rare, self.dtype, name="cls_preds")(kinds),
            "site_deltas": nn.softplus(deltas),
        }


class Stems(nn.Module):
    """A 1×1 unit for each map."""

    features: int
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> list[Any]:
        options = {"norm": self.norm, "dtype": self.dtype}
        return [Unit(self.features, name=str(i), **options)(x, train) for i, x in enumerate(maps)]


class Branches(nn.Module):
    """A `Branch` for each map."""

    features: int
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any], train: bool) -> list[Any]:
        options = (self.features, self.depthwise, self.norm, self.dtype)
        return [Branch(*options, name=str(i))(x, train) for i, x in enumerate(maps)]


class Branch(nn.Module):
    """Two 3×3 convolutions with normalization and SiLU."""

    features: int
    depthwise: bool
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        for i in range(2):
            x = spatial(self.features, 1, self.depthwise, self.norm, self.dtype, str(i))(x, train)
        return x


class Answers(nn.Module):
    """A 1×1 convolution with bias for each map (b h w _); what they give of all points (b r features), in float32."""

    features: int
    bias: Any
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]):
        found = []
        for i, x in enumerate(maps):
            y = Answer(self.features, self.bias, self.dtype, name=str(i))(x)
            found.append(y.reshape(len(x), -1, self.features))
        return jnp.concatenate(found, 1)


class Answer(nn.Module):
    """A 1×1 convolution; its product and sum in float32, as scores are compared closely."""

    features: int
    bias: Any
    dtype: Any

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", torch_default, (1, 1, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", self.bias, (self.features,), jnp.float32)
        product = jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0].astype(self.dtype), preferred_element_type=jnp.float32)
        return product + bias


def _rare(key, shape, dtype=jnp.float32):
    del key
    return jnp.full(shape, -math.log((1 - PRIOR) / PRIOR), dtype)
