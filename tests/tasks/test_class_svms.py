"""Class SVMs are scikit-learn's on all boxes at once, whatever was mined; they stand in for the softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.svm import LinearSVC

from mapjax.errors import UserError
from mapjax.models.detectors import fast_rcnn
from mapjax.task import Context
from mapjax.tasks.detection import class_svms, two_stage

SMALL = {"backbone": {"name": "resnet", "depth": 18, "width": 0.0625}, "classes": 2}


def drawn(count=400, width=5):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    role = np.where(vectors[:, :2] + rng.normal(0, 0.5, (count, 2)) > 1, 1, rng.choice([-1, -1, -1, 0], (count, 2)))
    return vectors, np.concatenate([role, -np.ones((count, 1), np.int64)], 1)


@pytest.mark.parametrize("first", [1, 20, 2000])
def test_mining_finds_the_svm_of_all(first):
    vectors, role = drawn()
    weights, offsets = class_svms.fit(vectors, role, cost=0.01, first=first)
    scale = class_svms.LENGTH / np.linalg.norm(vectors, axis=1).mean()
    for number in range(2):
        used = role[:, number] != 0
        whole = LinearSVC(C=0.01, dual=False, tol=1e-8, max_iter=10_000).fit(scale * vectors[used], role[used, number])
        margins = vectors @ weights[:, number] + offsets[number]
        np.testing.assert_allclose(margins, whole.decision_function(scale * vectors), rtol=1e-3, atol=1e-3)
    assert not weights[:, 2].any() and class_svms.scores(offsets[2]) == 0  # a class without objects


def test_what_overlaps_an_object_is_no_background_of_its_class():
    truth, numbers = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32), np.array([1, 0])
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 3.1], [0, 0, 10, 2.9], [20, 0, 30, 20]], np.float32)
    expected = [[-1, 0], [-1, 0], [-1, -1], [0, -1]]
    assert class_svms.roles(boxes, truth, numbers, 2).tolist() == expected
    assert class_svms.roles(boxes, truth[:0], numbers[:0], 2).tolist() == [[-1, -1]] * 4


def test_they_stand_in_for_the_softmax():
    logits = jnp.array([[9.0, 1.0, -1.0], [-9.0, -2.0, 3.0]])
    proposals = jnp.array([[0.0, 0, 4, 4], [8, 8, 14, 14]])
    extent, real = jnp.array([0.0, 0, 16, 16]), jnp.ones(2, bool)

    def suppress(boxes, score, label, valid, count):
        return jnp.arange(count), score[:count], valid[:count]

    options = {"weights": (10, 10, 5, 5), "score_threshold": 0.0, "count": 4, "candidates": 4, "suppress": suppress}
    given = logits, jnp.zeros((2, 3, 4)), proposals, real, extent
    found = two_stage.detect(*given, **options, scored=class_svms.scores)
    np.testing.assert_allclose(found["scores"], jax.nn.sigmoid(jnp.array([3.0, 1, -1, -2])), rtol=1e-6)
    assert found["classes"].tolist() == [1, 0, 1, 0]


def test_their_weights_give_their_margins():
    vectors, role = drawn()
    weights, offsets = class_svms.fit(vectors, role)
    params = {"box_predictor": {"cls_score": {}, "bbox_pred": {"bias": 1}}, "backbone": {"x": 2}}
    new = class_svms.installed({"params": params, "stats": {}}, weights, offsets)["params"]
    scored = new["box_predictor"]["cls_score"]
    np.testing.assert_allclose(
        vectors @ scored["kernel"] + scored["bias"], np.pad(vectors @ weights + offsets, ((0, 0), (1, 0)))
    )
    assert new["box_predictor"]["bbox_pred"] == {"bias": 1} and new["backbone"] == {"x": 2}


def test_where_they_cannot_be():
    model = fast_rcnn.make(**SMALL)
    with pytest.raises(UserError, match=r"task.scores='smv' must be 'softmax' or 'svm'.*svm"):
        two_stage.make(model=model, proposals="data", scores="smv")
    with pytest.raises(UserError, match=r"train with task.scores='softmax', and then mapjax evaluate"):
        two_stage.make(model=model, proposals="data", scores="svm").loss({}, {}, Context(jax.random.key(0)))
    with pytest.raises(UserError, match=r"needs the features of each box, which model.name='rcnn' gives"):
        class_svms.require(model)
