"""Cascade R-CNN, stage by stage, against loops in NumPy: boxes handed on, targets, losses and scores."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_batches import FEW, batch_of, with_box
from oracles import huber, iou_of, offsets

from mapjax import stages
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.task import Context, Model
from mapjax.tasks.detection import cascade, two_stage

FIRST = (10, 10, 5, 5)
STAGES = ((0.6, np.array([20, 20, 10, 10]), 0.5), (0.7, np.array([30, 30, 15, 15]), 0.25))
SIDE = 64.0
EXTENT = np.array([0, 0, SIDE, SIDE], np.float32)
SMALL = {"backbone": {"name": "resnet", "depth": 18, "width": 0.0625}, "channels": 4, "representation": 6, "pool": 2}


def said_of(number, boxes, xp):
    """What a head says of boxes (… n 4): three logits and the offsets of one box for all classes."""
    size = boxes / SIDE
    logits = xp.stack([xp.sin((k + number) * size.sum(-1) * 3) * 2 for k in range(3)], -1)
    deltas = xp.stack([xp.cos((k + number) * size[..., k] * 5) for k in range(4)], -1)
    return {"logits": logits, "deltas": xp.broadcast_to(deltas[..., None, :], (*boxes.shape[:-1], 3, 4))}


def fake():
    def call(number):
        return lambda variables, features, boxes, *, train: (said_of(number, boxes, jnp), {"seen": number})

    def no_network(*given, **options):
        raise NotImplementedError

    return Model(no_network, no_network, {"regions2": call(2), "regions3": call(3)})


def moved(box, deltas, weights):
    """The box that offsets make of one, within the image."""
    width, height = box[2:] - box[:2]
    dx, dy, dw, dh = deltas / weights
    x, y, w, h = (
        box[0] + width / 2 + dx * width,
        box[1] + height / 2 + dy * height,
        width * np.exp(dw),
        height * np.exp(dh),
    )
    return np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, SIDE)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def boxes_of(count, seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 30, (2, count, 2))
    return np.concatenate([low, low + rng.uniform(8, 30, low.shape)], -1).astype(np.float32)


def test_each_head_answers_for_the_boxes_of_the_one_before():
    boxes = boxes_of(6, 0)
    first = said_of(1, jnp.asarray(boxes), jnp), jnp.asarray(boxes), FIRST
    found = cascade.stages((0.6, 0.7), 0.5)
    extents = jnp.tile(EXTENT, (2, 1))
    logits, deltas, last = jax.jit(lambda: cascade.answer(fake(), {}, None, first, extents, found))()
    for i in range(2):
        for n, box in enumerate(boxes[i].astype(np.float64)):
            said, scores = said_of(1, box, np), []
            for number, weights in enumerate((FIRST, STAGES[0][1]), 2):
                scores.append(softmax(said["logits"]))
                box = moved(box, said["deltas"][0], np.array(weights))
                said = said_of(number, box, np)
            scores.append(softmax(said["logits"]))
            np.testing.assert_allclose(last[i, n], box, rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(softmax(np.asarray(logits[i, n])), np.mean(scores, 0), rtol=1e-3)
            np.testing.assert_allclose(deltas[i, n], said["deltas"], atol=1e-3)


def test_a_box_is_that_of_its_best_class():
    logits, deltas = jnp.array([[9.0, 1, 2], [0, 3, 2]]), jnp.zeros((2, 3, 4)).at[:, 2, 0].set(10.0)
    boxes = jnp.array([[0.0, 0, 8, 8], [0, 0, 8, 8]])
    found = cascade.refined(logits, deltas, boxes, jnp.asarray(EXTENT), FIRST)
    assert found.tolist() == [[8, 0, 16, 8], [0, 0, 8, 8]]


def test_each_head_learns_from_boxes_of_a_higher_iou():
    """With places for all boxes nothing is left to chance."""
    boxes, objects = boxes_of(8, 1), boxes_of(3, 2)
    objects[0, 0], objects[1, 1] = boxes[0, 0] + 1, boxes[1, 1] - [0, 0, 1, 2]
    valid, real = np.array([[True, True, False], [True, True, True]]), np.arange(8) < np.array([[7], [8]])
    classes, mask = np.array([[0, 1, 0], [1, 0, 1]]), np.array([True, True])
    truth = {"boxes": jnp.asarray(objects), "classes": jnp.asarray(classes), "valid": jnp.asarray(valid)}
    truth["crowd"] = jnp.zeros((2, 3), bool)
    rois = {"boxes": jnp.asarray(boxes), "real": jnp.asarray(real)}
    first = said_of(1, jnp.asarray(boxes), jnp), rois, FIRST
    args = (fake(), {"stats": {}}, None, first, (truth, jnp.tile(EXTENT, (2, 1)), jnp.asarray(mask)))
    draw = partial(two_stage.sample_rois, samples=64, positives=1.0)
    found = cascade.stages((0.6, 0.7), 0.5)

    @jax.jit
    def run(key):
        last, terms, stats = cascade.learn(key, *args, found, draw, two_stage.second_stage_loss)
        return last, terms, stats

    last, terms, stats = run(jax.random.key(0))
    assert stats["seen"] == 3
    seen = [list(boxes[i][real[i]].astype(np.float64)) for i in range(2)]
    before, number = np.array(FIRST), 1
    for iou, weights, factor in STAGES:
        classifier, box_loss, count, positives = 0.0, 0.0, 0, 0
        for i in range(2):
            seen[i] = [moved(box, said_of(number, box, np)["deltas"][0], before) for box in seen[i]]
            seen[i] += [objects[i, m].astype(np.float64) for m in np.flatnonzero(valid[i])]
            for box in seen[i]:
                said = said_of(number + 1, box, np)
                overlaps = [iou_of(objects[i, m].astype(float), box) if valid[i, m] else -1 for m in range(3)]
                best = int(np.argmax(overlaps))
                label = classes[i, best] + 1 if overlaps[best] >= iou else 0
                classifier -= np.log(softmax(said["logits"])[label])
                target = offsets(objects[i, best].astype(float), box) * weights
                box_loss += huber(said["deltas"][0] - target).sum() if label else 0
                count, positives = count + 1, positives + (label > 0)
        number, before = number + 1, weights
        assert 5 <= positives < count
        np.testing.assert_allclose(terms[f"loss_classifier{number}"], factor * classifier / count, rtol=1e-3)
        np.testing.assert_allclose(terms[f"loss_box{number}"], factor * box_loss / count, rtol=2e-3)
    assert int(last["real"].sum()) == count


def model_of(heads):
    return parts.make("models", {"name": "faster_rcnn", **SMALL, "cascade": heads}, classes=2)


def test_the_task_trains_and_answers_with_three_heads():
    model = model_of(2)
    task = two_stage.make(model=model, cascade_iou=(0.6, 0.7), score_threshold=0.0, **FEW)
    batch = with_box(batch_of(size=(64, 64)), 0, 0, (8, 8, 40, 40), 1)
    variables = task.init(jax.random.key(0), batch)
    names = ["roi_heads", "cascade_0", "cascade_1"]
    shapes = [jax.tree.map(jnp.shape, variables["params"][name]) for name in names]
    assert shapes[0] == shapes[1] == shapes[2] and shapes[0]["box_predictor"]["bbox_pred"]["kernel"] == (6, 4)
    assert all(any(re.search(head, f"{name}/box_head/fc6/bias") for head in model.heads) for name in names)

    @jax.jit
    def run(variables):
        both = jax.value_and_grad(
            lambda p: task.loss({**variables, "params": p}, batch, Context(jax.random.key(1))), has_aux=True
        )
        prediction = task.predict(variables, batch, None)
        return both(variables["params"]), prediction, task.decode(prediction, batch)

    ((value, (_, terms)), gradient), prediction, result = run(variables)
    stages.check("prediction", prediction)
    stages.check("result", result)
    assert {f"loss_{part}{n}" for part in ("classifier", "box") for n in ("", 2, 3)} <= terms.keys()
    np.testing.assert_allclose(value, sum(float(v) for k, v in terms.items() if k != "loss"), rtol=1e-5)
    for name in names:
        assert float(jnp.abs(gradient[name]["box_predictor"]["bbox_pred"]["kernel"]).max()) > 0, name
    np.testing.assert_allclose(np.exp(prediction["region_logits"]).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("ious", "message"),
    [
        ((0.4, 0.7), r"task.cascade_iou=\(0.4, 0.7\) must rise from task.iou=0.5 on, below 1, as in \(0.6, 0.7\)"),
        ((0.6, 1.0), "below 1"),
        ((0.6, 0.7, 0.8), "at most 2 IoUs"),
    ],
)
def test_ious_that_cannot_be(ious, message):
    with pytest.raises(UserError, match=message):
        two_stage.make(model=model_of(0), cascade_iou=ious)


@pytest.mark.parametrize(("heads", "ious"), [(0, (0.6,)), (1, (0.6, 0.7)), (2, (0.6,)), (2, ())])
def test_heads_and_ious_go_together(heads, ious):
    task = two_stage.make(model=model_of(heads), cascade_iou=ious)
    with pytest.raises(UserError, match=f"set model.cascade={len(ious)}, or as many IoUs"):
        jax.eval_shape(task.init, jax.random.key(0), batch_of())
