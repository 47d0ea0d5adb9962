"""How a detector's answers are suppressed: every way on the tasks that offer it, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_batches import batch_of
from oracles import iou_of

from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.tasks.detection import answers, dense, suppression, two_stage

# Two classes on nearly the same place, and one box apart.
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [1, 0, 10, 10], [20, 20, 30, 30]], np.float32)
SCORES = np.array([[0.9, 0], [0, 0.8], [0.7, 0], [0, 0.3]], np.float32)
WAYS = {  # options → (class, score) of what is left
    "hard": ({}, [(0, 0.9), (1, 0.8), (1, 0.3)]),
    "agnostic": ({"agnostic": True}, [(0, 0.9), (1, 0.3)]),
    "linear": ({"soft": "linear"}, [(0, 0.9), (1, 0.8), (1, 0.3), (0, 0.7 * (1 - iou_of(BOXES[0], BOXES[2])))]),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("function", [answers.detect_by_level, answers.detect_by_class, two_stage.detect])
def test_every_way_in_every_task(function, way):
    options, expected = WAYS[way]
    if function is answers.detect_by_class and way == "agnostic":
        pytest.skip("dense.make takes the other one: classes are apart here")
    suppress = suppression.chosen(0.5, score_threshold=0.05, **options)
    extent = jnp.array([0.0, 0, 40, 40])
    if function is two_stage.detect:
        logits = jnp.log(jnp.concatenate([1 - SCORES.sum(1, keepdims=True), jnp.maximum(SCORES, 1e-9)], 1))
        given = logits, jnp.zeros((4, 3, 4)), jnp.asarray(BOXES), jnp.ones(4, bool), extent
        rest = {"weights": (1, 1, 1, 1), "score_threshold": 0.05}
    else:
        given = jnp.asarray(SCORES), jnp.zeros((4, 4)), extent
        rest = {"sites": [BOXES], "decode": lambda deltas, sites: sites + deltas, "threshold": 0.05}
    found = jax.jit(lambda *given: function(*given, suppress=suppress, candidates=8, count=6, **rest))(*given)
    real = np.asarray(found["valid"])
    assert np.asarray(found["classes"])[real].tolist() == [label for label, _ in expected]
    np.testing.assert_allclose(np.asarray(found["scores"])[real], [score for _, score in expected], rtol=1e-4)
    assert not any(np.asarray(value)[~real].any() for value in found.values())


def test_what_has_lost_too_much_score_is_no_detection():
    suppress = suppression.chosen(0.5, soft="gaussian", sigma=0.1, score_threshold=0.05)
    boxes, scores = jnp.asarray(BOXES[[0, 0]]), jnp.array([0.9, 0.8])
    index, left, real = suppress(boxes, scores, jnp.zeros(2, jnp.int32), jnp.ones(2, bool), 2)
    assert index.tolist() == [0, 1] and real.tolist() == [True, False] and 0 < left[1] < 0.05


SMALL = {"name": "vgg", "depth": 11, "width": 0.03}
SSD = {"name": "ssd", "backbone": SMALL, "levels": ("pool3", "pool4"), "extras": (8,)}


def test_the_task_of_candidates_by_class_is_agnostic_too():
    """SSD's: no two boxes overlap more than suppression allows, of whatever class."""
    model = parts.make("models", SSD, classes=2)
    options = {"class_loss": "softmax", "candidates_of": "class", "score_threshold": 0.0, "suppression": 0.3}
    batch, most = batch_of(1, (64, 64)), {}
    variables = dense.make(model=model, **options).init(jax.random.key(0), batch)
    for agnostic in (False, True):
        task = dense.make(model=model, **options, agnostic=agnostic, candidates=100, detections=100)
        found = jax.jit(lambda v, b, task=task: task.decode(task.predict(v, b, None), b))(variables, batch)
        boxes = np.asarray(found["boxes"][0])[np.asarray(found["valid"][0])]
        most[agnostic] = max(iou_of(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert most[True] <= 0.3 + 1e-5 < most[False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"soft": "gausian"}, r"task\.soft='gausian' is not known\. Did you mean 'gaussian'"),
        ({"soft": "gaussian", "sigma": 0}, r"task\.sigma=0 must be above 0"),
        ({"soft": "linear", "suppression": 1.0}, r"task\.soft='linear' needs task\.suppression, an IoU below 1"),
        ({"agnostic": True, "suppression": None}, r"task\.agnostic=True needs task\.suppression.*it is None"),
    ],
)
def test_mistakes(options, said):
    with pytest.raises(UserError, match=said):
        dense.make(model=parts.make("models", SSD, classes=2), **options)
