"""FCOS (Tian et al. 2019 and 2020, arXiv 1904.01355, 2006.09214) on any backbone, laid out as torchvision's.

Of every place it says a score of each class, how far the box's edges are, and how central the place is in its box.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from mapjax.models.detectors.retinanet import OnPyramid, require_head
from mapjax.models.heads.sites import SiteHead, rules_of
from mapjax.models.layers import model_of
from mapjax.models.necks.body import build
from mapjax.ops import anchors as anchor_ops
from mapjax.task import Model


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50},
    levels: Sequence[str | int] | None = None,
    channels: int = 256,
    top: str = "pyramid",
    depth: int = 4,
    norm: str = "group",
    prior: float = 0.01,
    dtype: str = "float32",
) -> Model:
    """Make an FCOS; the defaults are those of torchvision's `fcos_resnet50_fpn`.

    Its outputs and its call "sites" are those of `retinanet.make`, with one site a place, the square of the level's
    stride around it, and "site_quality" (b r) besides. Its deltas are distances (ops/box_codes.py), 0 or more.

    Args:
      classes, backbone, levels, channels, top, depth, norm, prior, dtype: as for `retinanet.make`.

    Raises:
      UserError: a backbone without maps to build on, levels that do not follow each other, or options out of range.

    Example:
      >>> from mapjax.models.detectors import fcos
      >>> model = fcos.make(backbone={"name": "resnet", "depth": 18}, classes=20)
      >>> [len(level) for level in model.calls["sites"](128, 256)]
      [512, 128, 32, 8, 2]
    """
    require_head("fcos", depth, norm, prior)
    built = build("fcos", backbone, levels, channels=channels, top=top, dtype=dtype)
    head = SiteHead(classes, 1, depth, norm, prior, flat=True, quality=True, dtype=jnp.dtype(dtype))
    heads, rules = (*built.heads, "^head/"), (*built.rules, *rules_of(depth, flat=True))
    model = model_of(OnPyramid(built.module, head), levels=built.levels, heads=heads, rules=rules)

    def sites(height: int, width: int):
        grids = [(-(-height // stride), -(-width // stride)) for stride in built.strides]
        return [anchor_ops.grid_anchors((height, width), grid, (s,), (1,)) for s, grid in zip(built.strides, grids)]

    return model._replace(calls={"sites": sites})
