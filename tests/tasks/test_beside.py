"""Masks and keypoints beside boxes: targets against counting pixels and OpenCV, and the whole task on small images."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_batches import FEW

from mapjax import stages
from mapjax.config import parts
from mapjax.data import box_masks, run_lengths
from mapjax.errors import UserError
from mapjax.ops import keypoint_maps
from mapjax.ops.mask_crops import crop
from mapjax.task import Context
from mapjax.tasks.detection import beside, two_stage

SMALL = {
    "backbone": {"name": "resnet", "depth": 18, "width": 0.0625},
    "channels": 4,
    "representation": 6,
    "pool": 2,
    "mask_pool": 2,
}
KEY = jax.random.key(0)


def test_a_crop_counts_the_area_that_is_covered():
    """Against many points in each cell."""
    rng = np.random.default_rng(0)
    grids = (rng.random((5, 6, 6)) < 0.5).astype(np.float32)
    low = rng.uniform(0, 20, (2, 5, 2))
    boxes, windows = np.concatenate([low, low + rng.uniform(3, 20, low.shape)], -1).astype(np.float32)
    found = np.asarray(jax.jit(crop, static_argnums=3)(grids, boxes, windows, 4))
    share = (np.arange(4 * 200) + 0.5) / (4 * 200)
    for grid, box, window, shares in zip(grids, boxes, windows, found):
        x, y = (window[k] + (window[k + 2] - window[k]) * share for k in (0, 1))
        column, row = ((at - box[k]) / (box[k + 2] - box[k]) * 6 for k, at in enumerate((x, y)))
        inside = ((row >= 0) & (row < 6))[:, None] & ((column >= 0) & (column < 6))
        points = np.where(inside, grid[np.clip(row, 0, 5).astype(int)[:, None], np.clip(column, 0, 5).astype(int)], 0)
        np.testing.assert_allclose(shares, points.reshape(4, 200, 4, 200).mean((1, 3)), atol=0.02)


def test_places_of_keypoints_one_by_one():
    boxes = np.float32([[10, 20, 30, 60], [0, 0, 8, 8]])
    points = np.float32(
        [[[10, 20, 2], [30, 60, 1], [29.9, 40, 2], [9, 30, 2]], [[4, 4, 2], [4, 4, 0], [8, 3, 2], [1, 9, 2]]]
    )
    found, learned = keypoint_maps.places(jnp.asarray(points), jnp.asarray(boxes), 8)
    expected = [[0, 63, 4 * 8 + 7, 0], [4 * 8 + 4, 0, 3 * 8 + 7, 0]]  # x goes by 2.5, y by 5; then both by 1
    assert found.tolist() == expected
    assert learned.tolist() == [[True, True, True, False], [True, False, True, False]]


@pytest.mark.parametrize("longest", [100, 300])
def test_peaks_are_those_of_the_magnified_map(longest):
    rng = np.random.default_rng(0)
    low, sides = rng.uniform(0, 9, (12, 2)), np.exp(rng.uniform(-1, np.log(longest), (12, 2)))
    boxes = np.concatenate([low, low + sides], 1).astype(np.float32)
    maps = np.stack([cv2.resize(rng.normal(size=(4, 4, 3)), (14, 14), interpolation=cv2.INTER_CUBIC) for _ in boxes])
    found = np.asarray(jax.jit(keypoint_maps.peaks, static_argnums=2)(maps.astype(np.float32), boxes, longest))
    for box, logits, points in zip(boxes, maps, found):
        width, height = np.maximum(box[2:] - box[:2], 1)
        columns, rows = int(np.ceil(width)), int(np.ceil(height))
        large = cv2.resize(logits, (columns, rows), interpolation=cv2.INTER_CUBIC).reshape(rows, columns, 3)
        for k in range(3):
            row, column = np.unravel_index(large[..., k].argmax(), (rows, columns))
            at = box[:2] + (np.array([column, row]) + 0.5) * [width / columns, height / rows]
            np.testing.assert_allclose(points[k], [*at, large[..., k].max()], rtol=1e-3, atol=2e-3)


def test_objects_without_a_mask_teach_nothing():
    grids = np.stack([np.full((4, 4), 255), np.zeros((4, 4)), np.full((4, 4), 255)]).astype(np.uint8)
    boxes = jnp.tile(jnp.array([0.0, 0, 8, 8]), (3, 1))
    rois = {"boxes": boxes, "owner": jnp.arange(3), "positive": jnp.array([True, True, False])}
    lost, count = beside.mask_loss(jnp.full((3, 2, 2), 2.0), rois, boxes, jnp.asarray(grids))
    assert count == 4
    np.testing.assert_allclose(lost, 4 * np.log1p(np.exp(-2.0)), rtol=1e-6)


def task_of(model, **options):
    return parts.make("tasks", {"name": "two_stage", **FEW, **options}, model=model)


def batch_of(count=2):
    rng = np.random.default_rng(0)
    boxes = np.tile(np.float32([[4, 4, 40, 40], [20, 10, 60, 50], [0, 0, 0, 0]]), (2, 1, 1))
    keypoints = np.concatenate([boxes[:, :, None, :2] + 9, np.full((2, 3, 1, 1), 2)], -1).astype(np.float32)
    found = {
        "image": rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
        "matrix": np.tile(np.diag(np.float32([0.5, 0.5, 1])), (2, 1, 1)),
        "size": np.tile(np.int32([128, 128]), (2, 1)),
        "boxes": boxes,
        "classes": np.tile(np.int32([0, 1, 0]), (2, 1)),
        "crowd": np.zeros((2, 3), bool),
        "valid": np.tile([True, True, False], (2, 1)),
        "box_masks": np.full((2, 3, 8, 8), 255, np.uint8),
        "keypoints": np.repeat(keypoints, count, 2),
        "index": np.arange(2, dtype=np.int32),
        "mask": np.ones(2, bool),
    }
    return jax.tree.map(jnp.asarray, found)


def test_the_task_learns_and_answers_masks_and_keypoints():
    model = parts.make("models", {"name": "faster_rcnn", **SMALL, "mask_convs": 1, "mask_channels": 4, "keypoints": 2,
                                  "keypoint_convs": 2, "keypoint_channels": 4}, classes=2)  # fmt: skip
    task = task_of(model, beside=("masks", "keypoints"), score_threshold=0.0)
    batch = batch_of()
    stages.check("batch", batch)
    assert task.needs == "masks"
    variables = task.init(KEY, batch)

    @jax.jit
    def run(variables, batch):
        value, gradient = jax.value_and_grad(
            lambda params: task.loss({**variables, "params": params}, batch, Context(KEY)), has_aux=True
        )(variables["params"])
        prediction = task.predict(variables, batch, KEY)
        stages.check("prediction", prediction)
        return value, gradient, task.decode(prediction, batch)

    (_, (_, terms)), gradient, result = run(variables, batch)
    stages.check("result", result)
    np.testing.assert_allclose(terms["loss_mask"], np.log(2), rtol=0.02)  # its last layer begins near 0
    assert terms["loss_keypoint"] > 0 and float(terms["loss"]) == pytest.approx(sum(map(float, terms.values())) / 2)
    heads = gradient["roi_heads"]
    for name in ("mask_head", "mask_predictor", "keypoint_head", "keypoint_predictor"):
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(heads[name])), name
    assert result["mask_scores"].shape == (2, 3, 4, 4) and result["keypoints"].shape == (2, 3, 2, 3)
    boxes, points, valid = (np.asarray(result[key]) for key in ("boxes", "keypoints", "valid"))
    assert valid.any()
    for box, found in zip(boxes[valid], points[valid]):
        assert (found[:, :2] >= box[:2] - 0.1).all() and (found[:, :2] <= box[2:] + 0.1).all()
    finished = box_masks.finished(jax.tree.map(np.asarray, result), np.asarray(batch["size"]))
    for masks, real in zip(finished["masks"], valid):
        for mask, some in zip(masks, real):
            assert mask["size"] == [128, 128] and (some or not run_lengths.area(mask["counts"].encode()))
            assert run_lengths.decode(mask["counts"].encode(), (128, 128)).shape == (128, 128)


def test_what_does_not_go_together_is_told():
    plain = parts.make("models", {"name": "faster_rcnn", **SMALL}, classes=2)
    with pytest.raises(UserError, match=r"objects have no 'mask' beside their boxes.*masks"):
        two_stage.make(model=plain, beside=("mask",))
    with pytest.raises(UserError, match=r"the network has no head for masks; set model.mask_convs=4"):
        jax.eval_shape(task_of(plain, beside=("masks",)).init, KEY, batch_of())
    posed = parts.make("models", {"name": "faster_rcnn", **SMALL, "keypoints": 2, "keypoint_convs": 1}, classes=2)
    task = task_of(posed, beside=("keypoints",))
    assert task.needs == "keypoints"
    variables = jax.eval_shape(task.init, KEY, batch_of())
    with pytest.raises(UserError, match=r"3 keypoints an object, and the network answers 2: set model.keypoints=3"):
        jax.eval_shape(lambda v: task.loss(v, batch_of(3), Context(KEY)), variables)
    bare = {key: value for key, value in batch_of().items() if key != "keypoints"}
    with pytest.raises(UserError, match="a batch has no keypoints; set"):
        jax.eval_shape(lambda v: task.loss(v, bare, Context(KEY)), variables)
