"""Set prediction on the smallest networks there are: losses, answers, noise, and what is left out."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths, stages
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.detectors import rt_detr
from mapjax.ops.matching import BACKGROUND
from mapjax.task import Context
from mapjax.tasks.detection import denoising, set_prediction

SIZE, CLASSES, ROWS, QUERIES = (32, 64), ("a", "b", "c"), 4, 6
TINY = {"name": "resnet", "depth": 18, "width": 0.0625, "stages": 1, "norm": "frozen"}
NODES = {
    "detr": {"name": "detr", "backbone": TINY, "width": 8, "heads": 2, "hidden": 8, "encoder": 1, "decoder": 2},
    "rt_detr": {
        "name": "rt_detr", "backbone": TINY, "strides": (4,), "width": 8, "heads": 2, "encoder_width": 8,
        "encoder_hidden": 8, "hidden": 8, "points": 2, "decoder": 1, "encoder": 0,
    },
}  # fmt: skip
TASKS = {"detr": {"scores": "softmax"}, "rt_detr": {"scores": "matchability", "denoising": 4}}


def task_of(name, queries=QUERIES, **options):
    model = parts.make("models", {**NODES[name], "queries": queries}, classes=len(CLASSES), dtype="float32")
    node = {"name": "set_prediction", "score_threshold": 0.0, **TASKS[name], **options}
    return parts.make("tasks", node, model=model, classes=CLASSES, image_size=SIZE)


def batch_of(counts=(2, 0)):
    rng, boxes = np.random.default_rng(0), np.zeros((len(counts), ROWS, 4), np.float32)
    corner = rng.uniform(0, 16, (len(counts), ROWS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 16, corner.shape)], -1).astype(np.float32)
    valid = np.arange(ROWS) < np.array(counts)[:, None]
    return {
        "image": rng.integers(0, 256, (len(counts), *SIZE, 3), np.uint8),
        "boxes": boxes * valid[..., None],
        "classes": rng.integers(0, 3, valid.shape).astype(np.int32) * valid,
        "crowd": np.zeros(valid.shape, bool),
        "valid": valid,
        "mask": np.ones(len(counts), bool),
        "size": np.tile(np.int32(SIZE), (len(counts), 1)),
        "matrix": np.tile(np.eye(3, dtype=np.float32), (len(counts), 1, 1)),
    }


@pytest.fixture(scope="module", params=list(NODES))
def made(request):
    task = task_of(request.param)
    rng, shapes = np.random.default_rng(0), jax.eval_shape(task.init, jax.random.key(0), batch_of())
    variables = jax.tree.map(lambda leaf: np.abs(rng.normal(0, 0.3, leaf.shape)).astype(np.float32), shapes)
    derive = jax.jit(jax.value_and_grad(lambda v, b: task.loss(v, b, Context(jax.random.key(1))), has_aux=True))
    return task, variables, derive


@pytest.mark.parametrize("case", ["boxes", "none", "crowd", "a corner"])
def test_losses_and_gradients_are_finite(made, case):
    _, variables, derive = made
    batch = batch_of((0, 0) if case == "none" else (2, 3))
    if case == "crowd":
        batch["crowd"][:] = True
    if case == "a corner":
        batch["boxes"][:, 0] = 0
    (loss, (_, scalars)), gradient = derive(variables, batch)
    assert np.isfinite(loss) and loss > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient["params"]))
    np.testing.assert_allclose(loss, sum(value for name, value in scalars.items() if name != "loss"), rtol=1e-5)
    if case in ("none", "crowd"):
        assert scalars["loss_box"] == scalars["loss_overlap"] == 0


def test_padding_of_a_batch_changes_nothing(made):
    _, variables, derive = made
    one, two = batch_of((2, 3)), batch_of((2, 3))
    two["mask"][1] = False
    two["image"][1] = one["image"][1] = 0
    for name in ("boxes", "classes", "valid"):
        one[name][1] = 0
    one["mask"][1] = False
    np.testing.assert_allclose(derive(variables, one)[0][0], derive(variables, two)[0][0], rtol=1e-6)


def test_answers(made):
    task, variables, _ = made
    batch = batch_of()
    batch["matrix"] = batch["matrix"] * np.float32([[2], [2], [1]])  # the original is half as large
    batch["size"] //= 2
    prediction = jax.jit(lambda v, b: task.predict(v, b, None))(variables, batch)
    found = jax.jit(task.decode)(prediction, batch)
    stages.check("prediction", prediction)
    stages.check("result", found)
    assert found["valid"].all() and (np.diff(found["scores"], axis=1) <= 0).all()
    shares = np.asarray(prediction["query_boxes"])
    centre, side = shares[..., :2] * [32, 16], shares[..., 2:] * [32, 16]
    every = np.clip(np.concatenate([centre - side / 2, centre + side / 2], -1), 0, [32, 16, 32, 16])
    for box in found["boxes"][0]:
        assert np.abs(every[0] - box).max(-1).min() < 1e-3


def test_of_more_boxes_than_queries_the_smallest_are_left_out(caplog):
    task = task_of("detr", queries=2)
    batch = batch_of((4, 1))
    batch["boxes"][0] = [[0, 0, 4, 4], [0, 0, 30, 30], [0, 0, 2, 2], [0, 0, 20, 20]]
    with caplog.at_level(logging.WARNING):
        variables = jax.eval_shape(task.init, jax.random.key(0), batch)
        scalars = jax.eval_shape(task.loss, variables, batch, Context(jax.random.key(1)))[1][1]
    assert "boxes_left_out" in scalars
    assert "may have 4 boxes (transform.max_boxes) and the network has 2 queries" in caplog.text
    truth = set_prediction.truth_of(batch, jnp.array([[0.0, 0, 64, 32]] * 2))
    kept, counted = set_prediction.largest(truth, 2)
    assert kept["valid"].tolist() == [[False, True, False, True], [True, False, False, False]]
    assert counted["boxes_left_out"] == 2


def test_noisy_queries():
    truth = {
        "boxes": jnp.tile(jnp.array([[0.2, 0.4, 0.2, 0.2], [0, 0, 0, 0], [0.6, 0.5, 0.4, 0.2]]), (3, 1, 1)),
        "classes": jnp.tile(jnp.array([1, 0, 2]), (3, 1)),
        "valid": jnp.array([[True, False, True], [False] * 3, [True] * 3]),
    }
    options = {"count": 5, "classes": 3, "label_noise": 0.0, "box_noise": 0.4}
    found = jax.jit(lambda key: denoising.noisy(key, truth, **options))(jax.random.key(0))
    assert found["group"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, -1, -1]
    assert found["owner"][0].tolist() == [0, 2, -1, -1, 0, 2, -1, -1, -1, -1]
    assert (found["group"][1] == -1).all() and (found["owner"][1] == BACKGROUND).all()
    assert found["group"][2].tolist() == [0] * 6 + [-1] * 4
    assert found["classes"][0, :4].tolist() == [1, 2, 1, 2]
    corners = np.asarray(found["boxes"][0, :8])
    corners = np.concatenate([corners[:, :2] - corners[:, 2:] / 2, corners[:, :2] + corners[:, 2:] / 2], -1)
    true = np.array([[0.1, 0.3, 0.3, 0.5], [0.4, 0.4, 0.8, 0.6]] * 4)
    moved = np.abs(corners - true) / (0.4 * np.tile([[0.1, 0.1, 0.1, 0.1], [0.2, 0.1, 0.2, 0.1]], (4, 1)))
    little = np.array([True, True, False, False] * 2)
    assert moved[little].max() <= 1.001 and moved[~little].min() >= 0.999 and moved.max() <= 2.001


def test_maps_of_three_scales_and_what_the_classes_have_of_their_own():
    node = {"name": "rt_detr", "backbone": TINY | {"stages": 4}, "width": 8, "heads": 2, "encoder_width": 8}
    one, more = (parts.make("models", {**node, "queries": 6}, classes=n, dtype="float32") for n in (3, 4))
    images = jnp.zeros((1, *SIZE, 3))
    variables, others = (jax.eval_shape(model.init, jax.random.key(0), images) for model in (one, more))
    outputs, _ = jax.eval_shape(one.apply, variables, images)
    grids = {name: outputs["features"][name].shape[1:3] for name in one.levels}
    assert grids == {"p3": (4, 8), "p4": (2, 4), "p5": (1, 2)}
    both = zip(*(jax.tree.leaves(each["params"]) for each in (variables, others)), strict=True)
    for path, (ours, theirs) in zip(paths.paths(variables["params"]), both, strict=True):
        assert (ours.shape != theirs.shape) == any(re.search(head, path) for head in one.heads), path


def test_who_sees_whom():
    seen = np.asarray(rt_detr.sight(jnp.array([[0, 0, 1, -1]]), 2))[0, 0]
    assert seen.astype(int).tolist() == [
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
        [0, 0, 1, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("name", "model", "task", "said"),
    [
        ("detr", {}, {"scores": "sigmoid"}, "no scores='sigmoid'"),
        ("detr", {}, {"costs": (1, 2)}, r"task\.costs=\(1, 2\) must be three numbers"),
        ("detr", {"queries": 0}, {}, "queries=0 must be 1 or more"),
        ("detr", {"width": 9}, {}, "width=9 must be a multiple of 4"),
        ("rt_detr", {"strides": (8, 32)}, {}, r"strides=\(8, 32\) must double"),
        ("rt_detr", {"sampling": "dens"}, {}, "no sampling='dens'. Did you mean 'dense'"),
    ],
)
def test_mistakes(name, model, task, said):
    def make():
        made = parts.make("models", {**NODES[name], **model}, classes=3, dtype="float32")
        parts.make("tasks", {"name": "set_prediction", **task}, model=made, classes=CLASSES, image_size=SIZE)

    with pytest.raises(UserError, match=said):
        make()


def test_mistakes_that_the_images_show():
    batch, key = batch_of(), jax.random.key(0)
    with pytest.raises(UserError, match=r"queries=200 are more than the 128 places"):
        jax.eval_shape(task_of("rt_detr", queries=200).init, key, batch)
    task = task_of("detr", denoising=3)
    with pytest.raises(UserError, match=r"set task\.denoising=0"):
        jax.eval_shape(task.loss, jax.eval_shape(task.init, key, batch), batch, Context(key))
