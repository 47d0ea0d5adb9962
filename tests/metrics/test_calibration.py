"""mapjax.metrics.calibration against scikit-learn's reliability curve, SciPy's minimum and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.calibration import calibration_curve

from mapjax.metrics import calibration


def answers_of(seed, images=400, classes=6, factor=1.0):
    """Logits `factor` times as large as those that the labels were drawn by."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (images, classes))
    labels = np.array([rng.choice(classes, p=p) for p in softmax(logits, axis=1)])
    return factor * logits, labels


@pytest.mark.parametrize("seed", range(3))
def test_bins_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    confidence = np.round(rng.random(300) ** 0.3, 2)  # some on the edges of the bins
    correct = rng.random(300) < confidence**2
    found = calibration.bins(confidence, correct, 10)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=10)
    filled = found.counts > 0
    np.testing.assert_allclose(found.accuracy[filled], accuracy)
    np.testing.assert_allclose(found.confidence[filled], mean)
    assert found.counts.sum() == 300 and not found.accuracy[~filled].any()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_expected_error_by_its_definition(answers, number):
    confidence, correct = np.array([a for a, _ in answers]), np.array([b for _, b in answers])
    wanted = 0.0
    edges = np.linspace(0, 1, number + 1)
    for m in range(number):
        inside = (confidence > edges[m]) & (confidence <= edges[m + 1]) | ((m == 0) & (confidence == 0))
        if inside.any():
            wanted += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration.expected_error(calibration.bins(confidence, correct, number)) == pytest.approx(wanted, abs=1e-9)


def test_expected_error_without_answers():
    assert calibration.expected_error(calibration.bins(np.zeros(0), np.zeros(0, bool))) == -1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("factor", "images", "classes"), [(3.0, 400, 6), (0.3, 400, 6), (1.0, 60, 2), (8.0, 150, 300)])
def test_temperature_is_scipys_minimum(factor, images, classes, dtype):
    logits, labels = answers_of(1, images, classes, factor)

    def likelihood(log_inverse):
        scaled = logits * np.exp(log_inverse)
        return (logsumexp(scaled, axis=1) - scaled[np.arange(images), labels]).mean()

    wanted = minimize_scalar(likelihood, bounds=np.log([1 / 20, 20]), method="bounded", options={"xatol": 1e-9})
    found = calibration.temperature(logits.astype(dtype), labels)
    assert found == pytest.approx(np.exp(-wanted.x), rel=1e-4)
    log_probabilities = log_softmax(logits, axis=1).astype(dtype)  # softmax does not see what it takes away
    assert calibration.temperature(log_probabilities, labels) == pytest.approx(found, rel=1e-4)


def test_temperature_where_there_is_no_minimum():
    sure = 5 * np.eye(3)
    assert calibration.temperature(sure, np.arange(3)) == calibration.COLDEST  # all right
    assert calibration.temperature(sure, np.array([1, 2, 0])) == calibration.HOTTEST  # all wrong
    for logits in (np.zeros((4, 3)), np.zeros((4, 1)), np.zeros((0, 3))):
        assert calibration.temperature(logits, np.zeros(len(logits), int)) == 1


def test_scaled_confidence_over_several_blocks(monkeypatch):
    monkeypatch.setattr(calibration, "_BLOCK", 40)
    logits, _ = answers_of(2, 101)
    for heat in (0.05, 1.0, 2.5):
        found = calibration.scaled_confidence(logits, heat)
        np.testing.assert_allclose(found, softmax(logits / heat, axis=1).max(1), rtol=1e-9)


def test_held_out_confidence_mends_an_overconfident_network():
    logits, labels = answers_of(3, 4000, factor=3.0)
    correct = logits.argmax(1) == labels
    before = calibration.expected_error(calibration.bins(softmax(logits, axis=1).max(1), correct))
    after = calibration.expected_error(calibration.bins(calibration.held_out_confidence(logits, labels), correct))
    assert before > 0.15 and after < 0.04


def test_held_out_confidence_never_sees_its_own_labels():
    logits, labels = answers_of(4, 40)
    found = calibration.held_out_confidence(logits, labels, seed=7)
    half = np.random.default_rng(7).permutation(40)[:20]
    changed = labels.copy()
    changed[half] = (changed[half] + 1) % 6
    again = calibration.held_out_confidence(logits, changed, seed=7)
    np.testing.assert_array_equal(again[half], found[half])
    rest = np.setdiff1d(np.arange(40), half)
    assert (np.abs(again[rest] - found[rest]) > 1e-3).all()
