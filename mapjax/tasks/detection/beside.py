"""What objects have beside their boxes (He et al. 2017): masks, and keypoints, as branches of a two-stage detector.

A branch learns from the objects among the proposals that the second stage learns from; and answers for the boxes that
are found. What differs between branches are its functions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.ops import boxes as box_ops
from mapjax.ops import keypoint_maps, losses
from mapjax.ops.mask_crops import crop
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Model, Prediction, Result, Variables


class Branch(NamedTuple):
    """A branch; boxes are those of the network's input.

    key: of a batch, what it learns from, and
    mend: what is to be set in a config where a batch has none, or the network no such head.
    loss(variables, features, rois, batch) -> (terms, stats): rois are those of `two_stage.sample_rois`, objects only,
      with `positive`.
    predict(variables, features, found) -> Prediction, of the boxes and classes that are found.
    decode(prediction, batch) -> Result
    """

    key: str
    mend: str
    loss: Callable[[Variables, Any, dict[str, Any], Batch], tuple[dict[str, Any], Any]]
    predict: Callable[[Variables, Any, Result], Prediction]
    decode: Callable[[Prediction, Batch], Result]


def masks(model: Model) -> Branch:
    """Make the branch of masks: of each box a mask of its class, learned on proposals by their own grid."""

    def loss(variables: Variables, features: Any, rois: dict[str, Any], batch: Batch):
        labels = jnp.maximum(rois["labels"] - 1, 0)
        logits, stats = model.calls["masks"](variables, features, rois["boxes"], labels, train=True)
        learn = shard.per_example(jax.vmap(mask_loss))
        lost, count = learn(logits, rois, batch["boxes"], batch["box_masks"])
        return {"loss_mask": lost.sum() / jnp.maximum(count.sum(), 1)}, stats

    def predict(variables: Variables, features: Any, found: Result) -> Prediction:
        return {"mask_logits": model.calls["masks"](variables, features, found["boxes"], found["classes"])[0]}

    def decode(prediction: Prediction, batch: Batch) -> Result:
        del batch
        return {"mask_scores": jax.nn.sigmoid(prediction["mask_logits"])}

    mend = "model.mask_convs=4, transform.mask_size=64, and data with masks"
    return Branch("box_masks", mend, loss, predict, decode)


def left_out(batch: Batch) -> dict[str, Any]:
    """Count the objects of a batch that are left out, as nothing of their masks is in view."""
    key = "masks_left_out"
    return {key: jnp.where(batch["mask"], batch[key], 0).sum()} if key in batch else {}


def mask_loss(logits, rois, boxes, grids):
    """Binary cross-entropy of the masks of one image's proposals, summed, and of how many cells.

    Args:
      logits (p m m): of the proposals' own classes.
      rois: of the proposals "boxes" (p 4), the "owner" (p) of each among the objects, and which are "positive" (p).
      boxes (n 4), grids (n c c): of the objects; one without anything in its grid teaches nothing.
    """
    owner, size = rois["owner"], logits.shape[-1]
    grid = grids[owner].astype(jnp.float32) / 255
    target = crop(grid, boxes[owner], rois["boxes"], size)
    real = rois["positive"] & jnp.any(grid > 0, (1, 2))
    lost = losses.binary_cross_entropy(logits, jax.lax.stop_gradient(target)).sum((1, 2))
    return losses.masked_sum(lost, real), real.sum() * size**2


def keypoints(model: Model) -> Branch:
    """Make the branch of keypoints: of each box as many maps as an object has keypoints, a place on each."""

    def loss(variables: Variables, features: Any, rois: dict[str, Any], batch: Batch):
        logits, stats = model.calls["keypoints"](variables, features, rois["boxes"], train=True)
        if (given := batch["keypoints"].shape[-2]) != logits.shape[-1]:
            raise UserError(
                f"the data has {given} keypoints an object, and the network answers {logits.shape[-1]}: set "
                f"model.keypoints={given}."
            )
        lost, count = shard.per_example(jax.vmap(keypoint_loss))(logits, rois, batch["keypoints"])
        return {"loss_keypoint": lost.sum() / jnp.maximum(count.sum(), 1)}, stats

    def predict(variables: Variables, features: Any, found: Result) -> Prediction:
        return {"keypoint_logits": model.calls["keypoints"](variables, features, found["boxes"])[0]}

    def decode(prediction: Prediction, batch: Batch) -> Result:
        longest = max(batch["image"].shape[1:3])
        find = jax.vmap(lambda maps, boxes: keypoint_maps.peaks(maps, boxes, longest))
        found = shard.per_example(find)(prediction["keypoint_logits"], prediction["boxes"])
        back = box_ops.invert_affine(batch["matrix"])
        points = jnp.einsum("bij,bnkj->bnki", back[:, :2, :2], found[..., :2]) + back[:, None, None, :2, 2]
        points = jnp.concatenate([points, found[..., 2:]], -1)
        return {"keypoints": jnp.where(prediction["valid"][..., None, None], points, 0)}

    mend = "model.keypoints to the number of an object's keypoints, and data with keypoints"
    return Branch("keypoints", mend, loss, predict, decode)


def keypoint_loss(logits, rois, keypoints):
    """Cross-entropy of the places of one image's keypoints, summed, and of how many.

    Args:
      logits (p m m k): of the proposals.
      rois: as for `mask_loss`.
      keypoints (n k 3): of the objects.
    """
    place, learned = keypoint_maps.places(keypoints[rois["owner"]], rois["boxes"], logits.shape[1])
    learned &= rois["positive"][:, None]
    flat = logits.reshape(len(logits), -1, logits.shape[-1]).transpose(0, 2, 1)
    return losses.masked_sum(losses.cross_entropy(flat, place), learned), learned.sum()


BRANCHES: dict[str, Callable[[Model], Branch]] = {"masks": masks, "keypoints": keypoints}
METRICS = {"masks": ("mask_precision",), "keypoints": ("keypoint_precision",)}  # beside that of boxes
