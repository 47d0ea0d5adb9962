"""The detection task on the smallest two-stage detector there is: patches, and one matrix per output."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from box_batches import batch_of, with_box
from oracles import iou_of

from mapjax import stages
from mapjax.models.detectors import faster_rcnn
from mapjax.ops import boxes as box_ops
from mapjax.ops.anchors import grid_anchors
from mapjax.ops.roi_align import roi_align_batch
from mapjax.task import Context, Model
from mapjax.tasks.detection import frames, two_stage

SIZE, CLASSES, CHANNELS = (32, 32), ("a", "b"), 16


KEY = jax.random.key(0)


def tiny() -> Model:
    """Strides 8 and 16, one anchor a cell; boxes are pooled from the finer level."""

    def init(key, images):
        del images
        keys = jax.random.split(key, 5)
        shapes = {
            "patch": (8 * 8 * 3, CHANNELS),
            "objectness": (CHANNELS, 1),
            "deltas": (CHANNELS, 4),
            "logits": (4 * CHANNELS, len(CLASSES) + 1),
            "boxes": (4 * CHANNELS, (len(CLASSES) + 1) * 4),
        }
        params = {
            name: jax.random.normal(k, shape) / np.sqrt(shape[0]) for k, (name, shape) in zip(keys, shapes.items())
        }
        return {"params": params, "stats": {}}

    def apply(variables, images, *, train, key):
        del train, key
        params, b = variables["params"], len(images)
        patches = images.reshape(b, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(b, 4, 4, -1)
        fine = jax.nn.relu(patches @ params["patch"])
        coarse = fine.reshape(b, 2, 2, 2, 2, CHANNELS).mean((2, 4))
        cells = jnp.concatenate([fine.reshape(b, 16, -1), coarse.reshape(b, 4, -1)], 1)
        outputs = {"objectness": (cells @ params["objectness"])[..., 0], "deltas": cells @ params["deltas"] * 0.1}
        return outputs | {"features": {"p3": fine, "p4": coarse}}, variables["stats"]

    def regions(variables, features, boxes, *, train):
        del train
        params = variables["params"]
        pooled = roi_align_batch([features["p3"]], [8], boxes, pool=2).reshape(*boxes.shape[:2], -1)
        deltas = (pooled @ params["boxes"] * 0.1).reshape(*boxes.shape[:2], -1, 4)
        return {"logits": pooled @ params["logits"], "deltas": deltas}, variables["stats"]

    def anchors(image):
        return [grid_anchors(image, (4, 4), (8,), (1,)), grid_anchors(image, (2, 2), (16,), (1,))]

    return Model(init, apply, {"regions": regions, "anchors": anchors})


OPTIONS = {
    "pre_nms_train": 12,
    "post_nms_train": 10,
    "pre_nms_test": 12,
    "post_nms_test": 9,
    "rpn_samples": 16,
    "samples": 8,
    "detections": 5,
    "candidates": 12,
}
TASK = two_stage.make(model=tiny(), score_threshold=0.0, box_nms=0.2, **OPTIONS)
PREDICT = jax.jit(lambda variables, batch: TASK.predict(variables, batch, KEY))
ANSWER = jax.jit(lambda variables, batch: TASK.decode(TASK.predict(variables, batch, KEY), batch))
ANCHORS = tiny().calls["anchors"](SIZE)
EVERY = np.concatenate(ANCHORS)


@jax.jit
def loss_and_gradient(variables, batch, key=3):
    (loss, (_, scalars)), gradient = jax.value_and_grad(TASK.loss, has_aux=True)(
        variables, batch, Context(jax.random.key(key))
    )
    return loss, scalars, gradient["params"]


def variables_of(batch):
    return TASK.init(jax.random.key(0), batch)


def test_without_any_box_loss_and_gradients_are_finite():
    batch = batch_of()
    loss, scalars, gradient = loss_and_gradient(variables_of(batch), batch)
    assert np.isfinite(loss) and loss > 0
    assert set(scalars) == {"loss", "loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box"}
    assert scalars["loss_rpn_box"] == scalars["loss_box"] == 0
    np.testing.assert_allclose(loss, scalars["loss_objectness"] + scalars["loss_classifier"], rtol=1e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient.values())
    assert gradient["objectness"].any() and gradient["logits"].any()
    assert not gradient["deltas"].any() and not gradient["boxes"].any()


def test_with_boxes_every_part_learns():
    batch = with_box(with_box(batch_of(), 0, 1, [3, 4, 15, 18], 1), 1, 0, [16, 2, 30, 29], 0)
    _, scalars, gradient = loss_and_gradient(variables_of(batch), batch)
    assert all(np.isfinite(value) and value > 0 for value in scalars.values())
    assert all(np.all(np.isfinite(leaf)) and leaf.any() for leaf in gradient.values())


def test_gradients_reach_the_pixels():
    batch = with_box(batch_of(), 0, 1, [3, 4, 15, 18], 1)
    variables = variables_of(batch)

    @jax.jit
    def loss(pixels):
        return TASK.loss(variables, batch | {"image": TASK.normalize(pixels)}, Context(KEY))[0]

    gradient = jax.grad(loss)(batch["image"].astype(jnp.float32))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_rows_of_padding_change_nothing():
    batch = with_box(with_box(batch_of(), 0, 1, [3, 4, 15, 18], 1), 1, 0, [16, 2, 30, 29], 0)
    variables = variables_of(batch)
    expected = loss_and_gradient(variables, batch)
    other = batch | {"boxes": jnp.where(batch["valid"][..., None], batch["boxes"], jnp.asarray([1.0, 1.0, 31.0, 31.0]))}
    jax.tree.map(np.testing.assert_array_equal, loss_and_gradient(variables, other), expected)


def test_masked_images_change_nothing():
    batch = with_box(batch_of(), 0, 1, [3, 4, 15, 18], 1) | {"mask": jnp.array([True, False])}
    variables = variables_of(batch)
    expected = loss_and_gradient(variables, batch)
    other = with_box(batch, 1, 2, [10, 10, 25, 31], 1) | {"image": batch["image"].at[1].set(77)}
    jax.tree.map(np.testing.assert_array_equal, loss_and_gradient(variables, other), expected)
    seen = loss_and_gradient(variables, other | {"mask": jnp.ones(2, bool)})
    assert seen[0] != expected[0]


def test_appended_masked_images_change_nothing():
    """With places for all anchors nothing is left to chance, though the keys are split anew."""
    rng, mask = np.random.default_rng(3), np.array([True, True, False])
    batch = with_box(with_box(batch_of(3), 0, 1, [3, 4, 15, 18]), 2, 0, [16, 2, 30, 29])
    first = [rng.normal(size=(3, 20)), rng.normal(size=(3, 20, 4))]
    second = [rng.normal(size=(3, 6, 3)), rng.normal(size=(3, 6, 3, 4))]
    rois = {
        "labels": rng.integers(0, 3, (3, 6)),
        "targets": rng.normal(size=(3, 6, 4)),
        "real": rng.random((3, 6)) < 0.8,
    }

    @jax.jit
    def losses(first, second, truth, rois, mask):
        keys = jax.random.split(jax.random.key(0), len(mask))
        options = {"anchors": ANCHORS, "iou": (0.3, 0.5), "samples": 20, "positives": 1.0}
        terms = two_stage.first_stage_loss(keys, *first, truth, mask, **options)
        return terms | two_stage.second_stage_loss(*second, rois, mask)

    arguments = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == float else leaf, (first, second))
    rois["targets"] = rois["targets"].astype(np.float32)
    truth = {name: batch[name] for name in ("boxes", "classes", "crowd", "valid")}
    whole = (*arguments, truth, rois, mask)
    expected, found = losses(*jax.tree.map(lambda leaf: leaf[:2], whole)), losses(*whole)
    for name, value in expected.items():
        assert value > 0
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_a_batch_of_masked_images_has_no_loss():
    batch = with_box(batch_of(), 0, 1, [3, 4, 15, 18], 1) | {"mask": jnp.zeros(2, bool)}
    loss, _, gradient = loss_and_gradient(variables_of(batch), batch)
    assert loss == 0 and not any(leaf.any() for leaf in gradient.values())


def test_crowds_are_neither_object_nor_background():
    everywhere = [-20, -20, 60, 60]
    batch = with_box(with_box(batch_of(), 0, 0, everywhere, crowd=True), 1, 2, everywhere, crowd=True)
    loss, scalars, gradient = loss_and_gradient(variables_of(batch), batch)
    assert loss == 0 and all(value == 0 for value in scalars.values())
    assert not any(leaf.any() for leaf in gradient.values())


def test_predict_has_static_shapes():
    batch = batch_of()
    for image in (batch["image"], jnp.zeros_like(batch["image"]), jnp.full_like(batch["image"], 255)):
        given = batch | {"image": image}
        prediction, found = PREDICT(variables_of(batch), given), ANSWER(variables_of(batch), given)
        stages.check("prediction", prediction)
        shapes = {name: (value.shape, value.dtype.name) for name, value in prediction.items() if name != "features"}
        assert shapes == {
            "proposals": ((2, 9, 4), "float32"),
            "proposals_valid": ((2, 9), "bool"),
            "region_logits": ((2, 9, 3), "float32"),
            "region_deltas": ((2, 9, 3, 4), "float32"),
        }
        shapes = {name: (value.shape, value.dtype.name) for name, value in found.items()}
        assert shapes == {
            "boxes": ((2, 5, 4), "float32"),
            "scores": ((2, 5), "float32"),
            "classes": ((2, 5), "int32"),
            "valid": ((2, 5), "bool"),
        }
        assert found["valid"].any()
        assert np.all(np.diff(found["scores"]) <= 0) and np.all((found["scores"] > 0) == found["valid"])
        assert np.all((found["boxes"] >= 0) & (found["boxes"] <= 32))
        assert not np.any(np.asarray(found["boxes"])[~np.asarray(found["valid"])])
    assert PREDICT._cache_size() == 1


def test_predictions_stay_in_the_image_and_apart():
    batch = batch_of()
    matrix = jnp.asarray([[0.5, 0, 0], [0, 0.5, 4], [0, 0, 1]])  # an image of 48 × 40 pixels in rows 4 to 24
    batch |= {"matrix": jnp.stack([matrix] * 2), "size": jnp.array([[40, 48]] * 2)}
    prediction = jax.tree.map(np.asarray, PREDICT(variables_of(batch), batch))
    proposals = prediction["proposals"]
    assert np.all(proposals >= [0, 4, 0, 4]) and np.all(proposals <= [24, 24, 24, 24])
    result = jax.tree.map(np.asarray, TASK.decode(prediction, batch))
    # Seen again in the network's input, where they were chosen.
    found = result | {"boxes": np.asarray(box_ops.transform(jnp.asarray(result["boxes"]), batch["matrix"]))}
    for i in range(2):
        rows = np.flatnonzero(found["valid"][i])
        assert len(rows) > 1 and np.all(found["boxes"][i, rows] <= 24)
        for a in rows:
            for b in rows[rows > a]:
                same = found["classes"][i, a] == found["classes"][i, b]
                assert not same or iou_of(found["boxes"][i, a], found["boxes"][i, b]) <= 0.2 + 1e-5
    assert np.all((result["boxes"] >= 0) & (result["boxes"] <= jnp.array([48, 40, 48, 40])))


def test_detections_are_returned_in_original_pixels():
    batch = batch_of()
    matrices = [[[0.5, 0, 0], [0, 0.25, 0], [0, 0, 1]], [[-2, 0, 60], [0, 2, 4], [0, 0, 1]]]  # smaller; mirrored
    batch |= {"matrix": jnp.asarray(matrices, jnp.float32), "size": jnp.array([[100, 60], [14, 30]])}
    original = [[[4, 8, 20, 100], [0, 0, 60, 60], [9, 9, 9, 9]], [[1, 2, 11, 13], [7, 3, 40, 20], [9, 9, 9, 9]]]
    prediction = {
        "boxes": jnp.asarray(
            [
                [[2, 2, 10, 25], [0, 0, 30, 15], [3, 3, 5, 5]],
                [[38, 8, 58, 30], [-20, 10, 46, 44], [3, 3, 5, 5]],
            ],
            jnp.float32,
        ),
        "scores": jnp.full((2, 3), 0.5),
        "classes": jnp.ones((2, 3), jnp.int32),
        "valid": jnp.array([[True, True, False]] * 2),
    }
    result = frames.to_original(prediction, batch)
    expected = np.array(original, float)
    expected[1, 1] = [7, 3, 30, 14]  # clipped to the image
    expected[:, 2] = 0
    np.testing.assert_allclose(result["boxes"], expected, atol=1e-4)
    for name in ("scores", "classes", "valid"):
        np.testing.assert_array_equal(result[name], prediction[name])


def test_extents():
    matrices = [np.eye(3), [[2, 0, 3], [0, 2, -5], [0, 0, 1]], [[-1, 0, 20], [0, 1, 0], [0, 0, 1]]]
    batch = batch_of(3) | {"matrix": jnp.asarray(np.array(matrices), jnp.float32), "size": jnp.array([[9, 20]] * 3)}
    assert frames.extents(batch).tolist() == [[0, 0, 20, 9], [3, 0, 32, 13], [0, 0, 20, 9]]


def test_some_dozen_steps_learn_one_image():
    image = np.full((2, *SIZE, 3), 60, np.uint8)
    image[:, 12:28, 12:28] = [250, 20, 20]
    batch = batch_of() | {"image": jnp.asarray(image), "mask": jnp.array([True, False])}
    batch = with_box(batch, 0, 0, [12, 12, 28, 28], 1)
    params, tx = variables_of(batch)["params"], optax.adam(0.005)
    opt, update, values = tx.init(params), jax.jit(tx.update), []
    for step in range(60):
        value, _, gradient = loss_and_gradient({"params": params, "stats": {}}, batch, step)
        updates, opt = update(gradient, opt, params)
        params = optax.apply_updates(params, updates)
        values.append(float(value))
    assert np.all(np.isfinite(values)) and np.mean(values[-10:]) < 0.5 * values[0]
    found = jax.tree.map(np.asarray, ANSWER({"params": params, "stats": {}}, batch))
    assert found["valid"][0, 0] and found["classes"][0, 0] == 1 and found["scores"][0, 0] > 0.5
    assert iou_of(found["boxes"][0, 0], [12, 12, 28, 28]) > 0.5


def test_shapes_with_the_real_network():
    model = faster_rcnn.make(classes=2, backbone={"name": "resnet", "depth": 18, "width": 0.125}, channels=8)
    task = two_stage.make(model=model, **OPTIONS)
    batch = jax.eval_shape(lambda: batch_of())
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    found = jax.eval_shape(task.predict, variables, batch, KEY)
    assert found["region_deltas"].shape == (2, 9, 3, 4) and found["proposals"].shape == (2, 9, 4)
    assert jax.eval_shape(task.decode, found, batch)["boxes"].shape == (2, 5, 4)
    loss, (stats, scalars) = jax.eval_shape(task.loss, variables, batch, Context(jax.random.key(0)))
    assert loss.shape == () and all(value.shape == () for value in scalars.values())
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
