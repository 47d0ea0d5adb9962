"""Two-stage object detection (Ren et al. 2015): what is trained, predicted and shown. Defaults are torchvision's.

Boxes come as the truth of a batch, leave as proposals of the first stage, and leave again as detections of the
second; all lists have fixed lengths with a `valid` mask, so training and prediction are one program each. What objects
have beside their boxes, masks and keypoints, are branches (beside.py).
"""

import operator
from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from mapjax.errors import UserError, near
from mapjax.ops import boxes as box_ops
from mapjax.ops import images as image_ops
from mapjax.ops import losses, matching
from mapjax.ops.nms import keep_sorted
from mapjax.sharding import mesh as shard
from mapjax.task import DETECTION, Batch, Context, Model, Prediction, Result, Task, Variables
from mapjax.tasks.detection import augmented, cascade, class_svms, frames, outside, suppression
from mapjax.tasks.detection.beside import BRANCHES, METRICS, Branch, left_out

BETA = 1 / 9  # of both box losses


def make(
    *,
    model: Model,
    pre_nms_train: int = 2000,
    post_nms_train: int = 2000,
    pre_nms_test: int = 1000,
    post_nms_test: int = 1000,
    rpn_nms: float = 0.7,
    rpn_score_threshold: float = 0.0,
    rpn_samples: int = 256,
    rpn_positives: float = 0.5,
    rpn_iou: tuple[int | float, int | float] = (0.3, 0.7),
    samples: int = 512,
    positives: float = 0.25,
    iou: float = 0.5,
    box_weights: Sequence[int | float] = (10, 10, 5, 5),
    cascade_iou: Sequence[int | float] = (),
    score_threshold: float = 0.05,
    box_nms: float = 0.5,
    soft: str | None = None,
    sigma: float | int = 0.5,
    agnostic: bool = False,
    detections: int = 100,
    candidates: int = 1000,
    beside: Sequence[str] = (),
    proposals: str = "network",
    scores: str = "softmax",
    flip: bool = False,
    scales: Sequence[float | int] = (1.0,),
    mean: Sequence[float | int] = image_ops.MEAN,
    std: Sequence[float | int] = image_ops.STD,
) -> Task:
    """Make the detection task.

    Args:
      model: a two-stage detector, with the calls "regions" and, where it proposes by itself, "anchors" of
        models/detectors/faster_rcnn.py; it sees sides that the strides of its `levels` divide.
      pre_nms_*, post_nms_*: proposals of each pyramid level before, and of an image after, suppression at
        IoU `rpn_nms`, in training and in prediction.
      rpn_score_threshold: a proposal needs this score or a higher one, 0 to 1.
      rpn_samples: anchors of an image that the first stage's loss looks at.
      rpn_positives: the largest share of objects among them.
      rpn_iou: an anchor is background below the first IoU with the truth, an object from the second on.
      samples, positives, iou: the same of proposals and the second stage.
      box_weights: scale of the second stage's four box offsets.
      cascade_iou: that of each further box head, rising, as (0.6, 0.7) beside an `iou` of 0.5 (cascade.py).
      score_threshold: a detection needs a higher score.
      box_nms: IoU above which the weaker of a class is suppressed.
      soft, sigma, agnostic: how it is, as in suppression.py.
      detections: how many are kept of an image.
      candidates: the best (box, class) pairs of an image that go into suppression (torchvision has no such limit; it
        matters where more than that many pairs pass the threshold).
      beside: what objects have beside their boxes, "masks" or "keypoints" or both: the network needs the calls of these
        names, and the data what the first of them says.
      proposals: where they come from: the "network", or the "data" (a batch's own: outside.py), as R-CNN and Fast R-CNN
        have them; the first stage, where there is one, then learns nothing.
      scores: of a box: "softmax" over all classes, or "svm" once class SVMs are in place of it (class_svms.py).
      flip, scales: views of an image in evaluation, as in augmented.py.
      mean, std: of the images, RGB, 0 to 1.

    Example:
      >>> from mapjax.models.detectors import faster_rcnn
      >>> from mapjax.tasks.detection import two_stage
      >>> model = faster_rcnn.make(backbone={"name": "resnet", "depth": 18}, classes=2)
      >>> task = two_stage.make(model=model, score_threshold=0.05)
      >>> task.needs, task.metrics
      ('boxes', ('precision',))
    """
    from_data, by_svm = outside.is_data(proposals), class_svms.is_svm(scores)
    branches = {name: _branch(name, model) for name in beside}
    chosen = partial(propose, threshold=rpn_nms, score_threshold=rpn_score_threshold)
    propose_train = partial(chosen, before=pre_nms_train, after=post_nms_train)
    propose_test = partial(chosen, before=pre_nms_test, after=post_nms_test)
    first_loss = partial(first_stage_loss, iou=rpn_iou, samples=rpn_samples, positives=rpn_positives)
    further = cascade.stages(cascade_iou, iou)
    draw_further = partial(sample_rois, samples=samples, positives=positives)
    draw = partial(draw_further, iou=iou, weights=box_weights)
    answer = partial(
        detect,
        weights=further[-1].weights if further else box_weights,
        score_threshold=score_threshold,
        suppress=suppression.chosen(
            box_nms, soft=soft, sigma=sigma, agnostic=agnostic, score_threshold=score_threshold
        ),
        count=detections,
        candidates=candidates,
        scored=class_svms.scores if by_svm else jax.nn.softmax,
    )
    normalize = partial(image_ops.normalize, mean=mean, std=std)

    divisor = max([frames.DIVISOR, *model.levels.values()])

    @cache
    def anchors_of(height: int, width: int) -> Sequence[Any]:
        return model.calls["anchors"]((frames.padded(height, divisor), frames.padded(width, divisor)))

    def pixels(batch: Batch):
        return frames.pad(image_ops.normalized(batch["image"], normalize), divisor)

    def init(key, batch: Batch) -> Variables:
        for name, branch in branches.items():
            if name not in model.calls:
                raise UserError(f"task.beside={tuple(beside)}: the network has no head for {name}; set {branch.mend}.")
        outside.require_network(proposals, model)
        cascade.require(model, further)
        return model.init(key, pixels(batch))

    def proposed(outputs: Prediction, batch: Batch, propose: Any):
        """The proposals (b p 4), and which of them are real (b p)."""
        if from_data:
            return outside.of(batch)
        anchors = anchors_of(*batch["image"].shape[1:3])
        proposing = shard.per_example(jax.vmap(partial(propose, anchors=anchors)))
        return proposing(outputs["objectness"], outputs["deltas"], frames.extents(batch))

    def loss(variables: Variables, batch: Batch, context: Context):
        if by_svm:
            raise UserError(class_svms.NO_TRAINING)
        outputs, stats = model.apply(variables, pixels(batch), train=True, key=context.key)
        mask = batch["mask"]
        keys = jax.random.split(context.key, (2, len(mask)))
        truth = {"boxes": batch["boxes"], "classes": batch["classes"], "crowd": batch["crowd"], "valid": batch["valid"]}
        terms = {}
        if not from_data:
            anchors = anchors_of(*batch["image"].shape[1:3])
            terms = first_loss(keys[0], outputs["objectness"], outputs["deltas"], truth, mask, anchors=anchors)
        boxes, real = jax.lax.stop_gradient(proposed(outputs, batch, propose_train))
        rois = shard.per_example(jax.vmap(draw))(keys[1], boxes, real & mask[:, None], truth)
        variables = {**variables, "stats": stats}
        regions, stats = model.calls["regions"](variables, outputs["features"], rois["boxes"], train=True)
        terms |= second_stage_loss(regions["logits"], regions["deltas"], rois, mask)
        if further:
            first, given = (regions, rois, box_weights), (truth, frames.extents(batch), mask)
            variables = {**variables, "stats": stats}
            args = (context.key, model, variables, outputs["features"], first, given, further)
            rois, lost, stats = cascade.learn(*args, draw_further, second_stage_loss)
            terms |= lost
        objects = objects_of(rois, mask, int(samples * positives)) if branches else {}
        for branch in branches.values():
            if branch.key not in batch:
                raise UserError(f"task.beside={tuple(beside)}: a batch has no {branch.key}; set {branch.mend}.")
            variables = {**variables, "stats": stats}
            lost, stats = branch.loss(variables, outputs["features"], objects, batch)
            terms |= lost
        total = sum(terms.values())
        return total, (stats, {"loss": total} | terms | left_out(batch))

    def predict(variables: Variables, batch: Batch, key) -> Prediction:
        del key
        outputs, _ = model.apply(variables, pixels(batch), train=False, key=None)
        boxes, real = proposed(outputs, batch, propose_test)
        regions, _ = model.calls["regions"](variables, outputs["features"], boxes, train=False)
        logits, deltas = regions["logits"], regions["deltas"]
        if further:
            first = (regions, boxes, box_weights)
            args = (model, variables, outputs["features"], first, frames.extents(batch), further)
            logits, deltas, boxes = cascade.answer(*args)
        prediction = {
            "features": outputs["features"],
            "proposals": boxes,
            "proposals_valid": real,
            "region_logits": logits,
            "region_deltas": deltas,
        }
        if not branches:
            return prediction
        found = choose(prediction, batch)  # the branches' heads answer for what is chosen, and not for all proposals
        drawn = [branch.predict(variables, outputs["features"], found) for branch in branches.values()]
        return reduce(operator.or_, drawn, prediction | found)

    def choose(prediction: Prediction, batch: Batch) -> Result:
        keys = ("region_logits", "region_deltas", "proposals", "proposals_valid")
        return shard.per_example(jax.vmap(answer))(*(prediction[key] for key in keys), frames.extents(batch))

    def decode(prediction: Prediction, batch: Batch) -> Result:
        found = {key: prediction[key] for key in DETECTION} if branches else choose(prediction, batch)
        drawn = [branch.decode(prediction, batch) for branch in branches.values()]
        return reduce(operator.or_, drawn, frames.to_original(found, batch))

    needs = next(iter(branches), "boxes")
    task = Task(needs, normalize, init, loss, predict, decode, ("precision", *METRICS.get(needs, ())))
    return augmented.by_views(task, flip=flip, scales=scales)


def _branch(name: str, model: Model) -> Branch:
    if name not in BRANCHES:
        raise UserError(f"task.beside: objects have no {name!r} beside their boxes.{near(name, BRANCHES)}")
    return BRANCHES[name](model)


def propose(
    objectness, deltas, extent, anchors, before: int, after: int, threshold: float, score_threshold: float = 0.0
):
    """The best boxes of the first stage for one image.

    Args:
      objectness (r), deltas (r 4): of all anchors.
      extent (4): the image, to which boxes are clipped.
      anchors: one array a level.
      before: of each level that go into suppression.
      after: that come out of it.
      threshold: of suppression.
      score_threshold: boxes of a lower score are left out.

    Returns:
      boxes (after 4), best first, and which of them are real (after).
    """
    tops, start = [], 0
    for level in anchors:
        here = slice(start, start := start + len(level))
        score, index = jax.lax.top_k(objectness[here], min(before, len(level)))
        boxes = box_ops.clip(box_ops.decode(deltas[here][index], jnp.asarray(level)[index]), extent)
        if score_threshold > 0:  # an empty box goes into no suppression
            boxes = jnp.where(jax.nn.sigmoid(score)[:, None] >= score_threshold, boxes, 0)
        tops.append((boxes, score))
    # The levels go through suppression side by side, padded with empty boxes: its turns are those of the longest.
    longest = max(len(score) for _, score in tops)
    padded = jnp.stack([jnp.pad(boxes, ((0, longest - len(boxes)), (0, 0))) for boxes, _ in tops])
    keep = jax.vmap(lambda boxes: keep_sorted(boxes, threshold, valid=frames.larger(boxes, 1e-3)))(padded)
    boxes = jnp.concatenate([boxes for boxes, _ in tops])
    score = jnp.concatenate([jnp.where(kept[: len(score)], score, -jnp.inf) for kept, (_, score) in zip(keep, tops)])
    score, index = jax.lax.top_k(score, min(after, len(score)))
    return boxes[index], score > -jnp.inf


def _assign(candidates, truth, *, high: float, low: float, low_quality: bool):
    """Match candidates (n 4) with one image's truth; those that mostly lie in a crowd are ignored."""
    iou, single = box_ops.pairwise_iou(truth["boxes"], candidates), truth["valid"] & ~truth["crowd"]
    matched = matching.match(iou, single, high=high, low=low, low_quality=low_quality)
    return matching.ignore_crowds(matched, candidates, truth)


def first_stage_loss(key, objectness, deltas, truth, mask, *, anchors, iou, samples: int, positives: float):
    """Losses of a batch's anchors, drawn at random: object or background, and the box offsets of objects.

    Args:
      key, objectness, deltas, truth, mask: with the batch as leading axis.
      iou: (background below, object from).
    """

    def one(key, objectness, deltas, truth, mask):
        every = jnp.concatenate([jnp.asarray(level) for level in anchors])
        matched = _assign(every, truth, high=iou[1], low=iou[0], low_quality=True)
        index, real = matching.sample(key, matched >= 0, matched == matching.BACKGROUND, samples, positives)
        real &= mask
        positive, owner = real & (matched[index] >= 0), jnp.maximum(matched[index], 0)
        target = box_ops.encode(truth["boxes"][owner], every[index])
        score = losses.binary_cross_entropy(objectness[index], positive.astype(jnp.float32))
        box = losses.smooth_l1(deltas[index], target, BETA).sum(-1)
        return losses.masked_sum(score, real), losses.masked_sum(box, positive), real.sum()

    score, box, count = shard.per_example(jax.vmap(one))(key, objectness, deltas, truth, mask)
    total = jnp.maximum(count.sum(), 1)
    return {"loss_objectness": score.sum() / total, "loss_rpn_box": box.sum() / total}


def sample_rois(key, proposals, real, truth, *, iou: float, samples: int, positives: float, weights) -> dict[str, Any]:
    """Draw the proposals of one image that the second stage learns from; the truth's own boxes are among them.

    Returns:
      "boxes" (s 4), "labels" (s; 0 is background, else class + 1), "targets" (s 4; encoded boxes), "real" (s), and the
      truth's row that each is matched to, "owner" (s). Objects come first.
    """
    candidates = jnp.concatenate([proposals, truth["boxes"]])
    real = jnp.concatenate([real, truth["valid"] & ~truth["crowd"]])
    matched = jnp.where(real, _assign(candidates, truth, high=iou, low=iou, low_quality=False), matching.IGNORED)
    index, drawn = matching.sample(key, matched >= 0, matched == matching.BACKGROUND, samples, positives)
    owner, boxes = jnp.maximum(matched[index], 0), candidates[index]
    labels = jnp.where(matched[index] >= 0, truth["classes"][owner] + 1, 0)
    targets = box_ops.encode(truth["boxes"][owner], boxes, weights)
    return {"boxes": boxes, "labels": labels, "targets": targets, "real": drawn, "owner": owner}


def objects_of(rois: dict[str, Any], mask, count: int) -> dict[str, Any]:
    """The first `count` of a batch's drawn proposals, among which all objects are; `positive` says which are real."""
    first = {key: values[:, :count] for key, values in rois.items()}
    return first | {"positive": first["real"] & (first["labels"] > 0) & mask[:, None]}


def second_stage_loss(logits, deltas, rois, mask) -> dict[str, Any]:
    """Losses of a batch's drawn proposals: their class, and for objects the box offsets of that class."""
    labels, real = rois["labels"], rois["real"] & mask[:, None]
    deltas = jnp.take_along_axis(deltas, labels[..., None, None], 2)[..., 0, :]
    box = losses.smooth_l1(deltas, rois["targets"], BETA).sum(-1)
    total = jnp.maximum(real.sum(), 1)
    return {
        "loss_classifier": losses.masked_sum(losses.cross_entropy(logits, labels), real) / total,
        "loss_box": losses.masked_sum(box, real & (labels > 0)) / total,
    }


def detect(
    logits,
    deltas,
    proposals,
    real,
    extent,
    *,
    weights,
    score_threshold: float,
    suppress: suppression.Suppress,
    count: int,
    candidates: int,
    scored: Callable[[Any], Any] = jax.nn.softmax,
) -> Result:
    """The second stage's answer for one image: boxes (k 4), scores, classes and valid (k), best first.

    Args:
      logits (n c+1), deltas (n c+1 4): of the proposals (n 4), of which `real` (n) are real.
      extent (4): the image.
      score_threshold: scores must be higher.
      suppress: of suppression.py.
      count: k.
      candidates: the best so many (proposal, class) pairs enter suppression.
      scored: makes scores of logits.
    """
    scores = scored(logits)[:, 1:]
    scores = jnp.where((scores > score_threshold) & real[:, None], scores, -1)
    score, index = jax.lax.top_k(scores.reshape(-1), min(candidates, scores.size))
    row, label = jnp.divmod(index, scores.shape[1])
    boxes = box_ops.clip(box_ops.decode(deltas[row, label + 1], proposals[row], weights), extent)
    best, score, found = suppress(boxes, score, label, (score > 0) & frames.larger(boxes, 1e-2), count)
    return {
        "boxes": jnp.where(found[:, None], boxes[best], 0),
        "scores": jnp.where(found, score, 0),
        "classes": jnp.where(found, label[best], 0).astype(jnp.int32),
        "valid": found,
    }
