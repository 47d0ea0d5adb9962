"""Losses of label maps, each against its definition in plain NumPy float64; and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from mapjax.ops import pixel_losses
from mapjax.stages import VOID

CLASSES = 4


def case(seed=0, shape=(2, 5, 6), void=0.2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (*shape, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES - 1, shape).astype(np.uint8)  # the last class never occurs
    labels[rng.random(shape) < void] = VOID
    weights = rng.uniform(0.5, 2, CLASSES).astype(np.float32)
    return logits, labels, weights


def flat(logits, labels):
    keep = labels.ravel() != VOID
    scores = logits.reshape(-1, CLASSES)[keep].astype(np.float64)
    chance = np.exp(scores - scores.max(1, keepdims=True))
    return chance / chance.sum(1, keepdims=True), labels.ravel()[keep]


def value(name, *arguments, **options):
    return float(jax.jit(lambda *a: pixel_losses.LOSSES[name](*a, **options))(*map(jnp.asarray, arguments)))


def test_cross_entropy_is_the_weighted_mean_of_scikit_learn():
    logits, labels, weights = case()
    chance, truth = flat(logits, labels)
    wanted = log_loss(truth, chance, labels=np.arange(CLASSES), sample_weight=weights[truth])
    assert value("cross_entropy", logits, labels, weights) == pytest.approx(wanted, rel=1e-5)


def test_focal_counts_easy_pixels_less():
    logits, labels, weights = case()
    chance, truth = flat(logits, labels)
    p, weight = chance[np.arange(len(truth)), truth], weights[truth]
    wanted = ((1 - p) ** 3 * -np.log(p) * weight).sum() / weight.sum()
    assert value("focal", logits, labels, weights, gamma=3.0) == pytest.approx(wanted, rel=1e-5)
    assert value("focal", logits, labels, weights, gamma=0.0) == pytest.approx(
        value("cross_entropy", logits, labels, weights), rel=1e-6
    )


def test_the_gradient_of_focal_is_finite_where_p_rounds_to_1():
    labels = np.array([[[0, 1, 2, VOID]]], np.uint8)
    logits = 100 * np.eye(CLASSES, dtype=np.float32)[[[[0, 1, 2, 3]]]]
    gradient = jax.grad(lambda x: pixel_losses.focal(x, jnp.asarray(labels), jnp.ones(CLASSES), gamma=0.5))
    assert np.isfinite(gradient(jnp.asarray(logits))).all()
    assert np.abs(gradient(jnp.asarray(logits / 50))).max() > 1e-3


@pytest.mark.parametrize("threshold", [1e-6, 0.3, 0.999])
def test_ohem_takes_the_hard_pixels_and_no_fewer_than_the_share(threshold):
    logits, labels, weights = case(3)
    chance, truth = flat(logits, labels)
    each = -np.log(chance[np.arange(len(truth)), truth])
    least = np.sort(each)[::-1][round(0.25 * labels.size) - 1]
    hard = each >= min(least, -np.log(threshold))
    assert hard.sum() >= round(0.25 * labels.size)
    wanted = (each * weights[truth])[hard].sum() / weights[truth][hard].sum()
    assert value("ohem", logits, labels, weights, threshold=threshold, share=0.25) == pytest.approx(wanted, rel=1e-5)


def test_dice_of_the_classes_that_occur():
    logits, labels, weights = case()
    chance, truth = flat(logits, labels)
    hot = np.eye(CLASSES)[truth]
    each = 1 - 2 * (chance * hot).sum(0) / (chance.sum(0) + hot.sum(0))
    wanted = np.average(each[:-1], weights=weights[:-1])
    assert value("dice", logits, labels, weights) == pytest.approx(wanted, rel=1e-5)


def jaccard_loss(wrong, truth):
    """1 - IoU of a class where the pixels of the set `wrong` are mistaken."""
    predicted = truth ^ wrong
    union = (truth | predicted).sum()
    return 1 - (truth & predicted).sum() / union if union else 0.0


def test_lovasz_extends_the_jaccard_loss_by_its_definition():
    logits, labels, weights = case(1)
    chance, truth = flat(logits, labels)
    found = []
    for k in range(CLASSES - 1):
        own = truth == k
        errors = np.abs(own - chance[:, k])
        order, total, before = np.argsort(-errors), 0.0, 0.0
        wrong = np.zeros(len(own), bool)
        for pixel in order:  # the Lovász extension: errors times the growth of the set function
            wrong[pixel] = True
            now = jaccard_loss(wrong, own)
            total += errors[pixel] * (now - before)
            before = now
        found.append(total)
    wanted = np.average(found, weights=weights[: CLASSES - 1])
    assert value("lovasz", logits, labels, weights) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", list(pixel_losses.LOSSES))
def test_void_pixels_have_no_gradient_and_nothing_else_is_infinite(name):
    logits, labels, weights = case()
    logits[0, 0, 0] = (1e4, -1e4, 0, 0)
    gradient = jax.jit(jax.grad(lambda x: pixel_losses.LOSSES[name](x, jnp.asarray(labels), jnp.asarray(weights))))
    found = np.asarray(gradient(jnp.asarray(logits)))
    assert np.isfinite(found).all()
    assert (found[labels == VOID] == 0).all()
    assert np.abs(found[labels != VOID]).max() > 0


@pytest.mark.parametrize("name", list(pixel_losses.LOSSES))
def test_a_batch_of_void_gives_zero_and_a_finite_gradient(name):
    logits, labels, weights = case()
    labels[:] = VOID
    loss = jax.jit(
        jax.value_and_grad(lambda x: pixel_losses.LOSSES[name](x, jnp.asarray(labels), jnp.asarray(weights)))
    )
    found, gradient = loss(jnp.asarray(logits))
    assert float(found) == 0
    assert (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice"])
def test_gradients_are_those_of_finite_differences(name):
    logits, labels, weights = case(2, (1, 3, 3))
    with jax.enable_x64(True):
        at, labels, weights = jnp.asarray(logits, jnp.float64), jnp.asarray(labels), jnp.asarray(weights, jnp.float64)
        loss = jax.jit(lambda x: pixel_losses.LOSSES[name](x, labels, weights))
        gradient = np.asarray(jax.grad(loss)(at))
        for place in [(0, 0, 0, 0), (0, 1, 2, 1), (0, 2, 1, 3)]:
            step = jnp.zeros_like(at).at[place].set(1e-6)
            assert gradient[place] == pytest.approx((float(loss(at + step)) - float(loss(at - step))) / 2e-6, abs=1e-7)
