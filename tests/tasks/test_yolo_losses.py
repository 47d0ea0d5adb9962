"""The losses and answers of YOLO and YOLOX in the dense task, against their sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.errors import UserError
from mapjax.models.heads import decoupled
from mapjax.ops import assignment, box_codes, box_losses
from mapjax.task import Context, Model
from mapjax.tasks.detection import dense

SIDE, CLASSES = 64, 2
YOLO = {
    "assignment": {"name": "task_aligned", "count": 3},
    "single": {"name": "task_aligned", "count": 1},
    "code": "distances",
    "class_loss": "bce",
    "box_loss": "ciou",
    "box_factor": 5,
    "divided_by": "quality",
}
YOLOX = {
    "assignment": "sim_ota",
    "code": "corner",
    "class_loss": {"name": "bce", "everywhere": False},
    "box_loss": "iou_squared",
    "box_factor": 5,
    "quality": "objectness",
    "divided_by": "batch",
}


def model_of(shift, single):
    """A network whose parameters are its answers."""
    sites = len(np.concatenate(decoupled.sites(SIDE, SIDE, shift)))
    widths = {"site_logits": (CLASSES,), "site_deltas": (4,), "site_quality": ()}
    widths |= {"single_logits": (CLASSES,), "single_deltas": (4,)} if single else {}

    def init(key, images):
        shapes = {name: (len(images), sites, *width) for name, width in widths.items()}
        drawn = {name: jax.random.normal(jax.random.fold_in(key, len(shape) + i), shape)
                 for i, (name, shape) in enumerate(shapes.items())}  # fmt: skip
        return {"params": {n: jnp.abs(x) + 1 if "deltas" in n and shift else x for n, x in drawn.items()}, "stats": {}}

    def apply(variables, images, *, train, key):
        return {"features": {}, **variables["params"]}, variables["stats"]

    calls = {"sites": lambda height, width: decoupled.sites(height, width, shift)}
    return Model(init, apply, calls, levels=decoupled.STRIDES)


def batch_of():
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0, :2] = [[4, 6, 40, 30], [20, 20, 60, 62]]
    boxes[1, :3] = [[0, 0, 30, 30], [30, 10, 50, 58], [0, 0, 64, 64]]
    return {
        "image": np.zeros((2, SIDE, SIDE, 3), np.uint8),
        "boxes": boxes,
        "classes": np.array([[0, 1, 0], [1, 1, 0]], np.int32),
        "crowd": np.array([[False] * 3, [False, False, True]]),
        "valid": np.array([[True, True, False], [True] * 3]),
        "size": np.full((2, 2), SIDE, np.int32),
        "matrix": np.repeat(np.eye(3, dtype=np.float32)[None], 2, 0),
        "mask": np.array([True, True]),
    }


def answers_of(task, variables):
    """Boxes and classes of the first image."""
    batch = jax.tree.map(jnp.asarray, batch_of())
    found = jax.jit(lambda v, b: task.decode(task.predict(v, b, None), b))(variables, batch)
    valid = np.asarray(found["valid"][0])
    return [np.asarray(found[name][0])[valid] for name in ("boxes", "classes")]


def entropy(logits, target):
    return np.logaddexp(0, logits) - logits * target


def assigned(task, branch, params, batch, i, shift):
    """What each site of an image is matched to, and its quality; ops/ has tests of that."""
    sites = decoupled.sites(SIDE, SIDE, shift)
    options = dict(task[branch]) if isinstance(task[branch], dict) else {"name": task[branch]}
    prefix = "single" if branch == "single" else "site"
    _, decode = box_codes.CODES[task["code"]]
    boxes = decode(params[f"{prefix}_deltas"][i], jnp.asarray(np.concatenate(sites)))
    scores = jax.nn.sigmoid(params[f"{prefix}_logits"][i])
    if "quality" in task:
        scores = scores * jax.nn.sigmoid(params["site_quality"][i])[:, None]
    truth = {name: jnp.asarray(batch[name][i]) for name in ("boxes", "classes", "crowd", "valid")}
    function = assignment.ASSIGNMENTS[options.pop("name")]
    found = function(truth, sites, {"scores": scores, "boxes": boxes}, **options)
    return np.asarray(found["matched"]), np.asarray(found["quality"]), np.asarray(boxes, np.float64)


def iou_of(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("branch", ["assignment", "single"])
def test_losses_of_yolo(branch):
    """Classes everywhere but in the crowd, boxes weighted by quality, both over the sum of the qualities."""
    model, batch, prefix = model_of(0.5, True), batch_of(), "single" if branch == "single" else "site"
    task = dense.make(model=model, **YOLO)
    variables = model.init(jax.random.key(1), batch["image"])
    total, (_, terms) = jax.jit(lambda v, b: task.loss(v, b, Context(jax.random.key(0))))(variables, batch)
    classes = boxes = weight = 0
    for i in range(2):
        matched, quality, answers = assigned(YOLO, branch, variables["params"], batch, i, 0.5)
        logits = np.asarray(variables["params"][f"{prefix}_logits"][i], np.float64)
        target = np.zeros_like(logits)
        for r in np.flatnonzero(matched >= 0):
            target[r, batch["classes"][i, matched[r]]] = quality[r]
            box = jnp.asarray(answers[r], jnp.float32), jnp.asarray(batch["boxes"][i, matched[r]])
            boxes += quality[r] * float(box_losses.ciou(*box))
        classes += entropy(logits, target)[matched != -2].sum()
        weight += quality[matched >= 0].sum()
        assert (matched >= 0).any()
    name = "loss_" if prefix == "site" else "loss_single_"
    np.testing.assert_allclose(terms[f"{name}class"], classes / max(weight, 1), rtol=1e-4)
    np.testing.assert_allclose(terms[f"{name}box"], boxes / max(weight, 1), rtol=1e-4)
    parts = {key: float(value) for key, value in terms.items() if key != "loss"}
    assert set(parts) == {"loss_class", "loss_box", "loss_single_class", "loss_single_box"}
    expected = sum(value * (5 if key.endswith("box") else 1) for key, value in parts.items())
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_losses_of_yolox():
    """Objectness everywhere but in the crowd; classes, whose target is the IoU, and boxes of objects only."""
    model, batch = model_of(0.0, False), batch_of()
    task = dense.make(model=model, **YOLOX)
    variables = model.init(jax.random.key(2), batch["image"])
    total, (_, terms) = jax.jit(lambda v, b: task.loss(v, b, Context(jax.random.key(0))))(variables, batch)
    sums, count = {"class": 0.0, "box": 0.0, "quality": 0.0}, 0
    for i in range(2):
        matched, quality, boxes = assigned(YOLOX, "assignment", variables["params"], batch, i, 0.0)
        logits, objectness = (
            np.asarray(variables["params"][f"site_{k}"][i], np.float64) for k in ("logits", "quality")
        )
        sums["quality"] += entropy(objectness, matched >= 0)[matched != -2].sum()
        for r in np.flatnonzero(matched >= 0):
            iou = iou_of(boxes[r], batch["boxes"][i, matched[r]])
            assert abs(iou - quality[r]) < 1e-4
            target = iou * (np.arange(CLASSES) == batch["classes"][i, matched[r]])
            sums["class"] += entropy(logits[r], target).sum()
            sums["box"] += 1 - iou**2
            count += 1
    assert count > 1
    for name, value in sums.items():
        np.testing.assert_allclose(terms[f"loss_{name}"], value / count, rtol=1e-4)
    np.testing.assert_allclose(total, (sums["class"] + 5 * sums["box"] + sums["quality"]) / count, rtol=1e-4)


def test_answers_of_either_branch():
    """With suppression those of many sites an object; without, all of the branch that answers once."""
    model = model_of(0.5, True)
    variables = model.init(jax.random.key(1), batch_of()["image"])
    params = variables["params"]
    for name, site in (("site", 20), ("single", 30)):
        params[f"{name}_logits"] = jnp.full_like(params[f"{name}_logits"], -9).at[:, site : site + 2, 1].set(3.0)
        params[f"{name}_deltas"] = jnp.full_like(params[f"{name}_deltas"], 2.0)

    def answers(suppression):
        return answers_of(dense.make(model=model, **YOLO, suppression=suppression), variables)

    middles = np.concatenate(decoupled.sites(SIDE, SIDE, 0.5))
    middles = (middles[:, :2] + middles[:, 2:]) / 2
    boxes, classes = answers(0.3)
    around = np.clip(np.concatenate([middles[20] - 16, middles[20] + 16]), 0, SIDE)
    np.testing.assert_allclose(boxes, [around], atol=1e-4)
    assert classes.tolist() == [1]
    boxes, classes = answers(None)
    np.testing.assert_array_equal(boxes, answers(1)[0])
    around = [np.clip(np.concatenate([middles[i] - 16, middles[i] + 16]), 0, SIDE) for i in (30, 31)]
    np.testing.assert_allclose(sorted(boxes.tolist()), sorted(map(list, around)), atol=1e-4)


def test_best_class_only():
    model = model_of(0.5, False)
    variables = model.init(jax.random.key(1), batch_of()["image"])
    logits = jnp.full_like(variables["params"]["site_logits"], -9).at[:, 20].set(jnp.array([2.0, 1.0]))
    variables["params"]["site_logits"] = logits
    plain = {key: value for key, value in YOLO.items() if key != "single"}
    for best, classes in ((False, [0, 1]), (True, [0])):
        assert answers_of(dense.make(model=model, **plain, best_class=best), variables)[1].tolist() == classes


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"assignment": "iou"}, r"task\.class_loss='bce' needs task\.assignment to be one of sim_ota, task_aligned"),
        ({"class_loss": "focal", "single": "centre"}, r"task\.divided_by='quality' needs task\.single to be one of"),
        ({"assignment": {"name": "task_aligned", "counts": 3}}, r"'task_aligned' takes no 'counts'\. Did you mean"),
    ],
)
def test_mistakes(options, match):
    with pytest.raises(UserError, match=match):
        dense.make(model=model_of(0.5, True), **YOLO | options)


def test_a_network_without_a_branch():
    model, batch = model_of(0.5, False), batch_of()
    task = dense.make(model=model, **YOLO)
    variables = model.init(jax.random.key(1), batch["image"])
    with pytest.raises(UserError, match=r"gives 'single_logits': set task\.single=None"):
        jax.eval_shape(lambda v, b: task.loss(v, b, Context(jax.random.key(0))), variables, batch)
