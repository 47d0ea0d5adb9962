"""Masks as a branch of dense detectors (Tian et al. 2020, CondInst): learned at some of the sites that have an object,
and drawn for the boxes that are answered.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.ops import matching
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Model, Prediction, Result
from mapjax.tasks.detection.beside import mask_loss

KEY = "box_masks"  # of a batch
GIVES = ("prototypes", "site_filters")
MEND = "model.name='condinst', transform.mask_size=64, and data with masks"


def asked(beside: Sequence[str], samples: int, cells: int) -> bool:
    """Whether a task is asked for masks.

    Raises:
      UserError: it is asked for something else, or numbers that cannot be.
    """
    for name in beside:
        if name != "masks":
            raise UserError(
                f"task.beside: objects of a dense detector have no {name!r} beside their boxes: only 'masks'."
            )
    if samples < 1 or cells < 1:
        raise UserError(f"task.mask_samples={samples} and task.mask_cells={cells} must be 1 or more.")
    return len(beside) > 0


def require(found: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    """Refuse what lacks one of some keys.

    Raises:
      UserError: with what is to be set.
    """
    if missing := [name for name in names if name not in found]:
        raise UserError(f"task.beside=('masks',): {where} has no {missing[0]}; set {MEND}.")


def loss(key, model: Model, outputs: Mapping[str, Any], matched, batch: Batch, *, samples: int, size: int):
    """Binary cross-entropy of masks, the mean of all cells, at `samples` sites with an object of each image.

    They are drawn at random, so that large objects, which have many sites, count for no more than they must.

    Args:
      outputs: of the network, with "prototypes" (b i j p) and "site_filters" (b r v).
      matched (b r): the object of each site.
      size: cells of a mask along each axis; its grid lies over the object's own box (Bolya et al. 2019).
    """
    require(batch, (KEY,), "a batch")
    require(outputs, GIVES, "the network")

    def one(key, matched, filters, boxes, grids, real):
        index, drawn = matching.sample(key, matched >= 0, jnp.zeros(matched.shape, bool), samples, 1.0)
        owner = jnp.maximum(matched[index], 0)
        rois = {"boxes": boxes[owner], "owner": owner, "positive": drawn & real}
        return filters[index], rois

    draw = shard.per_example(jax.vmap(one))
    keys = jax.random.split(key, len(matched))
    filters, rois = draw(keys, matched, outputs["site_filters"], batch["boxes"], batch[KEY], batch["mask"])
    logits = model.calls["masks"](outputs["prototypes"], filters, rois["boxes"], size)
    lost, count = shard.per_example(jax.vmap(mask_loss))(logits, rois, batch["boxes"], batch[KEY])
    return {"loss_mask": lost.sum() / jnp.maximum(count.sum(), 1)}


def predict(model: Model, outputs: Mapping[str, Any], found: Mapping[str, Any], size: int) -> Prediction:
    """Draw the masks of the boxes (b k 4) that are found, by the filters of their "sites" (b k)."""
    require(outputs, GIVES, "the network")
    filters = jnp.take_along_axis(outputs["site_filters"], found["sites"][..., None], 1)
    return {"mask_logits": model.calls["masks"](outputs["prototypes"], filters, found["boxes"], size)}


def decode(prediction: Prediction) -> Result:
    """Give scores of the cells, 0 to 1."""
    return {"mask_scores": jax.nn.sigmoid(prediction["mask_logits"])}
