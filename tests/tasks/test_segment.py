"""The task of semantic segmentation: its loss, views and answers, each followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import stages
from mapjax.config import parts
from mapjax.data import geometry
from mapjax.errors import UserError
from mapjax.metrics import iou
from mapjax.ops import pixel_losses, windows
from mapjax.report import segmentations
from mapjax.stages import VOID
from mapjax.task import Context, Model
from mapjax.tasks import segment

KEY = jax.random.key(0)
CLASSES = ("a", "b", "c")


def pointwise(aux=False, stride=1):
    """Scores are three sums of a pixel's channels, so that every value can be followed."""

    def init(key, images):
        return {"params": {"w": jax.random.normal(key, (3, 3))}, "stats": {}}

    def apply(variables, images, *, train, key):
        logits = images[:, ::stride, ::stride] @ variables["params"]["w"]
        outputs = {"map_logits": logits, "level0": images}
        return outputs | ({"aux_map_logits": 2 * logits} if aux and train else {}), variables["stats"]

    return Model(init, apply)


def batch_of(count=3, size=(6, 8), seed=0, **extra):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (count, *size)).astype(np.uint8)
    labels[:, 0] = VOID
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, *size, 3)), jnp.uint8),
        "label_map": jnp.asarray(labels),
        "matrix": jnp.broadcast_to(jnp.eye(3), (count, 3, 3)),
        "mask": jnp.ones(count, bool),
        **extra,
    }


def make(**options):
    options = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "model": pointwise()} | options
    return segment.make(classes=CLASSES, image_size=(6, 8), **options)


def loss_of(task, batch):
    variables = task.init(jax.random.key(0), batch)
    total, (_, scalars) = jax.jit(task.loss)(variables, batch, Context(jax.random.key(1)))
    return float(total), {name: float(value) for name, value in scalars.items()}, variables


def test_the_loss_is_the_sum_of_its_terms_and_of_those_of_auxiliary_heads():
    batch = batch_of()
    task = make(model=pointwise(aux=True), losses={"cross_entropy": 2.0, "dice": 0.5}, auxiliary=0.3)
    total, scalars, variables = loss_of(task, batch)
    images = (np.asarray(batch["image"], np.float32) / 255 - 0.5) / 0.25
    logits = jnp.asarray(images) @ variables["params"]["w"]
    wanted = 0.0
    for factor, scores in ((1.0, logits), (0.3, 2 * logits)):
        for weight, name in ((2.0, "cross_entropy"), (0.5, "dice")):
            wanted += factor * weight * float(pixel_losses.LOSSES[name](scores, batch["label_map"], jnp.ones(3)))
    assert total == pytest.approx(wanted, rel=1e-5)
    assert scalars["loss_aux_dice"] == pytest.approx(
        float(pixel_losses.dice(2 * logits, batch["label_map"], jnp.ones(3))), rel=1e-5
    )
    known = np.asarray(batch["label_map"]) != VOID
    right = np.asarray(logits).argmax(-1) == np.asarray(batch["label_map"])
    assert scalars["train_accuracy"] == pytest.approx(right[known].mean())


def test_auxiliary_heads_may_have_losses_of_their_own():
    batch = batch_of()
    own = {"cross_entropy": 0.0, "focal": 3.0}
    task = make(model=pointwise(aux=True), losses={"dice": 1.0}, auxiliary=0.5, auxiliary_losses=own)
    total, scalars, _ = loss_of(task, batch)
    assert set(scalars) == {"loss", "train_accuracy", "loss_dice", "loss_aux_focal"}
    assert total == pytest.approx(scalars["loss_dice"] + 1.5 * scalars["loss_aux_focal"], rel=1e-5)


def test_padding_rows_and_a_batch_of_void_are_no_reason_to_learn():
    batch = batch_of()
    half = batch | {"mask": jnp.array([True, False, False])}
    first = {name: value[:1] for name, value in batch.items()}
    assert loss_of(make(), half)[0] == pytest.approx(loss_of(make(), first)[0], rel=1e-6)
    void = batch | {"label_map": jnp.full_like(batch["label_map"], VOID)}
    assert loss_of(make(losses={"cross_entropy": 1.0, "dice": 1.0}), void)[0] == 0


def test_a_coarse_network_is_trained_at_the_masks_size():
    batch = batch_of(size=(8, 12))
    task = make(model=pointwise(stride=2))
    total, scalars, _ = loss_of(task, batch)
    assert np.isfinite(total)
    assert 0 <= scalars["train_accuracy"] <= 1


def answer(task, batch, seed=0):
    variables = task.init(jax.random.key(seed), batch)
    return variables, jax.jit(lambda v, b: task.decode(task.predict(v, b, KEY), b))(variables, batch)


def test_answers_are_in_original_pixels_and_counted_there():
    """Images of 12×16 pixels, seen at half the size; one is smaller, and stands at the top left."""
    truth = np.random.default_rng(3).integers(0, 3, (3, 12, 16)).astype(np.uint8)
    truth[1, 6:] = VOID
    matrix = np.stack([geometry.scale(0.5), geometry.scale(0.5), geometry.scale(0.5)]).astype(np.float32)
    batch = batch_of(truth_map=jnp.asarray(truth), matrix=jnp.asarray(matrix))
    batch.pop("label_map")
    _, answered = answer(make(), batch)
    stages.check("result", answered)
    result = jax.jit(lambda found: iou.scored(found["map_logits"], batch, len(CLASSES), 0.0075))(answered)
    found = np.asarray(result["label_map"])
    assert found.shape == (3, 12, 16)
    for row in range(3):
        known = truth[row] != VOID
        assert int(result["confusion"][row].sum()) == known.sum()
        assert int(np.trace(result["confusion"][row])) == (found[row] == truth[row])[known].sum()
    assert (
        iou.scalars(np.asarray(result["confusion"]).sum(0), np.asarray(result["contours"]).sum(0), CLASSES)["mIoU"] > 0
    )


def test_images_without_truth_are_answered_as_in_evaluation():
    """A network of stride 2 on images of 30×40 pixels that were seen at 12×16."""
    matrix = np.stack([geometry.scale(0.4)] * 3).astype(np.float32)
    batch = batch_of(size=(12, 16), matrix=jnp.asarray(matrix))
    batch.pop("label_map")
    task = make(model=pointwise(stride=2))
    _, plain = answer(task, batch)
    assert plain["map_logits"].shape == (3, 6, 8, 3)
    judged = batch | {"truth_map": jnp.zeros((3, 30, 40), jnp.uint8)}
    scored = jax.jit(lambda logits: iou.scored(logits, judged, len(CLASSES), 0.0075))(plain["map_logits"])
    for row in range(3):
        found = segmentations.map_back(*(np.asarray(plain[key][row]) for key in ("map_logits", "matrix")), (30, 40))
        assert (found == np.asarray(scored["label_map"][row])).mean() > 0.98  # OpenCV rounds places to 1/32 pixel


def test_views_of_a_pointwise_network_agree_with_the_plain_answer():
    """Mirroring and windows change nothing where every pixel is answered by itself."""
    batch = batch_of(size=(9, 14))
    plain = jax.nn.softmax(_scores(make(), batch))
    for options in (
        {"flip": True},
        {"window": (4, 6)},
        {"window": (4, 6), "overlap": 0.5, "flip": True},
        {"window": (99, 99)},
    ):
        np.testing.assert_allclose(jax.nn.softmax(_scores(make(**options), batch)), plain, atol=1e-5)


def test_scales_average_probabilities():
    batch = batch_of(size=(8, 8))
    one, two = (jax.nn.softmax(_scores(make(scales=(s, s)), batch)) for s in (1.0, 2.0))
    both = jax.nn.softmax(_scores(make(scales=(1.0, 2.0)), batch))
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-5)


def _scores(task, batch):
    variables = task.init(jax.random.key(0), batch)
    return jax.jit(task.predict)(variables, batch, KEY)["map_logits"]


def test_windows_cover_every_pixel_with_the_overlap():
    for whole, side, overlap in [(100, 30, 0.25), (31, 30, 0.5), (30, 30, 0.9), (300, 17, 0.0)]:
        starts = windows.starts(whole, side, overlap)
        assert starts[0] == 0
        assert starts[-1] == whole - side
        assert max(np.diff(starts), default=0) <= max(1, int(side * (1 - overlap)))


def test_weights_of_classes():
    pixels, with_class = np.array([900, 100, 10, 0]), np.array([1000, 500, 100, 0])
    frequency = np.array([0.9, 0.2, 0.1])
    assert segment.class_weights((pixels, with_class), "median") == pytest.approx([*(0.2 / frequency), 2.0])
    assert segment.class_weights((pixels, with_class), "median", heaviest=1.5) == pytest.approx(
        [0.2 / 0.9, 1, 1.5, 1.5]
    )
    inverse = segment.class_weights((pixels, with_class), "inverse")
    assert inverse[:3] * pixels[:3] == pytest.approx([inverse[0] * 900] * 3)
    task = make(weighting="median", pixel_counts=lambda: (pixels[:3], with_class[:3]))
    batch = batch_of()
    total, _, variables = loss_of(task, batch)
    images = (jnp.asarray(batch["image"], jnp.float32) / 255 - 0.5) / 0.25
    wanted = pixel_losses.cross_entropy(
        images @ variables["params"]["w"], batch["label_map"], jnp.asarray(0.2 / frequency)
    )
    assert total == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": {"dise": 1.0}}, r"task\.losses has no loss 'dise'.*dice"),
        ({"losses": {"dice": -1.0}}, r"task\.losses\.dice=-1\.0 must not be negative"),
        ({"losses": {"dice": 0.0}}, "leaves nothing to learn from"),
        ({"auxiliary_losses": {"dise": 1.0}}, r"task\.auxiliary_losses has no loss 'dise'.*dice"),
        ({"weighting": "medium"}, r"task\.weighting='medium' is not known.*median"),
        ({"scales": ()}, r"task\.scales=\(\) must be factors"),
        ({"window": (5,)}, r"task\.window=\(5,\) must be height and width"),
        ({"overlap": 1.0}, r"task\.overlap=1\.0 must be a share"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_weighting_needs_counts():
    task = make(weighting="median")
    batch = batch_of()
    variables = task.init(jax.random.key(0), batch)
    with pytest.raises(UserError, match=r"task\.weighting needs the pixels"):
        task.loss(variables, batch, Context(jax.random.key(0)))


def test_a_network_of_another_task_is_one_sentence():
    task = make(model=Model(pointwise().init, lambda v, x, *, train, key: ({"logits": x}, v["stats"])))
    batch = batch_of()
    variables = task.init(jax.random.key(0), batch)
    for call in (
        lambda: task.loss(variables, batch, Context(jax.random.key(0))),
        lambda: task.predict(variables, batch, KEY),
    ):
        with pytest.raises(UserError, match="gives no 'map_logits'"):
            call()


SMALL_RESNET = {"name": "resnet", "depth": 18, "width": 0.25, "output_stride": 8}
NETWORKS = {
    "fcn on vgg": {"name": "fcn", "backbone": {"name": "vgg", "depth": 16}},
    "fcn on resnet": {"name": "fcn", "backbone": SMALL_RESNET, "aux": True},
    "deeplab": {"name": "deeplab", "backbone": SMALL_RESNET},
    "lraspp": {"name": "lraspp"},
    "segnet": {"name": "segnet", "encoder": "vgg16", "width": 0.25},
    "segmenter, linear": {"name": "segmenter", "backbone": {"name": "vit", "variant": "small"}, "decoder": "linear"},
    "segmenter, mask": {"name": "segmenter", "backbone": {"name": "vit", "variant": "small"}},
}


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_trained_and_with_a_crf(name, crf):
    """By shapes alone: the loss has a gradient for every parameter, and there is a score for each class and pixel."""
    node = {"name": "crf_rnn", "unary": NETWORKS[name]} if crf else NETWORKS[name]
    model = parts.make("models", node, classes=3, dtype="float32", image_size=(32, 48))
    task = segment.make(model=model, classes=CLASSES, image_size=(32, 48))
    batch, key = batch_of(2, (32, 48)), jax.random.key(0)
    variables = jax.eval_shape(task.init, key, batch)

    def gradients(variables):
        return jax.grad(lambda params: task.loss({**variables, "params": params}, batch, Context(key))[0])(
            variables["params"]
        )

    found = jax.eval_shape(gradients, variables)
    assert jax.tree.map(lambda one: one.shape, found) == jax.tree.map(lambda one: one.shape, variables["params"])
    scores = jax.eval_shape(task.predict, variables, batch, KEY)["map_logits"]
    assert (len(scores.shape), scores.shape[-1]) == (4, 3)
    assert scores.shape[1:3] == (32, 48) or not crf
