"""The task of dense detection on the smallest network there is: patches, and one matrix per output."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from box_batches import batch_of, with_box
from oracles import iou_of

from mapjax import stages
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.ops.anchors import grid_anchors
from mapjax.task import Context, Model
from mapjax.tasks.detection import answers, dense, site_losses, suppression

SIZE, WIDTH, KEY = (32, 32), 16, jax.random.key(0)
KINDS = {  # of networks: options of the task
    "retinanet": {"box_loss": "giou"},
    "fcos": {
        "assignment": "centre",
        "code": "distances",
        "box_loss": "giou",
        "quality": "centreness",
        "divided_by": "batch",
    },
    "ssd": {
        "assignment": "best_iou",
        "code": {"name": "offsets", "weights": (10, 10, 5, 5)},
        "class_loss": "softmax",
        "box_loss": "smooth_l1",
        "divided_by": "batch",
        "candidates_of": "class",
    },
}


def tiny(kind) -> Model:
    """Strides 8 and 16, one site a place, two classes."""
    channels = 3 if kind == "ssd" else 2

    def init(key, images):
        del images
        shapes = {"patch": (192, WIDTH), "logits": (WIDTH, channels), "deltas": (WIDTH, 4), "quality": (WIDTH, 1)}
        keys = jax.random.split(key, 4)
        drawn = {name: jax.random.normal(k, shape) / shape[0] ** 0.5 for k, (name, shape) in zip(keys, shapes.items())}
        return {"params": drawn if kind == "fcos" else {k: v for k, v in drawn.items() if k != "quality"}, "stats": {}}

    def apply(variables, images, *, train, key):
        del train, key
        params, b = variables["params"], len(images)
        patches = images.reshape(b, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(b, 4, 4, -1)
        fine = jax.nn.relu(patches @ params["patch"])
        coarse = fine.reshape(b, 2, 2, 2, 2, WIDTH).mean((2, 4))
        cells = jnp.concatenate([fine.reshape(b, 16, -1), coarse.reshape(b, 4, -1)], 1)
        deltas = cells @ params["deltas"] * 0.1
        outputs = {
            "site_logits": cells @ params["logits"],
            "site_deltas": jax.nn.softplus(deltas) if kind == "fcos" else deltas,
        }
        if kind == "fcos":
            outputs["site_quality"] = (cells @ params["quality"])[..., 0]
        return outputs | {"features": {"p3": fine, "p4": coarse}}, variables["stats"]

    def sites(height, width):
        return [grid_anchors((height, width), (height // s, width // s), (s,), (1,)) for s in (8, 16)]

    return Model(init, apply, {"sites": sites})


TASKS = {
    kind: dense.make(model=tiny(kind), score_threshold=0.0, suppression=0.3, detections=6, candidates=12, **options)
    for kind, options in KINDS.items()
}


def compiled(task):
    def derive(variables, batch):
        return jax.value_and_grad(task.loss, has_aux=True)(variables, batch, Context(KEY))

    return jax.jit(derive), jax.jit(lambda variables, batch: task.decode(task.predict(variables, batch, KEY), batch))


RUN = {kind: compiled(task) for kind, task in TASKS.items()}


def loss_and_gradient(kind, variables, batch):
    (loss, (_, scalars)), gradient = RUN[kind][0](variables, batch)
    return loss, scalars, gradient["params"]


def with_boxes():
    return with_box(with_box(batch_of(), 0, 1, [3, 4, 15, 18], 1), 1, 0, [0, 0, 13, 11], 0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_without_any_box_only_background_is_learned(kind):
    batch, task = batch_of(), TASKS[kind]
    loss, scalars, gradient = loss_and_gradient(kind, task.init(KEY, batch), batch)
    assert scalars["loss_box"] == scalars.get("loss_quality", 0) == 0 and not gradient["deltas"].any()
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in gradient.values())
    assert (loss > 0) == gradient["logits"].any() == (kind != "ssd")  # three negatives for each of no object


@pytest.mark.parametrize("kind", list(KINDS))
def test_with_boxes_every_part_learns(kind):
    batch = with_boxes()
    _, scalars, gradient = loss_and_gradient(kind, TASKS[kind].init(KEY, batch), batch)
    assert all(np.isfinite(value) and value > 0 for value in scalars.values())
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in gradient.values())


@pytest.mark.parametrize("kind", list(KINDS))
def test_padding_and_masked_images_change_nothing(kind):
    batch = with_boxes() | {"mask": jnp.array([True, False])}
    variables = TASKS[kind].init(KEY, batch)
    expected = loss_and_gradient(kind, variables, batch)
    other = with_box(batch, 1, 2, [10, 10, 25, 31], 1) | {"image": batch["image"].at[1].set(77)}
    other["boxes"] = jnp.where(other["valid"][..., None], other["boxes"], jnp.asarray([1.0, 1.0, 31.0, 31.0]))
    jax.tree.map(np.testing.assert_array_equal, loss_and_gradient(kind, variables, other), expected)
    none = loss_and_gradient(kind, variables, batch | {"mask": jnp.zeros(2, bool)})
    assert none[0] == 0 and not any(leaf.any() for leaf in none[2].values())


@pytest.mark.parametrize("kind", list(KINDS))
def test_images_that_are_all_crowd_teach_nothing(kind):
    everywhere = [-20, -20, 60, 60]
    batch = with_box(with_box(batch_of(), 0, 0, everywhere, crowd=True), 1, 2, everywhere, crowd=True)
    loss, _, gradient = loss_and_gradient(kind, TASKS[kind].init(KEY, batch), batch)
    assert loss == 0 and not any(leaf.any() for leaf in gradient.values())


def test_a_point_outside_its_box_is_not_central():
    """Small boxes have no point in them; assignments other than that by centres match one beside them all the same."""
    sites = np.float32([[0, 0, 8, 8], [0, 0, 8, 8], [4, 4, 4, 4], [0, 0, 8, 8]])
    boxes = np.float32([[0, 0, 8, 8], [5, 0, 8, 8], [4, 4, 4, 4], [5, 5, 7, 7]])
    targets = {"boxes": jnp.asarray(boxes), "positive": jnp.ones(4, bool)}
    found = site_losses.centreness(jnp.full(4, 2.0), targets, jnp.asarray(sites))
    low, high = float(jax.nn.softplus(-2.0)), float(jax.nn.softplus(2.0))
    np.testing.assert_allclose(found, [low, high, high, high], rtol=1e-6)


def test_losses_are_shared_out_by_image_or_by_batch():
    sums, positives, mask = {"a": jnp.array([6.0, 8, jnp.nan])}, jnp.array([3, 0, 5]), jnp.array([True, True, False])
    assert dense.shared(sums, positives, mask, "image")["a"] == (6 / 3 + 8 / 1) / 2
    np.testing.assert_allclose(dense.shared(sums, positives, mask, "batch")["a"], (6 + 8) / 3)


def test_the_best_pairs_are_those_of_a_whole_sort():
    scores = np.random.default_rng(0).random((40, 5)).astype(np.float32)
    for count in (1, 7, 100, 500):
        score, row, label = answers.best_pairs(jnp.asarray(scores), count)
        assert np.asarray(score).tolist() == np.sort(scores.ravel())[::-1][:count].tolist()
        np.testing.assert_array_equal(scores[row, label], score)


def greedy(boxes, scores, threshold, suppression):
    """(score, class, box) of all pairs that are kept, best first."""
    kept = []
    for value, site, label in sorted(((scores[i, c], i, c) for i, c in np.ndindex(scores.shape)), reverse=True):
        fits = all(iou_of(boxes[site], box) <= suppression for _, other, box in kept if other == label)
        if value > threshold and fits:
            kept.append((value, label, boxes[site]))
    return kept


@pytest.mark.parametrize("function", [answers.detect_by_level, answers.detect_by_class])
def test_detections_are_those_of_a_plain_loop(function):
    rng = np.random.default_rng(1)
    sites = tiny("retinanet").calls["sites"](*SIZE)
    scores = rng.random((20, 2)).astype(np.float32)
    deltas = (rng.normal(size=(20, 4)) * 6).astype(np.float32)
    boxes = np.concatenate(sites) + deltas
    extent = np.float32([0, 0, 30, 26])
    clipped = np.clip(boxes, 0, [30, 26, 30, 26])
    suppress = suppression.chosen(0.25, score_threshold=0.2)
    options = {"threshold": 0.2, "candidates": 100, "suppress": suppress, "count": 12}
    run = jax.jit(lambda *given: function(*given, sites=sites, decode=lambda d, s: s + d, **options))
    found = jax.tree.map(np.asarray, run(scores, deltas, extent))
    expected = greedy(clipped.astype(float), scores, 0.2, 0.25)[:12]
    assert found["valid"].sum() == len(expected) > 5
    for i, (score, label, box) in enumerate(expected):
        assert (found["scores"][i], found["classes"][i]) == (score, label)
        np.testing.assert_allclose(found["boxes"][i], box, atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_predictions_have_static_shapes_and_listed_keys(kind):
    task, batch = TASKS[kind], batch_of()
    variables = task.init(KEY, batch)
    stages.check("prediction", jax.eval_shape(lambda v, b: task.predict(v, b, KEY), variables, batch))
    found = RUN[kind][1](variables, batch)
    stages.check("result", found)
    assert found["boxes"].shape == (2, 6, 4) and found["valid"].any()
    assert np.all(np.diff(found["scores"]) <= 0) and np.all((found["boxes"] >= 0) & (found["boxes"] <= 32))


@pytest.mark.parametrize("kind", list(KINDS))
def test_some_dozen_steps_learn_one_image(kind):
    image = np.full((2, *SIZE, 3), 60, np.uint8)
    image[:, 12:28, 12:28] = [250, 20, 20]
    batch = batch_of() | {"image": jnp.asarray(image), "mask": jnp.array([True, False])}
    batch, task = with_box(batch, 0, 0, [12, 12, 28, 28], 1), TASKS[kind]
    params, tx = task.init(KEY, batch)["params"], optax.adam(0.01)
    opt, values = tx.init(params), []
    update = jax.jit(tx.update)
    for _ in range(80):
        _, scalars, gradient = loss_and_gradient(kind, {"params": params, "stats": {}}, batch)
        updates, opt = update(gradient, opt, params)
        params = optax.apply_updates(params, updates)
        values.append([float(scalars[name]) for name in ("loss", "loss_class", "loss_box")])
    assert np.all(np.isfinite(values)) and np.all(np.mean(values[-5:], 0) < [0.7, 0.5, 0.8] * np.array(values[0]))
    found = jax.tree.map(np.asarray, RUN[kind][1]({"params": params, "stats": {}}, batch))
    assert found["valid"][0, 0] and found["classes"][0, 0] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"assignment": "iuo"}, r"task\.assignment='iuo' is not known\. Did you mean 'iou'"),
        (
            {"assignment": {"name": "iou", "hihg": 0.5}},
            r"task\.assignment: 'iou' takes no 'hihg'\. Did you mean 'high'",
        ),
        ({"code": "offset"}, r"task\.code='offset' is not known"),
        ({"class_loss": {"gamma": 2}}, r"task\.class_loss='' is not known\. Known: bce, focal"),
        ({"box_loss": "ciuo"}, r"task\.box_loss='ciuo' is not known"),
        ({"quality": "centerness"}, r"task\.quality='centerness' is not known\. Did you mean 'centreness'"),
        ({"divided_by": "images"}, r"task\.divided_by='images' is not known"),
        ({"candidates_of": "map"}, r"task\.candidates_of='map' is not known"),
    ],
)
def test_mistakes_of_options(options, said):
    with pytest.raises(UserError, match=said):
        dense.make(model=tiny("retinanet"), **options)


SMALL = {"name": "vgg", "depth": 11, "width": 0.03}  # quick to trace
NETWORKS = {
    "retinanet": {"backbone": SMALL, "channels": 4, "depth": 1},
    "fcos": {"backbone": SMALL, "channels": 4, "depth": 1},
    "ssd": {"backbone": SMALL, "levels": ("pool3", "pool4"), "extras": (8,)},
}


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_shapes_with_the_real_networks(kind):
    model = parts.make("models", {"name": kind, **NETWORKS[kind]}, classes=2)
    task = dense.make(model=model, **KINDS[kind])
    batch = jax.eval_shape(batch_of) | {"image": jax.ShapeDtypeStruct((2, 64, 100, 3), np.uint8)}
    variables = jax.eval_shape(task.init, KEY, batch)
    loss, (stats, scalars) = jax.eval_shape(task.loss, variables, batch, Context(KEY))
    assert loss.shape == () and all(value.shape == () for value in scalars.values())
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    prediction = jax.eval_shape(task.predict, variables, batch, KEY)
    stages.check("prediction", prediction)
    assert jax.eval_shape(task.decode, prediction, batch)["boxes"].shape == (2, 300, 4)
