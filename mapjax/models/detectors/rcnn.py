"""R-CNN (Girshick et al. 2014, arXiv 1311.2524) on any backbone: each box is cut out, warped, and seen by itself.

One mapping: (images, boxes) → class scores and box offsets for every box. Boxes come from outside, as by selective
search: `mapjax.tasks.detection.two_stage` with proposals="data". As in the paper a box is warped to a square of one
size, with some of what is around it. Unlike there, scores and offsets are learned together with the features (as in
Fast R-CNN), from a softmax; its class SVMs are fitted afterwards (mapjax.tasks.detection.class_svms).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.models.compose import heads_below, make_backbone
from mapjax.models.detectors.fast_rcnn import by_box, require_sound
from mapjax.models.heads.boxes import BoxPredictor
from mapjax.models.layers import module_of, run, variables_of
from mapjax.ops.roi_align import roi_align
from mapjax.sharding import mesh, tensor
from mapjax.task import Model

IMAGES = "images"  # among the features: what boxes are cut out of


class RCNN(nn.Module):
    """The parameter tree: "backbone", "box_predictor"."""

    backbone: nn.Module
    box_predictor: BoxPredictor
    side: int

    def crops(self, crops, train: bool):
        """Crops (n s s 3) → logits (n c+1), offsets (n 4·(c+1)) and the vector (n d) that they are read from."""
        vector = self.backbone(crops, train)["pool"]
        return *self.box_predictor(vector), vector

    def __call__(self, images):
        return self.crops(jnp.zeros((len(images), self.side, self.side, 3), images.dtype), False)


def make(
    *,
    classes: int,
    backbone: Mapping[str, Any] = {"name": "resnet", "depth": 50},
    side: int = 224,
    context: float | int = 16 / 227,
    at_once: int = 64,
    dtype: str = "float32",
) -> Model:
    """Make an R-CNN. The paper's stands on AlexNet, with crops of 227 pixels of which 16 on each side are around a box.

    Of images (b h w 3, normalised) it gives "features": the images themselves. Its calls, of n boxes and c classes:

        regions(variables, features, boxes, *, train) -> ("logits" (b n c+1, background first) and "deltas"
            (b n c+1 4) by name, stats), for boxes (b n 4) in pixels of the images
        vectors(variables, features, boxes) -> (b n d), from which these are read

    Args:
      classes: without background.
      backbone: a node of the config that names a network with a "pool", as classifiers have it.
      side: pixels of the square that a box is warped to.
      context: share of it, on each side, that shows what is around the box; black where that is beyond the image.
      at_once: crops of an image that go through the network together in evaluation; memory grows with it.
      dtype: of the arithmetic; parameters, scores and offsets are float32.

    Raises:
      UserError: a backbone that is none, or options out of range.

    Example:
      >>> from mapjax.models.detectors import rcnn
      >>> model = rcnn.make(backbone={"name": "resnet", "depth": 18}, classes=20)
      >>> sorted(model.calls), model.levels
      (['regions', 'vectors'], {})
    """
    require_sound("rcnn", backbone, side=side, at_once=at_once)
    if not 0 <= context < 0.5:
        raise UserError(f"rcnn: context={context} must be a share of the crop on each side, from 0 to less than 0.5.")
    body = make_backbone("rcnn", {"name": "resnet", **backbone}, dtype)
    module = RCNN(module_of(body), BoxPredictor(classes, jnp.dtype(dtype)), side)
    cut = mesh.per_example(lambda images, boxes: jax.vmap(partial(warped, side=side, context=context))(images, boxes))

    def apply(variables, images, *, train=False, key=None):
        del train, key
        return {"features": {IMAGES: images}}, variables["stats"]

    def seen(variables, images, boxes, train):
        crops = cut(images, boxes)
        return run(module, "crops", variables, crops.reshape(-1, *crops.shape[2:]), train=train)

    def in_turns(variables, images, boxes):
        """Let some crops of each image through after the others."""
        b, n = boxes.shape[:2]
        turns = -(-n // at_once)
        padded = jnp.pad(boxes, ((0, 0), (0, turns * at_once - n), (0, 0)))
        parts = padded.reshape(b, turns, at_once, 4).swapaxes(0, 1)
        found = jax.lax.map(lambda part: seen(variables, images, part, False)[0], parts)
        return [
            one.reshape(turns, b, at_once, -1).swapaxes(0, 1).reshape(b, turns * at_once, -1)[:, :n] for one in found
        ]

    def regions(variables, features, boxes, *, train=False):
        images = features[IMAGES]
        if train:
            (logits, deltas, _), stats = seen(variables, images, boxes, True)
        else:
            (logits, deltas, _), stats = in_turns(variables, images, boxes), variables["stats"]
        return by_box(logits, deltas, boxes), stats

    def vectors(variables, features, boxes):
        return in_turns(variables, features[IMAGES], boxes)[2]

    heads = (*heads_below("backbone", body), "^box_predictor/")
    rules = tensor.below("backbone", body.rules)
    calls = {"regions": regions, "vectors": vectors}
    return Model(jax.jit(partial(variables_of, module)), apply, calls, heads=heads, rules=rules)


def warped(image, boxes, *, side: int, context: float | int):
    """Cut boxes (n 4) out of an image (h w 3), each warped to a square (n s s 3) with what is around it."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 / (1 - 2 * context)
    wider = jnp.concatenate([centre - half, centre + half], 1)
    # roi_align has a pixel's value in its upper left corner.
    return roi_align([image], [1], wider - 0.5, pool=side, samples=2)
