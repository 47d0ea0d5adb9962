"""Faster R-CNN with a feature pyramid (Ren et al. 2015; Lin et al. 2017), laid out as torchvision's.

Two mappings, and no truth in either: images → features and a score and box offsets for every anchor; then
(features, boxes) → class scores and box offsets for every box. `mapjax.tasks.detect` composes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.models.backbones import resnet
from mapjax.models.layers import Conv, Dense, MapDense
from mapjax.models.necks.fpn import FPN
from mapjax.ops import anchors as anchor_ops
from mapjax.ops.roi_align import roi_align_batch
from mapjax.sharding import mesh
from mapjax.task import Model

LEVELS = ("layer1", "layer2", "layer3", "layer4")  # strides 4, 8, 16, 32


class Backbone(nn.Module):
    """ResNet "body", then "fpn" over the named levels."""

    body: Mapping[str, Any]
    levels: tuple[str, ...]
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, images, train: bool) -> dict[str, Any]:
        features = resnet.module_of(**self.body, dtype=self.dtype, name="body")(images, train)
        features.pop("pool")
        pyramid = FPN(self.channels, dtype=self.dtype, name="fpn")([features[name] for name in self.levels])
        first = 2 + LEVELS.index(self.levels[0])
        return features | {f"p{first + i}": level for i, level in enumerate(pyramid)}


class Head(nn.Module):
    """RPN head: a 3×3 convolution, then a score and four offsets for each anchor, the same for all levels."""

    channels: int
    anchors: int
    dtype: Any

    @nn.compact
    def __call__(self, pyramid: Sequence[Any]):
        hidden = Shared(self.channels, self.dtype, name="conv")(pyramid)
        hidden = jnp.concatenate([x.reshape(len(x), -1, self.channels) for x in hidden], 1)
        scores = Pointwise(self.anchors, name="cls_logits")(self.channels)
        deltas = Pointwise(self.anchors * 4, name="bbox_pred")(self.channels)
        # One product for both: a TPU pads what each gives to 128 channels.
        kernel, bias = (jnp.concatenate(pair, -1).astype(self.dtype) for pair in zip(scores, deltas))
        both = hidden @ kernel[0, 0] + bias
        scores, deltas = jnp.split(both, [self.anchors], -1)
        return scores.reshape(len(both), -1), deltas.reshape(len(both), -1, 4)


class Pointwise(nn.Module):
    """The kernel and bias of a 1×1 convolution; `Head` applies two at once."""

    features: int

    @nn.compact
    def __call__(self, channels: int):
        kernel = self.param("kernel", nn.initializers.normal(0.01), (1, 1, channels, self.features), jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


class Shared(nn.Module):
    """One 3×3 convolution "0/0" with ReLU, applied to every map."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> list[Any]:
        return Sequential(self.channels, self.dtype, name="0")(maps)


class Sequential(nn.Module):
    """The inner "0" of `Shared`, as torchvision's tree has it."""

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, maps: Sequence[Any]) -> list[Any]:
        conv = Conv(self.channels, bias=True, init=nn.initializers.normal(0.01), dtype=self.dtype, name="0")
        return [nn.relu(conv(x)) for x in maps]


class RPN(nn.Module):
    """Region proposal network: its "head"."""

    channels: int
    anchors: int
    dtype: Any

    @nn.compact
    def __call__(self, pyramid: Sequence[Any]):
        return Head(self.channels, self.anchors, self.dtype, name="head")(pyramid)


class BoxHead(nn.Module):
    """Two dense layers "fc6" and "fc7" on the pooled features."""

    representation: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = nn.relu(MapDense(self.representation, dtype=self.dtype, name="fc6")(x))
        return nn.relu(Dense(self.representation, dtype=self.dtype, name="fc7")(x))


class BoxPredictor(nn.Module):
    """Class scores "cls_score" and a box for every class "bbox_pred"."""

    classes: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        logits = Dense(self.classes + 1, dtype=self.dtype, name="cls_score")(x)
        return logits, Dense((self.classes + 1) * 4, dtype=self.dtype, name="bbox_pred")(x)


class RoiHeads(nn.Module):
    """Pooled features (n p p d) → logits (n c+1) and deltas (n c+1 4)."""

    classes: int
    representation: int
    dtype: Any

    @nn.compact
    def __call__(self, pooled):
        x = BoxHead(self.representation, self.dtype, name="box_head")(pooled)
        logits, deltas = BoxPredictor(self.classes, self.dtype, name="box_predictor")(x)
        return logits, deltas.reshape(len(deltas), -1, 4)


class FasterRCNN(nn.Module):
    """The parameter tree: "backbone", "rpn", "roi_heads"."""

    classes: int
    body: Mapping[str, Any]
    levels: tuple[str, ...]
    channels: int
    anchors_per_cell: int
    representation: int
    pool: int
    dtype: Any

    def setup(self):
        self.backbone = Backbone(self.body, self.levels, self.channels, self.dtype)
        self.rpn = RPN(self.channels, self.anchors_per_cell, self.dtype)
        self.roi_heads = RoiHeads(self.classes, self.representation, self.dtype)

    def per_image(self, images, train: bool) -> dict[str, Any]:
        features = self.backbone(images, train)
        objectness, deltas = self.rpn([features[name] for name in self.pyramid])
        return {
            "features": features,
            "objectness": objectness.astype(jnp.float32),
            "deltas": deltas.astype(jnp.float32),
        }

    def regions(self, features, boxes) -> dict[str, Any]:
        names = self.pyramid[:-1]
        strides = [2 ** int(name[1:]) for name in names]
        pool = mesh.per_example(lambda maps, boxes: roi_align_batch(maps, strides, boxes, pool=self.pool))
        pooled = pool([features[name] for name in names], boxes)
        logits, deltas = self.roi_heads(pooled.reshape(-1, *pooled.shape[2:]))
        shape = boxes.shape[:2]
        return {
            "logits": logits.astype(jnp.float32).reshape(*shape, -1),
            "deltas": deltas.astype(jnp.float32).reshape(*shape, -1, 4),
        }

    def __call__(self, images):
        outputs = self.per_image(images, False)
        return self.regions(outputs["features"], jnp.zeros((len(images), 1, 4)))

    @property
    def pyramid(self) -> list[str]:
        """Names of the pyramid's levels, finest first; the last serves the RPN only."""
        first = 2 + LEVELS.index(self.levels[0])
        return [f"p{first + i}" for i in range(len(self.levels) + 1)]


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50},
    levels: Sequence[str] = LEVELS,
    channels: int = 256,
    anchor_sizes: Sequence[Sequence[int | float]] = ((32,), (64,), (128,), (256,), (512,)),
    ratios: Sequence[int | float] = (0.5, 1.0, 2.0),
    representation: int = 1024,
    pool: int = 7,
    dtype: str = "float32",
) -> Model:
    """Make a Faster R-CNN; the defaults are those of torchvision's `fasterrcnn_resnet50_fpn`.

    With b images, r anchors, n boxes and c classes its outputs are "features" (name → b h w d: "stem", "layer1" … of
    the backbone, "p2" … of the pyramid), "objectness" (b r) and "deltas" (b r 4); its calls are
      regions(variables, features, boxes) -> "logits" (b n c+1, background first), "deltas" (b n c+1 4), for boxes
        (b n 4) in pixels of the images
      anchors(image size) -> one (r_l 4) array a level, of the same order as "objectness"

    Args:
      classes: without background. backbone: a "resnet" node of the config (norm, width, remat … as there).
      levels: neighbouring stages of the backbone that the pyramid is built on. channels: of the pyramid.
      anchor_sizes: for each pyramid level (`levels` and one coarser) the anchors' sizes √area in pixels of the
        input. ratios: their heights over widths, the same on each level.
      representation: width of the box head. pool: bins per axis of a pooled box.
      dtype: of the arithmetic; parameters, scores and offsets are float32.
    """
    body = dict(backbone)
    if "classes" in body:
        raise UserError("faster_rcnn: its backbone takes no 'classes'; the detector has them.")
    if body.pop("name", "resnet") != "resnet":
        raise UserError(f"faster_rcnn has a pyramid over name='resnet' only, not over {backbone['name']!r}.")
    resnet.module_of(**body)  # finds a mistake here rather than inside Flax
    levels = tuple(levels)
    first = LEVELS.index(levels[0]) if levels and levels[0] in LEVELS else -1
    if first < 0 or levels != LEVELS[first : first + len(levels)]:
        raise UserError(f"faster_rcnn: levels={levels} must be neighbours, in order, of {', '.join(LEVELS)}.")
    if len(anchor_sizes) != len(levels) + 1 or len({len(sizes) for sizes in anchor_sizes}) != 1:
        raise UserError(
            f"faster_rcnn: anchor_sizes needs {len(levels) + 1} tuples of the same length, one for each of"
            f" {len(levels)} levels and one for the coarser level on top; found {anchor_sizes}."
        )
    module = FasterRCNN(
        classes=classes,
        body=body,
        levels=levels,
        channels=channels,
        anchors_per_cell=len(anchor_sizes[0]) * len(ratios),
        representation=representation,
        pool=pool,
        dtype=jnp.dtype(dtype),
    )

    def init(key, images):
        variables = module.init(key, images)
        return {"params": variables["params"], "stats": variables.get("stats", {})}

    def apply(variables, images, *, train=False, key=None):
        del key
        mutable = ["stats"] if train else []
        outputs, changed = module.apply(variables, images, train, mutable=mutable, method="per_image")
        return outputs, changed.get("stats", {}) if train else variables["stats"]

    def regions(variables, features, boxes) -> Any:
        return module.apply(variables, features, boxes, method="regions")

    def anchors(image):
        grids = [tuple(-(-side // 2 ** (first + 2 + i)) for side in image) for i in range(len(anchor_sizes))]
        return [anchor_ops.grid_anchors(image, grid, sizes, ratios) for grid, sizes in zip(grids, anchor_sizes)]

    return Model(jax.jit(init), apply, {"regions": regions, "anchors": anchors})
