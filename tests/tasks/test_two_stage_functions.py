"""The pure functions that the detection task is made of, each against its definition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from oracles import huber, iou_of, offsets

from mapjax.ops import images
from mapjax.ops.anchors import grid_anchors
from mapjax.ops.matching import BACKGROUND, IGNORED
from mapjax.tasks.detection import frames, suppression, two_stage

ANCHORS = [grid_anchors((32, 32), (4, 4), (8,), (1,)), grid_anchors((32, 32), (2, 2), (16,), (1,))]
EVERY = np.concatenate(ANCHORS)


def truth_of(boxes, crowd, classes=None, valid=None):
    count = len(boxes)
    return {
        "boxes": jnp.asarray(boxes, jnp.float32).reshape(-1, 4),
        "crowd": jnp.asarray(crowd),
        "classes": jnp.arange(count) if classes is None else jnp.asarray(classes),
        "valid": jnp.ones(count, bool) if valid is None else jnp.asarray(valid),
    }


def test_assign_with_crowds():
    truth = truth_of(
        [[0, 0, 20, 20], [0, 0, 10, 10], [50, 50, 60, 60]], [True, False, False], valid=[True, True, False]
    )
    candidates = [
        [0, 0, 20, 20],  # the crowd itself
        [0, 0, 10, 10],  # an object within the crowd
        [12, 12, 18, 18],  # within the crowd
        [14, 0, 25, 10],  # more than half of it in the crowd
        [15, 0, 25, 10],  # half of it
        [50, 50, 60, 60],  # no truth: invalid
    ]
    assign = jax.jit(two_stage._assign, static_argnames=("high", "low", "low_quality"))
    found = assign(jnp.asarray(candidates, jnp.float32), truth, high=0.5, low=0.5, low_quality=False)
    assert found.tolist() == [IGNORED, 1, IGNORED, IGNORED, BACKGROUND, BACKGROUND]
    found = assign(jnp.asarray(candidates[:1], jnp.float32), truth, high=0.5, low=0.2, low_quality=True)
    assert found.tolist() == [1]  # IoU 1/4, but the best that the object has


def test_sampled_proposals():
    truth = truth_of([[0, 0, 10, 10], [20, 20, 30, 30], [0, 20, 9, 29]], [False, False, True], classes=[1, 0, 1])
    proposals = [[0, 0, 10, 8], [20, 21, 30, 31], [40, 0, 50, 10], [1, 21, 8, 28], [0, 0, 10, 3], [60, 60, 70, 70]]
    real = jnp.array([True, True, True, True, True, False])
    draw = jax.jit(partial(two_stage.sample_rois, iou=0.5, samples=16, positives=1.0, weights=(10, 10, 5, 5)))
    rois = draw(jax.random.key(0), jnp.asarray(proposals, jnp.float32), real, truth)
    rois = {name: np.asarray(value)[np.asarray(rois["real"])] for name, value in rois.items()}
    expected = {  # box → label and truth; the objects' own boxes are proposals too, the crowd's is not
        (0, 0, 10, 8): (2, [0, 0, 10, 10]),
        (0, 0, 10, 10): (2, [0, 0, 10, 10]),
        (20, 21, 30, 31): (1, [20, 20, 30, 30]),
        (20, 20, 30, 30): (1, [20, 20, 30, 30]),
        (40, 0, 50, 10): (0, None),
        (0, 0, 10, 3): (0, None),
    }
    assert {tuple(box): label for box, label in zip(rois["boxes"].tolist(), rois["labels"].tolist())} == {
        box: label for box, (label, _) in expected.items()
    }
    assert len(rois["labels"]) == len(expected)
    for box, label, target in zip(rois["boxes"], rois["labels"], rois["targets"]):
        if label:
            answer = offsets(expected[tuple(box.tolist())][1], box) * [10, 10, 5, 5]
            np.testing.assert_allclose(target, answer, rtol=1e-5, atol=1e-5)


def test_the_first_stage_loss_is_its_definition():
    """With places for all anchors nothing is left to chance: objects by IoU, crowds ignored, the rest background."""
    rng = np.random.default_rng(0)
    objectness = rng.normal(size=(2, 20)).astype(np.float32)
    deltas = rng.normal(size=(2, 20, 4)).astype(np.float32) * 0.2
    boxes = np.array([[[1, 2, 11, 13], [15, 14, 33, 32], [0, 24, 9, 33]], [[8, 8, 24, 23], [0, 0, 0, 0], [0, 0, 0, 0]]])
    crowd = np.array([[False, False, True], [False] * 3])
    valid = np.array([[True, True, True], [True, False, False]])
    score, box_loss, count = 0.0, 0.0, 0
    for i in range(2):
        singles = [boxes[i, m] for m in range(3) if valid[i, m] and not crowd[i, m]]
        iou = np.array([[iou_of(single, anchor) for anchor in EVERY.astype(float)] for single in singles])
        for n, anchor in enumerate(EVERY.astype(float)):
            best = iou[:, n].argmax()
            claimed = any(row[n] == row.max() for row in iou)
            chance = 1 / (1 + np.exp(-float(objectness[i, n])))
            if iou[best, n] >= 0.5 or claimed:
                score, count = score - np.log(chance), count + 1
                box_loss += huber(deltas[i, n] - offsets(singles[best], anchor)).sum()
            elif iou[best, n] < 0.2:
                width = min(anchor[2], boxes[i, 2, 2]) - max(anchor[0], boxes[i, 2, 0])
                height = min(anchor[3], boxes[i, 2, 3]) - max(anchor[1], boxes[i, 2, 1])
                size = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
                if not (crowd[i, 2] and max(width, 0) * max(height, 0) > size / 2):
                    score, count = score - np.log(1 - chance), count + 1
    truth = {"boxes": boxes.astype(np.float32), "crowd": crowd, "valid": valid, "classes": np.zeros((2, 3), np.int32)}
    first_loss = partial(two_stage.first_stage_loss, anchors=ANCHORS, iou=(0.2, 0.5), samples=20, positives=1.0)
    keys = jax.random.split(jax.random.key(0), 2)
    found = jax.jit(first_loss)(keys, objectness, deltas, truth, jnp.ones(2, bool))
    assert 0 < count < 40
    np.testing.assert_allclose(found["loss_objectness"], score / count, rtol=1e-4)
    np.testing.assert_allclose(found["loss_rpn_box"], box_loss / count, rtol=1e-4)


def test_the_second_stage_loss_is_its_definition():
    rng = np.random.default_rng(1)
    logits, deltas = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3, 4))
    labels, targets = np.array([[0, 2, 1, 1], [0, 0, 2, 1]]), rng.normal(size=(2, 4, 4))
    real = np.array([[True, True, True, False], [True, True, True, True]])
    for mask in ([True, True], [False, True]):
        classifier, box, count = 0.0, 0.0, 0
        for i, n in np.argwhere(real & np.array(mask)[:, None]):
            label = labels[i, n]
            classifier += np.log(np.exp(logits[i, n]).sum()) - logits[i, n, label]
            box += huber(deltas[i, n, label] - targets[i, n]).sum() if label else 0
            count += 1
        rois = {"labels": jnp.asarray(labels), "targets": jnp.asarray(targets, jnp.float32), "real": jnp.asarray(real)}
        found = two_stage.second_stage_loss(
            jnp.asarray(logits, jnp.float32), jnp.asarray(deltas, jnp.float32), rois, jnp.asarray(mask)
        )
        np.testing.assert_allclose(found["loss_classifier"], classifier / count, rtol=1e-5)
        np.testing.assert_allclose(found["loss_box"], box / count, rtol=1e-5)


def test_proposals_are_the_best_of_each_level():
    rng = np.random.default_rng(2)
    objectness, deltas = rng.permutation(20).astype(np.float32), rng.normal(size=(20, 4)).astype(np.float32) * 0.3
    extent = np.array([0, 0, 30, 27], np.float32)
    expected = []
    for start, level in [(0, ANCHORS[0]), (16, ANCHORS[1])]:
        kept = []
        for n in start + np.argsort(-objectness[start : start + len(level)])[:7]:
            anchor, d = level[n - start].astype(float), deltas[n].astype(float)
            size = anchor[2:] - anchor[:2]
            centre, half = (anchor[:2] + anchor[2:]) / 2 + d[:2] * size, size * np.exp(d[2:]) / 2
            box = np.clip([*(centre - half), *(centre + half)], 0, [30, 27, 30, 27])
            if min(box[2:] - box[:2]) >= 1e-3 and all(iou_of(box, other) <= 0.3 for _, other in kept):
                kept.append((objectness[n], box))
        expected += kept
    expected = [box for _, box in sorted(expected, key=lambda pair: -pair[0])]
    run = jax.jit(partial(two_stage.propose, anchors=ANCHORS, before=7, after=6, threshold=0.3))
    boxes, real = run(objectness, deltas, extent)
    assert real.tolist() == [True] * 6 and len(expected) > 6
    np.testing.assert_allclose(boxes, expected[:6], atol=1e-4)
    boxes, real = run(objectness, deltas, np.array([0, 0, 3, 3], np.float32))  # most anchors lie outside
    assert 0 < real.sum() < 6 and not np.any(real[1:] & ~real[:-1])
    assert np.all(np.asarray(boxes)[np.asarray(real)] <= 3)


def test_detections_of_one_image():
    """Suppression within a class only, a threshold, and the offsets of the class itself."""
    chances = np.array(
        [
            [0.1, 0.7, 0.2],  # class 0 and class 1
            [0.3, 0.6, 0.1],  # suppressed by the first of class 0
            [0.02, 0.02, 0.96],
            [0.0, 0.5, 0.5],  # not real
            [0.9, 0.07, 0.03],  # background
        ]
    )
    proposals = [[0, 0, 10, 10], [0, 1, 10, 11], [20, 20, 40, 40], [5, 20, 9, 30], [20, 0, 30, 10]]
    deltas = np.zeros((5, 3, 4), np.float32)
    deltas[2, 2] = [10 * 0.5, 0, 0, 0]  # half its width to the right
    suppress = suppression.chosen(0.5, score_threshold=0.15)
    options = {"weights": (10, 10, 5, 5), "score_threshold": 0.15, "suppress": suppress, "count": 5, "candidates": 9}
    found = jax.jit(partial(two_stage.detect, **options))(
        jnp.asarray(np.log(chances + 1e-9), jnp.float32),
        jnp.asarray(deltas),
        jnp.asarray(proposals, jnp.float32),
        jnp.array([True, True, True, False, True]),
        jnp.asarray([0, 0, 45, 38], jnp.float32),
    )
    assert found["valid"].tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(found["scores"], [0.96, 0.7, 0.2, 0, 0], rtol=1e-5)
    assert found["classes"].tolist() == [1, 0, 1, 0, 0]
    expected = [[30, 20, 45, 38], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found["boxes"], expected, atol=1e-4)


def test_normalized_images():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 8, 32, 3)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = np.asarray(frames.pad(images.normalize(jnp.asarray(pixels))))
    np.testing.assert_allclose(found[:, :8], (pixels / 255 - mean) / std, atol=1e-5)
    assert found.shape == (1, 32, 32, 3) and not found[:, 8:].any()  # padded as torchvision pads
