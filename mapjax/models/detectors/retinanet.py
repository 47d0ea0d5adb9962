"""RetinaNet (Lin et al. 2017, arXiv 1708.02002) on any backbone, laid out as torchvision's.

It says a score of each class and box offsets for every anchor; `mapjax.tasks.detection.dense` trains and reads it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.heads.sites import NORMS, SiteHead, rules_of
from mapjax.models.layers import model_of
from mapjax.models.necks.body import Backbone, build
from mapjax.ops import anchors as anchor_ops
from mapjax.task import Model


class OnPyramid(nn.Module):
    """A network and its pyramid, "backbone", and one "head" for all maps of the pyramid."""

    backbone: Backbone
    head: SiteHead

    def __call__(self, images, train: bool = False) -> dict[str, Any]:
        features = self.backbone(images, train)
        return {"features": features, **self.head([features[name] for name in self.backbone.names])}


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50},
    levels: Sequence[str | int] | None = None,
    channels: int = 256,
    top: str = "pyramid",
    anchor_sizes: Sequence[Sequence[int | float]] | None = None,
    ratios: Sequence[int | float] = (0.5, 1.0, 2.0),
    depth: int = 4,
    norm: str = "none",
    prior: float = 0.01,
    dtype: str = "float32",
) -> Model:
    """Make a RetinaNet; the defaults are those of torchvision's `retinanet_resnet50_fpn`.

    Of images (b h w 3, normalised, with sides that the strides of `levels` divide) it gives "features" (name →
    b i j d: the backbone's maps, and those of the pyramid, "p3" for stride 2³ …), "site_logits" (b r c) and
    "site_deltas" (b r 4) of r anchors. Its call sites(height, width) gives one array (r_l 4) of anchors a level.

    Args:
      classes: without background.
      backbone, levels: as for `faster_rcnn.make`, but from stride 8 on.
      channels: of the pyramid and the head.
      top: the two coarsest maps are convolved from the last one of the "pyramid", or of the "backbone" (`_v2`).
      anchor_sizes: for each pyramid level (`levels` and two coarser) the anchors' sizes √area in pixels of the input;
        None: 4 times the level's stride, and 2^⅓ and 2^⅔ times that.
      ratios: the anchors' heights over widths, the same on each level.
      depth: convolutions of a branch before the last.
      norm: "none" or "group", of these.
      prior: the score of every class to begin with.
      dtype: of the arithmetic; parameters and what is said of sites are float32.

    Raises:
      UserError: a backbone without maps to build on, levels that do not follow each other, or options out of range.

    Example:
      >>> from mapjax.models.detectors import retinanet
      >>> model = retinanet.make(backbone={"name": "resnet", "depth": 18}, classes=20)
      >>> model.levels, [len(level) for level in model.calls["sites"](128, 256)]
      ({'p3': 8, 'p4': 16, 'p5': 32}, [4608, 1152, 288, 72, 18])
    """
    require_head("retinanet", depth, norm, prior)
    if not isinstance(ratios, tuple | list) or not ratios or not all(ratio > 0 for ratio in ratios):
        raise UserError(f"retinanet: ratios={ratios!r} must be heights over widths above 0, as in (0.5, 1, 2).")
    built = build("retinanet", backbone, levels, channels=channels, top=top, dtype=dtype)
    sizes = anchor_sizes or tuple(_octave(4 * stride) for stride in built.strides)
    if len(sizes) != len(built.strides) or len({len(one) for one in sizes}) != 1:
        raise UserError(
            f"retinanet: anchor_sizes needs {len(built.strides)} tuples of the same length, one for each of "
            f"{len(built.strides) - 2} levels and two for the coarser ones on top; found {anchor_sizes}."
        )
    head = SiteHead(classes, len(sizes[0]) * len(ratios), depth, norm, prior, dtype=jnp.dtype(dtype))
    heads, rules = (*built.heads, "^head/"), (*built.rules, *rules_of(depth, flat=False))
    model = model_of(OnPyramid(built.module, head), levels=built.levels, heads=heads, rules=rules)

    def sites(height: int, width: int):
        found = []
        for stride, one in zip(built.strides, sizes):
            grid = -(-height // stride), -(-width // stride)
            found.append(anchor_ops.grid_anchors((height, width), grid, one, ratios))
        return found

    return model._replace(calls={"sites": sites})


def _octave(size: int) -> tuple[int, ...]:
    return size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))


def require_head(network: str, depth: int, norm: str, prior: float) -> None:
    """Refuse options of a head that cannot be.

    Raises:
      UserError: which one.
    """
    if depth < 0:
        raise UserError(f"{network}: depth={depth} must be 0 or more.")
    if norm not in NORMS:
        raise UserError(f"{network} has no norm={norm!r}.{near(norm, NORMS)}")
    if not 0 < prior < 1:
        raise UserError(f"{network}: prior={prior} must be between 0 and 1.")
