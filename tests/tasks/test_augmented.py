"""Test-time augmentation: several views of an image, answered by a stub or by small networks, and fused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_batches import batch_of

from mapjax import stages
from mapjax.config import parts
from mapjax.engine import evaluate
from mapjax.errors import UserError
from mapjax.models.detectors import detr, faster_rcnn
from mapjax.ops import images as image_ops
from mapjax.task import Task
from mapjax.tasks.detection import augmented, dense, frames, set_prediction, two_stage

KEY = jax.random.key(0)
VIEWS = {"flip": True, "scales": (0.5, 1.0, 1.75)}


def stub(seen, more=()):
    """Answers with the box around what is bright, in its own frame, and counts what it sees."""

    def predict(variables, batch, key):
        bright = image_ops.normalized(batch["image"], image_ops.normalize)[..., 0] > 1
        seen.append(batch["image"].shape)
        return {"map_logits": bright[..., None].astype(jnp.float32)}

    def decode(prediction, batch):
        bright = prediction["map_logits"][..., 0] > 0.5
        across, down = bright.any(1), bright.any(2)
        left, top = across.argmax(1), down.argmax(1)
        right, bottom = bright.shape[2] - across[:, ::-1].argmax(1), bright.shape[1] - down[:, ::-1].argmax(1)
        boxes = jnp.stack([left, top, right, bottom], -1).astype(jnp.float32)[:, None]
        rows = boxes.shape[:2]
        found = {"boxes": boxes, "scores": jnp.full(rows, 0.8), "classes": jnp.full(rows, 3, jnp.int32)}
        return frames.to_original(found | {"valid": jnp.ones(rows, bool)}, batch) | dict(more)

    return Task("boxes", image_ops.normalize, None, None, predict, decode, ("precision",))


def test_every_view_finds_the_object_in_the_original_pixels():
    """An image of 40×80 pixels in a frame of 32×48, at the upper left: 0.6 times as large."""
    image = np.zeros((1, 32, 48, 3), np.uint8)
    image[:, 6:18, 12:36] = 255
    batch = {**batch_of(1, (32, 48)), "image": image, "size": np.array([[40, 80]], np.int32)}
    batch["matrix"] = np.diag(np.float32([0.6, 0.6, 1]))[None]
    seen = []
    task = augmented.by_views(stub(seen), **VIEWS)
    found = jax.tree.map(np.asarray, evaluate.make_answer(task)({}, batch))
    assert seen == [(1, 16, 24, 3)] * 2 + [(1, 32, 48, 3)] * 2 + [(1, 56, 84, 3)] * 2
    assert found["valid"].tolist() == [[True]] and found["classes"].tolist() == [[3]]
    np.testing.assert_allclose(found["scores"], 0.8, rtol=1e-6)
    np.testing.assert_allclose(found["boxes"][0, 0], [20, 10, 60, 30], atol=1)


def test_one_view_is_the_task_itself():
    task = stub([])
    assert augmented.by_views(task) is task and augmented.by_views(task, scales=(1,)) is task
    assert augmented.by_views(task, scales=(2.0,)) is not task


VGG = {"name": "vgg", "depth": 11, "width": 0.03}


def tasks():
    retinanet = parts.make("models", {"name": "retinanet", "backbone": VGG, "channels": 4, "depth": 1}, classes=2)
    rcnn = faster_rcnn.make(backbone=VGG, classes=2, channels=4, representation=8)
    queries = detr.make(backbone=VGG, classes=2, width=8, heads=2, encoder=1, decoder=1, queries=5)
    return {
        "dense": lambda **options: dense.make(model=retinanet, **options),
        "two_stage": lambda **options: two_stage.make(model=rcnn, **options),
        "set_prediction": lambda **options: set_prediction.make(model=queries, classes=("a", "b"), **options),
    }


@pytest.mark.parametrize("kind", ["dense", "two_stage", "set_prediction"])
def test_every_task_of_detection_takes_views(kind):
    make, batch = tasks()[kind], jax.eval_shape(lambda: batch_of(2, (64, 96)))
    plain, several = make(), make(**VIEWS)
    variables = jax.eval_shape(plain.init, KEY, batch)
    expected = jax.eval_shape(evaluate.make_answer(plain), variables, batch)
    assert jax.eval_shape(evaluate.make_answer(several), variables, batch) == expected  # and checks the stages
    assert several.loss.__code__ is plain.loss.__code__


def test_an_unknown_key_of_a_view_is_told():
    with pytest.raises(ValueError, match="prediction has a key 'boxs'"):
        stages.check("prediction", {"features": {}, "views": {"0": {"boxs": np.zeros(1)}}})


@pytest.mark.parametrize("scales", [(), (0.0, 1.0), (-1,), (float("nan"),), (float("inf"),)])
def test_scales_that_cannot_be(scales):
    with pytest.raises(UserError, match=r"task\.scales=\(.*\) must be factors of the image's size, such as"):
        augmented.by_views(stub([]), scales=scales)


def test_answers_that_are_more_than_boxes():
    task = augmented.by_views(stub([], {"label_map": jnp.zeros((2, 4, 4), jnp.uint8)}), flip=True)
    with pytest.raises(UserError, match="fuse boxes; this task answers label_map too: unset them"):
        evaluate.make_answer(task)({}, batch_of())


@pytest.mark.parametrize("needs", ["masks", "keypoints"])
def test_a_task_that_learns_more_than_boxes_is_refused_before_its_training(needs):
    task = stub([])._replace(needs=needs)
    assert augmented.by_views(task) is task
    with pytest.raises(UserError, match=f"fuse boxes; this task answers {needs} too: unset them"):
        augmented.by_views(task, flip=True)


def test_a_task_that_is_no_detector():
    model = parts.make("models", {"name": "tiny"}, classes=2, dtype="float32")
    with pytest.raises(UserError, match="tasks part 'classify': got an unexpected keyword argument 'flip'"):
        parts.make("tasks", {"name": "classify", "flip": True}, model=model, classes=("a", "b"), image_size=(8, 8))
