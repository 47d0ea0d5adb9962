"""The classification task: losses against scikit-learn's and plain NumPy, views, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from mapjax.errors import UserError
from mapjax.task import Context, Model
from mapjax.tasks import classify

KEY = jax.random.key(0)
CLASSES = ("a", "b", "c")


def linear_model(aux=False):
    """Logits are three sums over the image, so that every value can be followed."""

    def init(key, images):
        return {"params": {"w": jax.random.normal(key, (3, 3))}, "stats": {}}

    def apply(variables, images, *, train, key):
        logits = images.mean((1, 2)) @ variables["params"]["w"]
        outputs = {"logits": logits, "map": images}
        return outputs | ({"aux1": 2 * logits} if aux and train else {}), variables["stats"]

    return Model(init, apply)


def batch_of(count=4, side=4, seed=0, **extra):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, side, side, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 3, count), jnp.int32),
        "mask": jnp.ones(count, bool),
        **extra,
    }


def make(**options):
    options = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "model": linear_model()} | options
    return classify.make(classes=CLASSES, image_size=(4, 4), **options)


def run(task, batch, seed=0):
    variables = task.init(jax.random.key(seed), batch)
    total, (_, scalars) = jax.jit(task.loss)(variables, batch, Context(jax.random.key(1)))
    logits = jax.jit(task.predict)(variables, batch, KEY)["logits"]
    return float(total), scalars, np.asarray(logits)


def softmax(logits):
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def test_cross_entropy_is_scikit_learns():
    batch = batch_of(9)
    total, scalars, logits = run(make(), batch)
    assert total == pytest.approx(log_loss(batch["label"], softmax(logits), labels=[0, 1, 2]), rel=1e-5)
    assert scalars["train_accuracy"] == pytest.approx((logits.argmax(1) == batch["label"]).mean())


def test_padding_does_not_count():
    batch = batch_of(6)
    short = {name: value[:4] for name, value in batch.items()}
    padded = batch | {"mask": jnp.arange(6) < 4}
    assert run(make(), padded)[0] == pytest.approx(run(make(), short)[0], rel=1e-6)


@settings(max_examples=20)
@given(
    smoothing=st.floats(0, 0.5),
    focal=st.sampled_from([0.0, 1.0, 2.0]),
    weighting=st.sampled_from(["none", "inverse"]),
    adjustment=st.sampled_from([0.0, 1.0]),
    loss=st.sampled_from(["softmax", "sigmoid"]),
)
def test_losses_by_hand(smoothing, focal, weighting, adjustment, loss):
    counts = np.array([50, 20, 5])
    adjustment = adjustment if loss == "softmax" else 0.0
    options = {"label_smoothing": smoothing, "focal": focal, "weighting": weighting, "logit_adjustment": adjustment}
    batch = batch_of(5)
    total, _, logits = run(make(loss=loss, class_counts=lambda: counts, **options), batch)
    weights = counts.sum() / (3 * counts) if weighting == "inverse" else np.ones(3)
    logits = logits + adjustment * np.log((counts + 1) / (counts + 1).sum())
    one_hot = np.eye(3)[np.asarray(batch["label"])]
    if loss == "softmax":
        p = softmax(logits)
        target = one_hot * (1 - smoothing) + smoothing / 3
        expected = -(weights * target * (1 - p) ** focal * np.log(p)).sum(1).mean()
    else:
        p = 1 / (1 + np.exp(-logits))
        target = one_hot * (1 - smoothing) + smoothing / 2
        each = -(target * np.log(p) + (1 - target) * np.log(1 - p)) * np.abs(one_hot - p) ** focal
        expected = (each * np.where(one_hot > 0, weights, 1)).sum(1).mean()
    assert total == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.5, 0.1])
def test_the_gradient_of_a_focal_loss_stays_finite_where_nothing_is_missed(loss, gamma):
    criterion = classify._criterion(loss, None, 3, 0.0, gamma, "none", 0.0, 0.0)
    wanted = jnp.eye(3)[:1]

    def slope(logits):
        return jax.grad(lambda x: criterion(x, wanted).sum())(jnp.asarray([logits], jnp.float32))[0]

    for logits in ([40.0, -40.0, -40.0], [200.0, -200.0, -200.0], [17.0, 0.0, -1.0]):  # p rounds to 1, or nearly
        assert np.isfinite(slope(logits)).all()
    # Against differences in float64 where something is missed.
    logits, step = np.array([3.0, 1.0, -0.5]), 1e-6

    def exact(x):
        p = softmax(x[None])[0] if loss == "softmax" else 1 / (1 + np.exp(-x))
        each = -np.log(p[0]) * (1 - p[0]) ** gamma
        return each if loss == "softmax" else each - (np.log(1 - p[1:]) * p[1:] ** gamma).sum()

    expected = [(exact(logits + step * one) - exact(logits - step * one)) / (2 * step) for one in np.eye(3)]
    np.testing.assert_allclose(slope(logits), expected, rtol=1e-3)


def test_auxiliary_heads_count_by_their_weight():
    batch = batch_of(5)
    total, scalars, logits = run(make(model=linear_model(aux=True), auxiliary=0.4), batch)
    label = np.asarray(batch["label"])
    plain = log_loss(label, softmax(logits), labels=[0, 1, 2])
    aux = log_loss(label, softmax(2 * logits), labels=[0, 1, 2])
    assert total == pytest.approx(plain + 0.4 * aux, rel=1e-5)
    assert scalars["loss_aux1"] == pytest.approx(aux, rel=1e-5)


def test_mixed_targets_reach_the_loss():
    batch = batch_of(6)
    losses = {run(make(mixup=alpha, cutmix=cutmix), batch)[0] for alpha, cutmix in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))}
    assert len(losses) == 3


def test_several_labels():
    labels = jnp.asarray([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    batch = {name: value for name, value in batch_of(3).items() if name != "label"} | {"labels": labels}
    total, _, logits = run(make(loss="sigmoid"), batch)
    p = 1 / (1 + np.exp(-logits))
    assert total == pytest.approx(-np.log(np.where(labels, p, 1 - p)).sum(1).mean(), rel=1e-5)
    task = make(loss="sigmoid")
    np.testing.assert_allclose(task.decode({"logits": logits}, batch)["probabilities"], p, rtol=1e-5)
    with pytest.raises(UserError, match="set it to 'sigmoid'"):
        run(make(), batch)


@pytest.mark.parametrize(("views", "count"), [("one", 1), ("flip", 2), ("five", 5), ("ten", 10)])
def test_views(views, count):
    images = batch_of(2, side=6)["image"]
    found = classify.views_of(images, views, (4, 4))
    assert len(found) == count
    if views in ("five", "ten"):
        np.testing.assert_array_equal(found[1], images[:, :4, 2:])
        np.testing.assert_array_equal(found[4], images[:, 1:5, 1:5])
    if views in ("flip", "ten"):
        np.testing.assert_array_equal(found[count // 2], found[0][:, :, ::-1])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_views_average_probabilities(loss):
    batch = batch_of(3, side=6)
    task = make(views="five", loss=loss)
    variables = task.init(jax.random.key(0), batch)
    found = task.decode(task.predict(variables, batch, KEY), batch)["probabilities"]
    one = make(loss=loss)
    each = [
        one.decode(one.predict(variables, {"image": view}, KEY), batch)["probabilities"]
        for view in classify.views_of(batch["image"], "five", (4, 4))
    ]
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-4)


def test_features_come_by_name():
    batch = batch_of(2)
    task = make()
    shown = task.predict(task.init(jax.random.key(0), batch), batch, KEY)
    assert set(shown) == {"logits", "features"} and shown["features"]["map"].shape == (2, 4, 4, 3)


def test_mistakes():
    with pytest.raises(UserError, match=r"loss='softmx' is not known\. Did you mean 'softmax'"):
        make(loss="softmx")
    for key, value in (
        ("label_smoothing", 2.0),
        ("focal", -1.0),
        ("mixup", -1.0),
        ("cutmix", -0.1),
        ("mix_probability", 1.5),
    ):
        with pytest.raises(UserError, match=f"task.{key}={value} must be"):
            make(**{key: value})
    with pytest.raises(UserError, match=r"views='tens' is not known\. Did you mean 'ten'"):
        make(views="tens")
    with pytest.raises(UserError, match="need the counts of the classes"):
        run(make(weighting="inverse"), batch_of(2))


@pytest.mark.parametrize(("views", "start"), [("five", 1), ("ten", 1), ("one", 0), ("flip", 0)])
def test_features_of_views_are_those_of_the_centre(views, start):
    batch = batch_of(2, side=6)
    task = make(views=views)
    shown = task.predict(task.init(jax.random.key(0), batch), batch, KEY)["features"]["map"]
    stop = 6 - start
    np.testing.assert_allclose(shown, (batch["image"][:, start:stop, start:stop] / 255 - 0.5) / 0.25, atol=1e-5)
