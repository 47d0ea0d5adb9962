"""Two stages of which the first is outside: R-CNN, Fast R-CNN and a Faster R-CNN that is given proposals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from box_batches import batch_of, with_box

from mapjax.errors import UserError
from mapjax.models.detectors import fast_rcnn, faster_rcnn, rcnn
from mapjax.ops.roi_pool import roi_pool
from mapjax.task import Context
from mapjax.tasks.detection import two_stage

KEY = jax.random.key(0)
SMALL = {"backbone": {"name": "resnet", "depth": 18, "width": 0.0625}, "classes": 2}
NETWORKS = {
    "rcnn": rcnn.make(**SMALL, side=16, at_once=3),
    "fast_rcnn": fast_rcnn.make(**SMALL, pool=2, representation=6),
    "faster_rcnn": faster_rcnn.make(**SMALL, channels=4, representation=6, pool=2),
}
PROPOSED = np.array([[2, 2, 14, 14], [0, 0, 32, 32], [4, 18, 30, 30], [16, 2, 28, 9], [0, 0, 0, 0]], np.float32)


def proposed(batch):
    valid = np.arange(5) < 4
    both = {"proposals": np.tile(PROPOSED, (2, 1, 1)), "proposals_valid": np.tile(valid, (2, 1))}
    return batch | {name: jnp.asarray(values) for name, values in both.items()}


BATCH = with_box(proposed(batch_of()), 0, 0, [2, 2, 14, 13], 1)


def task_of(name, **options):
    return two_stage.make(model=NETWORKS[name], proposals="data", samples=4, detections=3, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_and_answers(name):
    task = task_of(name, score_threshold=0.0)
    variables = jax.jit(task.init)(KEY, {"image": BATCH["image"]})  # a saved run is looked at without proposals

    @jax.jit
    def all_of(variables, batch):
        gradient, (_, terms) = jax.grad(task.loss, has_aux=True)(variables, batch, Context(KEY))
        prediction = task.predict(variables, batch, KEY)
        return gradient["params"], terms, {**prediction, "features": None}, task.decode(prediction, batch)

    gradient, terms, prediction, found = all_of(variables, BATCH)
    assert set(terms) == {"loss", "loss_classifier", "loss_box"} | ({"boxes_left_out"} & set(terms))
    norms = {name: sum(float(abs(leaf).sum()) for leaf in jax.tree.leaves(part)) for name, part in gradient.items()}
    learned = {"rcnn": {"backbone", "box_predictor"}, "fast_rcnn": {"backbone", "roi_heads"}}
    assert {name for name, norm in norms.items() if norm} >= learned.get(name, {"backbone", "roi_heads"})
    assert not norms.get("rpn")  # a first stage that is not asked learns nothing
    np.testing.assert_array_equal(prediction["proposals"][0], PROPOSED)
    assert found["valid"].all() and prediction["region_logits"].shape == (2, 5, 3)


def test_an_image_without_proposals_has_no_answer():
    task = task_of("fast_rcnn", score_threshold=0.0)
    batch = BATCH | {"proposals_valid": BATCH["proposals_valid"].at[1].set(False)}

    def answer(batch):
        variables = task.init(KEY, batch)
        (loss, _), found = (
            task.loss(variables, batch, Context(KEY)),
            task.decode(task.predict(variables, batch, KEY), batch),
        )
        return loss, found

    loss, found = jax.jit(answer)(batch)
    assert found["valid"][0].all() and not found["valid"][1].any() and np.isfinite(loss)


def test_what_is_missing_is_told():
    with pytest.raises(UserError, match=r"a batch has none; set transform.proposals=1000"):
        task_of("fast_rcnn").predict(NETWORKS["fast_rcnn"].init(KEY, jnp.zeros((2, 32, 32, 3))), batch_of(), KEY)
    with pytest.raises(UserError, match=r"proposes no boxes, as Faster R-CNN does: set task.proposals='data'"):
        two_stage.make(model=NETWORKS["rcnn"]).init(KEY, BATCH)
    with pytest.raises(UserError, match=r"task.proposals='date' must be 'network' or 'data'.*data"):
        two_stage.make(model=NETWORKS["rcnn"], proposals="date")


def test_a_crop_is_the_box_and_what_is_around_it():
    """On a ramp, whose bilinear samples are the places themselves."""
    y, x = np.mgrid[:40, :60].astype(np.float32) + 0.5
    boxes = np.array([[20, 10, 36, 26], [20, 8, 40, 16]], np.float32)
    crops = rcnn.warped(jnp.stack([x, y, 0 * x], -1), jnp.asarray(boxes), side=8, context=0.25)
    share = (np.arange(8) + 0.5) / 8
    for crop, (x1, y1, x2, y2) in zip(np.asarray(crops), boxes):
        width, height = 2 * (x2 - x1), 2 * (y2 - y1)  # a quarter of the crop on each side
        np.testing.assert_allclose(crop[..., 0], np.tile((x1 + x2) / 2 - width / 2 + share * width, (8, 1)), rtol=1e-4)
        np.testing.assert_allclose(
            crop[..., 1].T, np.tile((y1 + y2) / 2 - height / 2 + share * height, (8, 1)), rtol=1e-4
        )


def test_turns_make_no_difference():
    """Crops go through three at a time; the answer is that of each alone."""
    model = NETWORKS["rcnn"]
    images = jax.random.normal(KEY, (2, 32, 32, 3))
    variables = jax.jit(model.init)(KEY, images)
    boxes = jnp.asarray(np.tile(PROPOSED[:4], (2, 1, 1)))
    regions = jax.jit(lambda boxes: model.calls["regions"](variables, {"images": images}, boxes, train=False)[0])
    whole = regions(boxes)
    for n in range(4):
        alone = regions(boxes[:, n : n + 1])
        for name in ("logits", "deltas"):
            np.testing.assert_allclose(whole[name][:, n], alone[name][:, 0], rtol=1e-4, atol=1e-5)
    vectors = model.calls["vectors"](variables, {"images": images}, boxes)
    layer = variables["params"]["box_predictor"]["cls_score"]
    np.testing.assert_allclose(vectors @ layer["kernel"] + layer["bias"], whole["logits"], rtol=1e-4, atol=1e-5)


def test_a_fast_rcnn_pools_from_one_map():
    model = NETWORKS["fast_rcnn"]
    images = jax.random.normal(KEY, (2, 32, 48, 3))
    variables = jax.jit(model.init)(KEY, images)
    features = model.apply(variables, images, train=False, key=None)[0]["features"]
    assert model.levels == {"layer3": 16} and features["layer3"].shape[1:3] == (2, 3)
    boxes = jnp.asarray(np.tile(PROPOSED[:4], (2, 1, 1)))
    found = model.calls["regions"](variables, features, boxes, train=False)[0]["logits"][1, 2]
    x = roi_pool(features["layer3"][1], 16, boxes[1], pool=2)[2]
    head = variables["params"]["roi_heads"]
    x = jax.nn.relu(
        jnp.einsum("ijc,ijcd->d", x, head["box_head"]["fc6"]["map_kernel"]) + head["box_head"]["fc6"]["bias"]
    )
    for name, layer in (("fc7", head["box_head"]["fc7"]), ("cls_score", head["box_predictor"]["cls_score"])):
        x = x @ layer["kernel"] + layer["bias"]
        x = jax.nn.relu(x) if name == "fc7" else x
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (rcnn.make, {"side": 0}, "rcnn: side=0 must be 1 or more"),
        (rcnn.make, {"context": 0.5}, "rcnn: context=0.5 must be a share"),
        (fast_rcnn.make, {"pooling": "mean"}, "fast_rcnn: pooling='mean' must be 'max' or 'align'"),
        (fast_rcnn.make, {"level": 7}, r"no map level=7; it has .*layer3 \(stride 16\)"),
    ],
)
def test_options_that_cannot_be(make, options, said):
    with pytest.raises(UserError, match=said):
        make(**{**SMALL, **options})


def test_a_backbone_that_is_no_node():
    with pytest.raises(UserError, match="rcnn: backbone='resnet' must be a node"):
        fast_rcnn.require_sound("rcnn", "resnet")
