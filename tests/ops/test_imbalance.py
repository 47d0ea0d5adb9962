"""Class weights and priors against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from mapjax.errors import UserError
from mapjax.ops import imbalance

COUNTS = st.lists(st.integers(0, 10_000), min_size=2, max_size=20).filter(any)


@given(counts=COUNTS, weighting=st.sampled_from(imbalance.WEIGHTINGS))
def test_the_mean_weight_of_the_examples_is_one(counts, weighting):
    weights = imbalance.class_weights(counts, weighting)
    assert np.average(weights, weights=counts) == pytest.approx(1, rel=1e-4)
    assert all((weight > 0) == (count > 0) for weight, count in zip(weights, counts))
    order = np.argsort(counts)[np.sort(counts) > 0]
    assert (np.diff(weights[order]) <= 1e-5 * weights.max()).all()  # the rarer the heavier


def test_inverse_is_scikit_learns_balanced():
    labels = np.repeat([0, 1, 2], [50, 10, 3])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(imbalance.class_weights([50, 10, 3], "inverse"), expected, rtol=1e-6)


def test_effective_number():
    found = imbalance.class_weights([100, 10], "effective", beta=0.9)
    expected = np.array([0.1 / (1 - 0.9**100), 0.1 / (1 - 0.9**10)])
    np.testing.assert_allclose(found[1] / found[0], expected[1] / expected[0], rtol=1e-5)
    np.testing.assert_allclose(imbalance.class_weights([100, 10], "effective", beta=0), [1, 1])


def test_log_prior():
    np.testing.assert_allclose(np.exp(imbalance.log_prior([8, 0])), [0.9, 0.1], rtol=1e-6)


def test_mistakes():
    with pytest.raises(UserError, match=r"weighting='invers' is not known\. Did you mean 'inverse'"):
        imbalance.class_weights([1, 2], "invers")
    with pytest.raises(UserError, match="beta=1 must be from 0 to below 1"):
        imbalance.class_weights([1, 2], "effective", beta=1)
