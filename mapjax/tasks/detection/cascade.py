"""Cascade R-CNN (Cai & Vasconcelos 2018, arXiv 1712.00726): further box heads, each on the boxes of the one before it.

A head learns from boxes as good as those that it will see: its objects need a higher IoU, and its offsets, which are
smaller, are scaled up. Answers are the last head's boxes with the mean of all heads' scores, each of its own boxes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mapjax.errors import UserError
from mapjax.ops import boxes as box_ops
from mapjax.sharding import mesh as shard
from mapjax.task import Model, Variables
from mapjax.tasks.detection import frames

WEIGHTS = ((20, 20, 10, 10), (30, 30, 15, 15))  # of the box offsets of the second and third head (section 4.1)
FACTORS = (0.5, 0.25)  # of their losses, as in the authors' code
Weights = Sequence[int | float]


class Stage(NamedTuple):
    """A further head: its number, from 2; the IoU with the truth from which a box is an object; its offsets' scale."""

    number: int
    iou: float | int
    weights: Weights
    factor: float

    @property
    def call(self) -> str:
        """The network's call of it."""
        return f"regions{self.number}"


def stages(ious: Sequence[float | int], first: float | int) -> list[Stage]:
    """Make the further stages of a task.

    Args:
      ious: theirs, rising.
      first: that of the first head.

    Raises:
      UserError: more than two, or IoUs that do not rise.
    """
    if len(ious) > len(WEIGHTS):
        raise UserError(f"task.cascade_iou={tuple(ious)} must be at most {len(WEIGHTS)} IoUs, as in (0.6, 0.7).")
    if list(rising := (first, *ious)) != sorted(set(rising)) or not all(0 < one < 1 for one in ious):
        raise UserError(
            f"task.cascade_iou={tuple(ious)} must rise from task.iou={first} on, below 1, as in (0.6, 0.7)."
        )
    return [Stage(n, *one) for n, one in enumerate(zip(ious, WEIGHTS, FACTORS), 2)]


def require(model: Model, found: Sequence[Stage]) -> None:
    """Refuse a network with fewer heads than the task asks for, or with more.

    Raises:
      UserError: with the key to set.
    """
    missing = [stage for stage in found if stage.call not in model.calls]
    if missing or Stage(len(found) + 2, 0, (), 0).call in model.calls:
        raise UserError(
            f"task.cascade_iou has {len(found)} IoUs, each of a further box head: set model.cascade={len(found)}, or "
            "as many IoUs as the network has such heads."
        )


def refined(logits, deltas, boxes, extent, weights: Weights):
    """The boxes (n 4) of one image that a head makes of `boxes` (n 4): for their best class, within the image.

    Args:
      logits (n c+1), deltas (n c+1 4): of the head.
      extent (4): the image.
      weights: of its offsets.
    """
    best = logits[:, 1:].argmax(-1) + 1
    chosen = jnp.take_along_axis(deltas, best[:, None, None], 1)[:, 0]
    return box_ops.clip(box_ops.decode(chosen, boxes, weights), extent)


def learn(
    key,
    model: Model,
    variables: Variables,
    features: Any,
    first: tuple[Any, Any, Weights],
    batch: tuple[Any, Any, Any],
    found: Sequence[Stage],
    draw: Callable[..., Any],
    losses_of: Callable[..., Any],
):
    """Losses of the further heads of a batch.

    Args:
      key: of the step.
      features: of the network.
      first: what the first head said ("logits" (b n c+1), "deltas" (b n c+1 4)), the proposals it learned from, as of
        `two_stage.sample_rois`, and the weights of its offsets.
      batch: the truth, the extents (b 4) of the images, and their mask (b).
      draw(key, boxes, real, truth, iou=, weights=): chooses the boxes of one image that a head learns from.
      losses_of(logits, deltas, rois, mask) -> terms by name.

    Returns:
      the last head's proposals, terms, and statistics.
    """
    (said, rois, weights), (truth, extents, mask), terms = first, batch, {}
    for stage in found:

        def one(key, logits, deltas, boxes, real, extent, truth, before=weights, stage=stage):
            boxes = refined(logits, deltas, boxes, extent, before)
            return draw(key, boxes, real & frames.larger(boxes, 1e-3), truth, iou=stage.iou, weights=stage.weights)

        keys = jax.random.split(jax.random.fold_in(key, stage.number), len(mask))
        seen = jax.lax.stop_gradient((said["logits"], said["deltas"], rois["boxes"], rois["real"], extents))
        rois = shard.per_example(jax.vmap(one))(keys, *seen, truth)
        said, stats = model.calls[stage.call](variables, features, rois["boxes"], train=True)
        variables, weights = {**variables, "stats": stats}, stage.weights
        further = losses_of(said["logits"], said["deltas"], rois, mask)
        terms |= {f"{name}{stage.number}": stage.factor * value for name, value in further.items()}
    return rois, terms, variables["stats"]


def answer(model: Model, variables: Variables, features: Any, first: tuple[Any, Any, Weights], extents, found):
    """What all heads say together: logits (b n c+1) of the mean of their scores, the last one's deltas, and its boxes.

    Args:
      first: what the first head said, of which boxes (b n 4), and the weights of its offsets.
      extents (b 4): of the images.
      found: the further stages.
    """
    said, boxes, weights = first
    scores = [jax.nn.log_softmax(said["logits"])]
    for stage in found:
        refine = shard.per_example(jax.vmap(lambda *one, weights=weights: refined(*one, weights=weights)))
        boxes, weights = refine(said["logits"], said["deltas"], boxes, extents), stage.weights
        said, _ = model.calls[stage.call](variables, features, boxes, train=False)
        scores.append(jax.nn.log_softmax(said["logits"]))
    return jax.nn.logsumexp(jnp.stack(scores), 0) - jnp.log(len(scores)), said["deltas"], boxes
