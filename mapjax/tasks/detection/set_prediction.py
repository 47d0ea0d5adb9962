"""Detection as prediction of a set (Carion et al. 2020): each query is matched to one object or to none.

One matcher and one loss serve all layers of a decoder at once, and both kinds of scores: by softmax with "no object" as
a further class (DETR), or a sigmoid a class that learns how well the box fits (RT-DETR).
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.ops import boxes as box_ops
from mapjax.ops import hungarian, losses, quality_losses
from mapjax.ops import images as image_ops
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Context, Model, Prediction, Result, Task, Variables
from mapjax.tasks.detection import augmented, frames
from mapjax.tasks.detection import denoising as noise

NEEDS = "boxes"
SCORES = {  # kind → weights of class, box and overlap: when matching, and in the loss
    "softmax": ((1, 5, 2), (1, 5, 2)),
    "varifocal": ((2, 5, 2), (1, 5, 2)),
    "matchability": ((2, 5, 2), (1, 5, 2)),
}
PARTS = ("class", "box", "overlap")
ALPHA, GAMMA = 0.25, 2  # of the focal cost of a class (Lin et al. 2017)
_log = logging.getLogger(__name__)


def make(
    *,
    model: Model,
    classes: Sequence[str],
    scores: str = "softmax",
    costs: Sequence[int | float] | None = None,
    weights: Sequence[int | float] | None = None,
    no_object: float = 0.1,
    gamma: float = 1.5,
    denoising: int = 0,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
    score_threshold: float = 0.05,
    detections: int = 100,
    flip: bool = False,
    scales: Sequence[float | int] = (1.0,),
    mean: Sequence[float | int] = image_ops.MEAN,
    std: Sequence[float | int] = image_ops.STD,
) -> Task:
    """Make the detection task.

    Of an image with more boxes than the network has queries the smallest are left out; `boxes_left_out` counts them.
    Crowds are matched to nothing.

    Args:
      model: a network with the calls "queries" and "frame" of models/detectors/detr.py.
      classes: their names.
      scores: "softmax" (the network's last class is "no object"), "varifocal" or "matchability" (a sigmoid a class).
      costs: of the class, of the box's distance in shares and of its overlap, where queries and objects are matched;
        None: those of the papers, 1, 5, 2 for softmax and else 2, 5, 2.
      weights: likewise in the loss; None: 1, 5, 2.
      no_object: weight of queries without an object in the softmax loss.
      gamma: of the matchability loss.
      denoising: queries made of the truth beside the network's own, and as many more that are no objects; 0: none.
      label_noise: twice the share of these that are given another class.
      box_noise: how far their corners move, in halves of the box's sides.
      score_threshold: a detection needs a higher score.
      detections: how many are kept of an image.
      flip, scales: views of an image in evaluation, as in augmented.py.
      mean, std: of the images, RGB, 0 to 1.

    Raises:
      UserError: unknown scores, or not three costs or weights.

    Example:
      >>> from mapjax.models.detectors import detr
      >>> from mapjax.tasks.detection import set_prediction
      >>> model = detr.make(backbone={"name": "resnet", "depth": 18}, classes=2)
      >>> task = set_prediction.make(model=model, classes=("cat", "dog"), score_threshold=0.5)
      >>> task.needs, task.metrics
      ('boxes', ('precision',))
    """
    if scores not in SCORES:
        raise UserError(f"set_prediction has no scores={scores!r}.{near(scores, SCORES)}")
    costs, weights = (given if given is not None else usual for given, usual in zip((costs, weights), SCORES[scores]))
    for name, value in {"costs": costs, "weights": weights}.items():
        if len(value) != 3:
            raise UserError(f"task.{name}={value} must be three numbers: of the class, the box and its overlap.")
    matched = partial(match, scores=scores, costs=costs)
    terms_of = partial(set_loss, scores=scores, no_object=no_object, gamma=gamma)
    normalize = partial(image_ops.normalize, mean=mean, std=std)
    divisor = max([1, *model.levels.values()])

    def pixels(batch: Batch):
        return frames.pad(image_ops.normalized(batch["image"], normalize), divisor)

    def frame_of(batch: Batch, extent):
        height, width = (frames.padded(side, divisor) for side in batch["image"].shape[1:3])
        return model.calls["frame"]((len(extent), height, width, 3), extent)

    def init(key, batch: Batch) -> Variables:
        return model.init(key, pixels(batch))

    def loss(variables: Variables, batch: Batch, context: Context):
        extent = frames.extents(batch)
        truth, keys = truth_of(batch, frame_of(batch, extent)), jax.random.split(context.key)
        noised = None
        if denoising:
            options = {"label_noise": label_noise, "box_noise": box_noise, "classes": len(classes)}
            noised = noise.noisy(keys[0], truth, count=denoising, **options)
        queried = model.calls["queries"]
        outputs, stats = queried(variables, pixels(batch), extent, denoising=noised, train=True, key=keys[1])
        kept, left_out = largest(truth, outputs["query_logits"].shape[1])
        logits, boxes = layers_of(outputs)
        owner = shard.per_example(jax.vmap(matched))(*jax.lax.stop_gradient((logits, boxes)), kept)
        real = jnp.broadcast_to(batch["mask"][:, None], boxes[:, 0, :, 0].shape)
        terms = terms_of(logits, boxes, owner, real, kept)
        if noised is not None:
            given = outputs["denoising_logits"], outputs["denoising_boxes"]
            same = jnp.broadcast_to(noised["owner"][:, None], given[0].shape[:3])
            found = terms_of(*given, same, noised["group"] >= 0, truth)
            terms |= {f"{name}_denoising": value for name, value in found.items()}
        weighed = {f"loss_{name}": weights[PARTS.index(name.split("_")[0])] * one.sum() for name, one in terms.items()}
        total = sum(weighed.values())
        return total, (stats, {"loss": total} | weighed | left_out)

    def predict(variables: Variables, batch: Batch, key) -> Prediction:
        del key
        extent = frames.extents(batch)
        outputs, _ = model.calls["queries"](variables, pixels(batch), extent, train=False, key=None)
        return {name: outputs[name] for name in ("features", "query_logits", "query_boxes")}

    def decode(prediction: Prediction, batch: Batch) -> Result:
        extent = frames.extents(batch)
        answer = partial(detect, scores=scores, score_threshold=score_threshold, count=detections)
        given = prediction["query_logits"], prediction["query_boxes"], frame_of(batch, extent), extent
        return frames.to_original(shard.per_example(jax.vmap(answer))(*given), batch)

    task = Task("boxes", normalize, init, loss, predict, decode, ("precision",))
    return augmented.by_views(task, flip=flip, scales=scales)


def truth_of(batch: Batch, frame) -> dict[str, Any]:
    """The objects that may be found: "boxes" (b m 4; centre x,y, width, height as shares of the frame), and more.

    Args:
      frame (b 4): in pixels.
    """
    corner, size = frame[:, None, :2], jnp.maximum(frame[:, None, 2:] - frame[:, None, :2], 1)
    boxes = (batch["boxes"] - jnp.tile(corner, 2)) / jnp.tile(size, 2)
    valid = batch["valid"] & ~batch["crowd"] & batch["mask"][:, None]
    return {"boxes": box_ops.xyxy_to_cxcywh(boxes), "classes": batch["classes"], "valid": valid}


def largest(truth: Mapping[str, Any], queries: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Leave out the smallest boxes of an image with more than there are queries, and count them by name."""
    valid = truth["valid"]
    if valid.shape[1] <= queries:
        return dict(truth), {}
    _log.warning(
        "an image may have %d boxes (transform.max_boxes) and the network has %d queries: of more boxes the smallest "
        "are left out, and counted as boxes_left_out.",
        valid.shape[1],
        queries,
    )
    area = jnp.where(valid, truth["boxes"][..., 2] * truth["boxes"][..., 3], -1)
    rank = jnp.argsort(jnp.argsort(area, axis=1, descending=True, stable=True), axis=1)
    kept = valid & (rank < queries)
    return {**truth, "valid": kept}, {"boxes_left_out": (valid & ~kept).sum()}


def layers_of(outputs: Mapping[str, Any]):
    """Scores (b l q c) and boxes (b l q 4) of all layers, the last one last."""
    both = (("aux_query_logits", "query_logits"), ("aux_query_boxes", "query_boxes"))
    return tuple(jnp.concatenate([outputs[aux], outputs[last][:, None]], 1) for aux, last in both)


def match(logits, boxes, truth: Mapping[str, Any], *, scores: str, costs: Sequence[int | float]):
    """Match the queries of every layer of one image with its objects, so that costs are least.

    Args:
      logits (l q c), boxes (l q 4).
      truth: "boxes" (m 4), "classes" and "valid" (m).
      scores, costs: as in `make`.

    Returns:
      the object of each query (l q), BACKGROUND for none.
    """

    def one(logits, boxes):
        class_cost = (softmax_cost if scores == "softmax" else focal_cost)(logits)[:, truth["classes"]].T
        distance = jnp.abs(truth["boxes"][:, None] - boxes[None]).sum(-1)
        corners = box_ops.cxcywh_to_xyxy(truth["boxes"])[:, None], box_ops.cxcywh_to_xyxy(boxes)[None]
        parts = (class_cost, distance, -box_ops.generalized_iou(*corners))
        cost = sum(weight * part for weight, part in zip(costs, parts))
        return hungarian.assign(jnp.asarray(cost), truth["valid"])

    return jax.vmap(one)(logits, boxes)


def softmax_cost(logits):
    """The probability of each class, negative (Carion et al. 2020: not its logarithm)."""
    return -jax.nn.softmax(logits)


def focal_cost(logits):
    """How much the focal loss of each class would fall if it were the truth."""
    score = jax.nn.sigmoid(logits)
    found, absent = -jnp.log(score + 1e-8), -jnp.log(1 - score + 1e-8)
    return ALPHA * (1 - score) ** GAMMA * found - (1 - ALPHA) * score**GAMMA * absent


def set_loss(logits, boxes, owner, real, truth, *, scores: str, no_object: float, gamma: float) -> dict[str, Any]:
    """The terms of each layer (l), over the batch: by "class", "box" (distance) and "overlap" (generalized IoU).

    Args:
      logits (b l q c), boxes (b l q 4), owner (b l q): the object of each query, BACKGROUND for none.
      real (b q): queries that count.
      truth: "boxes" (b m 4), "classes" (b m).
    """
    found = (owner >= 0) & real[:, None]
    row = jnp.maximum(owner, 0).reshape(len(owner), -1)
    classes = jnp.take_along_axis(truth["classes"], row, 1).reshape(owner.shape)
    target = jnp.take_along_axis(truth["boxes"], row[..., None], 1).reshape(boxes.shape)
    corners, true_corners = box_ops.cxcywh_to_xyxy(boxes), box_ops.cxcywh_to_xyxy(target)
    count = jnp.maximum(found[:, -1].sum(), 1)  # of the whole batch, whatever devices it is split over

    def summed(values):
        return jnp.where(found, values, 0).sum((0, 2)) / count

    if scores == "softmax":
        by_class = softmax_loss(logits, jnp.where(found, classes, logits.shape[-1] - 1), found, real, no_object)
    else:
        quality = jax.lax.stop_gradient(box_ops.iou(corners, true_corners))
        positive = found[..., None] & (classes[..., None] == jnp.arange(logits.shape[-1]))
        every = quality_loss(logits, quality, positive, scores, gamma)
        by_class = jnp.where(real[:, None, :, None], every, 0).sum((0, 2, 3)) / count
    distance = jnp.abs(boxes - target).sum(-1)
    return {
        "class": by_class,
        "box": summed(distance),
        "overlap": summed(1 - box_ops.generalized_iou(corners, true_corners)),
    }


def softmax_loss(logits, classes, found, real, no_object: float):
    """Mean cross-entropy of each layer (l), in which queries without an object weigh less."""
    weight = jnp.where(found, 1.0, no_object) * real[:, None]
    return (weight * losses.cross_entropy(logits, classes)).sum((0, 2)) / jnp.maximum(weight.sum((0, 2)), 1e-6)


def quality_loss(logits, quality, positive, scores: str, gamma: float):
    """The loss of every score (b l q c), given how well a query's box fits (b l q)."""
    quality = jnp.broadcast_to(quality[..., None], logits.shape)
    if scores == "varifocal":
        return quality_losses.varifocal(logits, quality, positive)
    return quality_losses.matchability(logits, quality, positive, gamma=gamma)


def detect(logits, boxes, frame, extent, *, scores: str, score_threshold: float, count: int) -> Result:
    """The answer for one image: boxes (k 4) in pixels of the input, scores, classes and valid (k), best first.

    Args:
      logits (q c), boxes (q 4) as shares of the frame (4), which is in pixels.
      extent (4): the image, to which boxes are clipped.
      scores: by softmax one class a query; else the best (query, class) pairs.
      score_threshold: scores must be higher.
      count: k, at most.
    """
    if scores == "softmax":
        every = jax.nn.softmax(logits)[:, :-1]
        score, place = jax.lax.top_k(every.max(-1), min(count, len(every)))
        row, label = place, every.argmax(-1)[place]
    else:
        every = jax.nn.sigmoid(logits)
        score, place = jax.lax.top_k(every.reshape(-1), min(count, every.size))
        row, label = jnp.divmod(place, every.shape[1])
    size = jnp.tile(jnp.maximum(frame[2:] - frame[:2], 1), 2)
    found = box_ops.clip(box_ops.cxcywh_to_xyxy(boxes[row]) * size + jnp.tile(frame[:2], 2), extent)
    valid = score > score_threshold
    return {
        "boxes": jnp.where(valid[:, None], found, 0),
        "scores": jnp.where(valid, score, 0),
        "classes": jnp.where(valid, label, 0).astype(jnp.int32),
        "valid": valid,
    }
