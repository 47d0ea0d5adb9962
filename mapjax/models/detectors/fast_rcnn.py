"""Fast R-CNN (Girshick 2015, arXiv 1504.08083) on any backbone: one map of the image, from which boxes are pooled.

Two mappings, and no proposals in either: images → features; then (features, boxes) → class scores and box offsets for
every box. Boxes come from outside, as by selective search: `mapjax.tasks.detection.two_stage` with proposals="data".
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.compose import by_stride, heads_below, make_backbone
from mapjax.models.heads import boxes as box_heads
from mapjax.models.layers import module_of, run, variables_of
from mapjax.ops.roi_align import roi_align_batch
from mapjax.ops.roi_pool import roi_pool_batch
from mapjax.sharding import mesh, tensor
from mapjax.task import Model

POOLING = ("max", "align")


class FastRCNN(nn.Module):
    """The parameter tree: "backbone", "roi_heads".

    level: the backbone's map that boxes are pooled from, and
    stride: its.
    """

    backbone: nn.Module
    roi_heads: box_heads.RoiHeads
    level: str
    stride: int
    pool: int
    pooling: str

    def per_image(self, images, train: bool) -> dict[str, Any]:
        return {"features": self.backbone(images, train)}

    def regions(self, features, boxes, train: bool) -> dict[str, Any]:
        pooled = mesh.per_example(self._pool)(features[self.level], boxes)
        logits, deltas = self.roi_heads(pooled.reshape(-1, *pooled.shape[2:]), train)
        return by_box(logits, deltas, boxes)

    def __call__(self, images):
        return self.regions(self.per_image(images, False)["features"], jnp.zeros((len(images), 1, 4)), False)

    def _pool(self, features, boxes):
        if self.pooling == "max":
            return roi_pool_batch(features, self.stride, boxes, pool=self.pool)
        return roi_align_batch([features], [self.stride], boxes, pool=self.pool)


def by_box(logits, deltas, boxes) -> dict[str, Any]:
    """Give the head's answers for boxes (b n 4): "logits" (b n c+1) and "deltas" (b n c+1 4), in float32."""
    shape = boxes.shape[:2]
    logits, deltas = logits.astype(jnp.float32), deltas.astype(jnp.float32)
    return {"logits": logits.reshape(*shape, -1), "deltas": deltas.reshape(*shape, -1, 4)}


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50},
    level: str | int = 16,
    pool: int = 7,
    pooling: str = "max",
    representation: int = 1024,
    dtype: str = "float32",
) -> Model:
    """Make a Fast R-CNN. The paper's stands on VGG-16, and has 4,096 numbers in each of two dense layers.

    Of images (b h w 3, normalised) it gives "features" (name → b i j d: the backbone's maps). Its call, of n boxes
    and c classes:

        regions(variables, features, boxes, *, train) -> ("logits" (b n c+1, background first) and "deltas"
            (b n c+1 4) by name, stats), for boxes (b n 4) in pixels of the images

    Args:
      classes: without background.
      backbone: a node of the config that names a network with levels.
      level: the backbone's map that boxes are pooled from, by name or by stride (the last map of that stride).
      pool: bins per axis of a pooled box.
      pooling: "max" of the cells of a bin, or "align", a mean of samples (RoIAlign of Mask R-CNN).
      representation: width of the two dense layers.
      dtype: of the arithmetic; parameters, scores and offsets are float32.

    Raises:
      UserError: a backbone without that map, or options out of range.

    Example:
      >>> from mapjax.models.detectors import fast_rcnn
      >>> model = fast_rcnn.make(backbone={"name": "resnet", "depth": 18}, classes=20)
      >>> sorted(model.calls), model.levels
      (['regions'], {'layer3': 16})
    """
    if pooling not in POOLING:
        raise UserError(f"fast_rcnn: pooling={pooling!r} must be 'max' or 'align'.{near(pooling, POOLING)}")
    require_sound("fast_rcnn", backbone, pool=pool, representation=representation)
    body = make_backbone("fast_rcnn", {"name": "resnet", **backbone}, dtype)
    named = {**{name: name for name in body.levels}, **by_stride(body.levels)}
    if level not in named:
        known = ", ".join(f"{name} (stride {stride})" for name, stride in body.levels.items()) or "none"
        raise UserError(f"fast_rcnn: its backbone has no map level={level!r}; it has {known}.")
    chosen, kind = named[level], jnp.dtype(dtype)
    stride = body.levels[chosen]
    head = box_heads.RoiHeads(classes, representation, dtype=kind)
    module = FastRCNN(module_of(body), head, chosen, stride, pool, pooling)
    return Model(
        jax.jit(partial(variables_of, module)),
        partial(run, module, "per_image"),
        {"regions": partial(run, module, "regions")},
        levels={chosen: stride},
        heads=(*heads_below("backbone", body), "^roi_heads/"),
        rules=(*tensor.below("backbone", body.rules), *box_heads.rules_of(0)),
    )


def require_sound(network: str, backbone: Any, **options: int) -> None:
    """Check what R-CNN and Fast R-CNN have in common.

    Raises:
      UserError: a backbone that is no node, or an option below 1.
    """
    if not isinstance(backbone, Mapping):
        raise UserError(f"{network}: backbone={backbone!r} must be a node, as in dict(name='resnet', depth=50).")
    for name, value in options.items():
        if value < 1:
            raise UserError(f"{network}: {name}={value} must be 1 or more.")
