"""Faster R-CNN with a feature pyramid (Ren et al. 2015; Lin et al. 2017) on any backbone, laid out as torchvision's.

Two mappings, and no truth in either: images → features and a score and box offsets for every anchor; then
(features, boxes) → class scores and box offsets for every box. Of Mask R-CNN and Keypoint R-CNN (He et al. 2017) there
are more: (features, boxes) → a mask within each box, or where its keypoints are. `mapjax.tasks.detection.two_stage`
composes them.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.models.compose import heads_below, make_backbone
from mapjax.models.heads import boxes as box_heads
from mapjax.models.heads import keypoints as keypoint_heads
from mapjax.models.heads import masks as mask_heads
from mapjax.models.heads.rpn import RPN
from mapjax.models.layers import module_of, run, variables_of
from mapjax.models.necks import pyramid
from mapjax.models.necks.body import Backbone
from mapjax.ops import anchors as anchor_ops
from mapjax.ops.roi_align import roi_align_batch
from mapjax.sharding import mesh, tensor
from mapjax.task import Model

NORMS = ("none", "batch", "frozen", "group")


class FasterRCNN(nn.Module):
    """The parameter tree: "backbone", "rpn", "roi_heads".

    pooled: the pyramid's maps that boxes are pooled from.
    strides: of these, rising by 2.
    pool: bins per axis.
    mask_pool: likewise, of masks and keypoints.
    cascade: further box heads.
    """

    backbone: Backbone
    rpn: RPN
    roi_heads: box_heads.RoiHeads
    pooled: tuple[str, ...]
    strides: tuple[int, ...]
    pool: int
    mask_pool: int
    cascade: tuple[box_heads.RoiHeads, ...] = ()

    def per_image(self, images, train: bool) -> dict[str, Any]:
        features = self.backbone(images, train)
        objectness, deltas = self.rpn([features[name] for name in self.backbone.names])
        return {
            "features": features,
            "objectness": objectness.astype(jnp.float32),
            "deltas": deltas.astype(jnp.float32),
        }

    def regions(self, features, boxes, train: bool, heads: box_heads.RoiHeads | None = None) -> dict[str, Any]:
        logits, deltas = (heads or self.roi_heads)(self._pool(features, boxes, self.pool), train)
        shape = boxes.shape[:2]
        return {
            "logits": logits.astype(jnp.float32).reshape(*shape, -1),
            "deltas": deltas.astype(jnp.float32).reshape(*shape, -1, 4),
        }

    def further(self, features, boxes, number: int, train: bool) -> dict[str, Any]:
        return self.regions(features, boxes, train, self.cascade[number])

    def masks(self, features, boxes, classes, train: bool):
        pooled = self._pool(features, boxes, self.mask_pool)
        logits = self.roi_heads.masks(pooled, classes.reshape(-1), train)
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    def keypoints(self, features, boxes, train: bool):
        del train
        logits = self.roi_heads.keypoints(self._pool(features, boxes, self.mask_pool))
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    def __call__(self, images):
        features, boxes = self.per_image(images, False)["features"], jnp.zeros((len(images), 1, 4))
        if self.roi_heads.mask_head is not None:
            self.masks(features, boxes, jnp.zeros(boxes.shape[:2], jnp.int32), False)
        if self.roi_heads.keypoint_head is not None:
            self.keypoints(features, boxes, False)
        for number in range(len(self.cascade)):
            self.further(features, boxes, number, False)
        return self.regions(features, boxes, False)

    def _pool(self, features, boxes, bins: int):
        """Pool boxes (b n 4): (b·n bins bins d)."""
        pool = mesh.per_example(lambda maps, boxes: roi_align_batch(maps, self.strides, boxes, pool=bins))
        pooled = pool([features[name] for name in self.pooled], boxes)
        return pooled.reshape(-1, *pooled.shape[2:])


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50},
    levels: Sequence[str | int] | None = None,
    channels: int = 256,
    anchor_sizes: Sequence[Sequence[int | float]] | None = None,
    ratios: Sequence[int | float] = (0.5, 1.0, 2.0),
    rpn_depth: int = 1,
    box_convs: int = 0,
    norm: str = "none",
    representation: int = 1024,
    pool: int = 7,
    mask_convs: int = 0,
    mask_channels: int = 256,
    keypoints: int = 0,
    keypoint_convs: int = 8,
    keypoint_channels: int = 512,
    mask_pool: int = 14,
    cascade: int = 0,
    dtype: str = "float32",
) -> Model:
    """Make a Faster R-CNN; the defaults are those of torchvision's `fasterrcnn_resnet50_fpn`.

    Of images (b h w 3, normalised, with sides that the strides of `levels` divide) it gives "features" (name →
    b i j d: the backbone's maps, and those of the pyramid, "p2" for stride 2² …), "objectness" (b r) and "deltas"
    (b r 4) of r anchors. Its calls, of n boxes and c classes:

        regions(variables, features, boxes, *, train) -> ("logits" (b n c+1, background first) and "deltas"
            (b n c+1 4) by name, stats), for boxes (b n 4) in pixels of the images
        masks(variables, features, boxes, classes, *, train) -> (logits (b n 2m 2m) of the masks of these classes (b n)
            within the boxes, stats), where it has `mask_convs`; m is `mask_pool`
        keypoints(variables, features, boxes, *, train) -> (logits (b n 4m 4m k), stats), where it has `keypoints`
        regions2, regions3 …: as `regions`, of the further heads of a `cascade`
        anchors(size of the images) -> one (r_l 4) array a level of the pyramid, in the order of "objectness"

    Args:
      classes: without background.
      backbone: a node of the config that names a network with levels (norm, width, remat … as there). One whose maps
        are all of one stride, as a ViT's, gets a simple pyramid of the last of them (Li et al. 2022); any other an FPN.
      levels: the backbone's maps that the pyramid is built on, finest first, by name or by stride (the last map of
        that stride); None: those of strides 4, 8, 16 and 32, as far as there are such. Where one is smaller than
        the image's sides by its stride, rounded up, zeros are put around it.
      channels: of the pyramid.
      anchor_sizes: for each pyramid level (`levels` and one coarser) the anchors' sizes √area in pixels of the
        input; None: one of 8 times the level's stride.
      ratios: the anchors' heights over widths, the same on each level.
      rpn_depth: convolutions before the scores of anchors.
      box_convs: those of the box head, in place of its first dense layer.
      norm: "none", "batch", "frozen" or "group", of an FPN and of these convolutions.
      representation: width of the box head.
      pool: bins per axis of a pooled box.
      mask_convs: convolutions of a mask head; torchvision's Mask R-CNN has 4, and 0 is no such head.
      mask_channels: of each of them.
      keypoints: how many an object has; 0 is no keypoint head.
      keypoint_convs, keypoint_channels: convolutions of a keypoint head, and channels of each.
      mask_pool: as `pool`, for masks and keypoints.
      cascade: further box heads, 2 in Cascade R-CNN (Cai & Vasconcelos 2018); each, and the first, then has one box for
        all classes.
      dtype: of the arithmetic; parameters, scores and offsets are float32.

    Raises:
      UserError: a backbone without maps to build on, levels that do not follow each other, or options out of range.

    Example:
      >>> from mapjax.models.detectors import faster_rcnn
      >>> model = faster_rcnn.make(backbone={"name": "resnet", "depth": 18}, classes=20)
      >>> sorted(model.calls), model.levels
      (['anchors', 'regions'], {'p2': 4, 'p3': 8, 'p4': 16, 'p5': 32})
    """
    _require_sound(backbone, levels, ratios, norm)
    least = {"channels": channels, "rpn_depth": rpn_depth, "representation": representation, "pool": pool}
    least |= {"mask_channels": mask_channels, "keypoint_channels": keypoint_channels, "mask_pool": mask_pool}
    _require_least(1, **least, keypoint_convs=keypoint_convs)
    _require_least(0, box_convs=box_convs, mask_convs=mask_convs, keypoints=keypoints, cascade=cascade)
    node, kind = {"name": "resnet", **backbone}, jnp.dtype(dtype)
    body = make_backbone("faster_rcnn", node, dtype)
    built = pyramid.over(node, body.levels, levels, channels=channels, norm=norm, dtype=kind)
    sizes = anchor_sizes or tuple((8 * stride,) for stride in built.strides)
    if len(sizes) != len(built.strides) or len({len(one) for one in sizes}) != 1:
        raise UserError(
            f"faster_rcnn: anchor_sizes needs {len(built.strides)} tuples of the same length, one for each of"
            f" {len(built.strides) - 1} levels and one for the coarser level on top; found {anchor_sizes}."
        )
    # Of two maps of one stride the first is pooled from, as in torchvision.
    pooled = dict(reversed(list(zip(built.strides[:-1], built.names))))
    reads = tuple(body.levels[name] for name in built.reads)
    further = {}
    if mask_convs:
        further["mask_head"] = mask_heads.MaskHead(mask_convs, mask_channels, norm, kind)
        further["mask_predictor"] = mask_heads.MaskPredictor(classes, mask_channels, kind)
    if keypoints:
        further["keypoint_head"] = keypoint_heads.KeypointHead(keypoint_convs, keypoint_channels, kind)
        further["keypoint_predictor"] = keypoint_heads.KeypointPredictor(keypoints, kind)
    module = FasterRCNN(
        Backbone(module_of(body), built.neck, tuple(body.levels), built.reads, reads, built.names),
        RPN(channels, len(sizes[0]) * len(ratios), rpn_depth, kind),
        box_heads.RoiHeads(classes, representation, box_convs, norm, kind, agnostic=cascade > 0, **further),
        tuple(pooled[stride] for stride in sorted(pooled)),
        tuple(sorted(pooled)),
        pool,
        mask_pool,
        tuple(
            box_heads.RoiHeads(classes, representation, box_convs, norm, kind, agnostic=True) for _ in range(cascade)
        ),
    )

    def anchors(image):
        found = []
        for stride, one in zip(built.strides, sizes):
            grid = -(-image[0] // stride), -(-image[1] // stride)
            found.append(anchor_ops.grid_anchors(image, grid, one, ratios))
        return found

    heads = (*heads_below("backbone/body", body), "^rpn/", "^roi_heads/", r"^cascade_\d/")
    rules = (
        *tensor.below("backbone/body", body.rules),
        *box_heads.rules_of(box_convs),
        *mask_heads.rules_of(mask_convs),
        *(keypoint_heads.rules_of(keypoint_convs) if keypoints else ()),
    )
    calls = {"regions": partial(run, module, "regions"), "anchors": anchors}
    there = {"masks": mask_convs, "keypoints": keypoints}
    calls |= {name: partial(run, module, name) for name, count in there.items() if count}
    for number in range(cascade):
        calls[f"regions{number + 2}"] = partial(_run_further, module, number)
    own = dict(zip(built.names[:-1], built.strides))  # the map on top is taken from the one before it, at any size
    apply = partial(run, module, "per_image")
    return Model(jax.jit(partial(variables_of, module)), apply, calls, levels=own, heads=heads, rules=rules)


def _require_sound(backbone: Any, levels: Any, ratios: Any, norm: Any) -> None:
    if not isinstance(backbone, Mapping):
        raise UserError(f"faster_rcnn: backbone={backbone!r} must be a node, as in dict(name='resnet', depth=50).")
    if levels is not None and not isinstance(levels, tuple | list):
        raise UserError(f"faster_rcnn: levels={levels!r} must be names or strides of maps, as in (8, 16, 32).")
    if not isinstance(ratios, tuple | list) or not ratios or not all(ratio > 0 for ratio in ratios):
        raise UserError(f"faster_rcnn: ratios={ratios!r} must be heights over widths above 0, as in (0.5, 1, 2).")
    if norm not in NORMS:
        raise UserError(f"faster_rcnn has no norm={norm!r}.{near(norm, NORMS)}")


def _require_least(lowest: int, **options: int) -> None:
    for name, value in options.items():
        if value < lowest:
            raise UserError(f"faster_rcnn: {name}={value} must be {lowest} or more.")


def _run_further(module: FasterRCNN, number: int, variables, features, boxes, *, train: bool = False):
    return run(module, "further", variables, features, boxes, number, train=train)
