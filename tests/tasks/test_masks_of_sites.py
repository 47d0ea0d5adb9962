"""Masks of a dense detector: what is learned at which sites, what is answered, and what does not go together."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_batches import batch_of, with_box

from mapjax import stages
from mapjax.config import parts
from mapjax.data import box_masks, run_lengths
from mapjax.errors import UserError
from mapjax.models.heads import site_masks
from mapjax.task import Context
from mapjax.tasks.detection import dense, masks_of_sites

YOLO = {"name": "yolo", "depth": 0.1, "width": 0.0625}
RESNET = {"backbone": {"name": "resnet", "depth": 18, "width": 0.0625}, "channels": 4}
TASK: dict[str, Any] = {
    "assignment": {"name": "task_aligned", "count": 3},
    "code": "distances",
    "class_loss": "bce",
    "box_loss": "ciou",
    "divided_by": "quality",
    "score_threshold": 0.0,
    "detections": 4,
    "candidates": 20,
}
KEY = jax.random.key(0)


def model_of(detector=YOLO, **options):
    node = {"name": "condinst", "detector": detector, "width": 4, "filter_width": 4, "prototypes": 2, "hidden": (3,)}
    return parts.make("models", node | options, classes=2)


def masked():
    """Two images of 64×64, with two objects and one; of the last the mask is empty."""
    batch = batch_of(size=(64, 64))
    batch = with_box(with_box(batch, 0, 0, (4, 4, 40, 40), 0), 0, 1, (20, 30, 60, 62), 1)
    batch = with_box(batch, 1, 0, (8, 8, 30, 50), 1)
    grids = np.zeros((2, 3, 6, 6), np.uint8)
    grids[0, 0, :, :3] = grids[0, 1, 2:] = 255
    return batch | {"box_masks": jnp.asarray(grids), "index": jnp.arange(2), "masks_left_out": jnp.array([1, 2])}


def draw(model, prototypes, filters, boxes):
    return np.asarray(jax.jit(lambda *given: model.calls["masks"](*given, 6))(prototypes, filters, boxes))


@pytest.mark.parametrize(
    ("detector", "sites", "stride"),
    [
        (YOLO, 84, 2),
        ({"name": "fcos", **RESNET, "depth": 1}, 86, 8),
        ({"name": "retinanet", **RESNET, "depth": 1}, 774, 2),
    ],
)
def test_each_site_of_a_pyramid_has_filters(detector, sites, stride):
    model = model_of(detector, stride=stride)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
    stages.check("output", {key: value for key, value in outputs.items() if key not in model.levels})
    assert outputs["prototypes"].shape == (1, 64 // stride, 64 // stride, 2)
    assert outputs["site_filters"].shape == (1, sites, 5 * 3 + 4)
    assert sum(map(len, model.calls["sites"](64, 64))) == sites
    lateral = {name for name in variables["params"]["prototypes"] if name.startswith("lateral")}
    assert lateral == ({"lateral2", "lateral4"} if stride == 2 else set())


def test_all_anchors_of_a_place_begin_with_the_same_filters():
    bias = site_masks._start(2, (3,))(KEY, (9 * 19,)).reshape(9, 19)
    assert (bias == bias[0]).all() and bias[0, :12].all() and bias[0, 15:18].all()
    assert not bias[0, 12:15].any() and not bias[0, 18]


def test_the_loss_is_that_of_the_objects_of_some_sites():
    """Against a loop over the sites that have an object, where there is room for all of them."""
    model, batch = model_of(stride=8), masked()
    rng = np.random.default_rng(0)
    outputs = {"prototypes": jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)}
    outputs["site_filters"] = jnp.asarray(rng.normal(size=(2, 84, 19)), jnp.float32)
    matched = np.full((2, 84), -1)
    matched[0, [3, 40, 80]], matched[0, 5], matched[1, 7] = [0, 1, 1], -2, 0
    args = (model, outputs, jnp.asarray(matched), batch)
    found = {
        n: jax.jit(lambda key, n=n: masks_of_sites.loss(key, *args, samples=n, size=6))(KEY)["loss_mask"]
        for n in (2, 200)
    }
    seen = np.array([3, 40, 80])  # of the second image's object there is no mask
    owners = matched[0, seen]
    drawn = draw(model, outputs["prototypes"][:1], outputs["site_filters"][:1, seen], batch["boxes"][:1, owners])[0]
    targets = np.asarray(batch["box_masks"][0, owners]) / 255
    each = np.mean(np.logaddexp(0, drawn) - targets * drawn, (1, 2))
    np.testing.assert_allclose(found[200], each.mean(), rtol=1e-4)
    pairs = [np.mean([each[a], each[b]]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(abs(float(found[2]) - pair) for pair in pairs) < 1e-4


def test_the_task_learns_and_answers_masks():
    model, batch = model_of(stride=4), masked()
    task = dense.make(model=model, beside=("masks",), mask_cells=6, mask_samples=8, mask_factor=2.0, **TASK)
    assert task.needs == "masks" and task.metrics == ("precision", "mask_precision")
    variables = task.init(KEY, batch)

    @jax.jit
    def run(variables):
        both = jax.value_and_grad(
            lambda p: task.loss({**variables, "params": p}, batch, Context(KEY)), has_aux=True
        )(variables["params"])  # fmt: skip
        outputs, _ = model.apply(variables, task.normalize(batch["image"]), train=False, key=None)
        prediction = task.predict(variables, batch, KEY)
        return both, outputs, prediction, task.decode(prediction, batch)

    ((value, (_, terms)), gradient), outputs, prediction, result = run(variables)
    stages.check("batch", batch)
    stages.check("prediction", prediction)
    stages.check("result", result)
    assert terms["masks_left_out"] == 3
    parts_of = terms["loss_class"] + terms["loss_box"] + 2 * terms["loss_mask"]
    np.testing.assert_allclose(value, parts_of, rtol=1e-5)
    for name in ("filters", "filter_convs", "prototypes", "backbone"):
        assert any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient[name])), name
    # A mask is drawn by the filters of the one site that gave its box.
    scores = jax.nn.sigmoid(outputs["site_logits"])
    apart = jnp.abs(scores.max(-1)[:, None] - result["scores"][..., None])
    filters = jnp.take_along_axis(outputs["site_filters"], apart.argmin(-1)[..., None], 1)
    drawn, valid = draw(model, outputs["prototypes"], filters, prediction["boxes"]), np.asarray(result["valid"])
    assert valid.sum() > 4 and np.ptp(drawn[valid], 0).max() > 1e-3
    np.testing.assert_allclose(prediction["mask_logits"][valid], drawn[valid], rtol=1e-3, atol=1e-4)
    finished = box_masks.finished(jax.tree.map(np.asarray, result), np.asarray(batch["size"]))
    assert len(finished["masks"][0]) == 4
    assert run_lengths.decode(finished["masks"][0][0]["counts"].encode(), (64, 64)).shape == (64, 64)


def test_what_does_not_go_together_is_told():
    with pytest.raises(UserError, match=r"objects of a dense detector have no 'keypoints' beside their boxes"):
        dense.make(model=model_of(), beside=("keypoints",))
    with pytest.raises(UserError, match=r"task.mask_samples=0 and task.mask_cells=28 must be 1 or more"):
        dense.make(model=model_of(), beside=("masks",), mask_samples=0)
    bare = parts.make("models", YOLO, classes=2)
    for model, batch, words in (
        (bare, masked(), "the network has no prototypes; set model.name='condinst'"),
        (model_of(), batch_of(size=(64, 64)), "a batch has no box_masks; set .*transform.mask_size=64, and data with"),
    ):
        task = dense.make(model=model, beside=("masks",), **TASK)
        variables = jax.eval_shape(task.init, KEY, batch)
        with pytest.raises(UserError, match=words):
            jax.eval_shape(lambda v, task=task, batch=batch: task.loss(v, batch, Context(KEY)), variables)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 16}, "condinst: stride=16 must be 8, 4 or 2"),
        ({"norm": "bach"}, "condinst has no norm='bach'"),
        ({"prototypes": 0}, "condinst: prototypes=0 must be 1 or more"),
        ({"hidden": (8, 0)}, r"condinst: hidden=\(8, 0\) must be numbers of channels"),
        ({"detector": {"name": "resnet", "depth": 18}}, "condinst: 'resnet' is no dense detector; choose yolo"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        model_of(**options)


def test_a_detector_without_a_pyramid_is_told():
    model = model_of({"name": "ssd", "backbone": RESNET["backbone"], "extras": (8, 8), "ratios": ((2,),) * 5})
    with pytest.raises(UserError, match="condinst needs a detector whose sites stand on a pyramid"):
        jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
