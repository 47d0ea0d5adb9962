"""Samplers give exact counts, as a pure function of (seed, epoch)."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.data import sampling
from mapjax.errors import UserError

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda found: np.array(found, np.int32))
BALANCED = ("over", "under", "sqrt")


def wanted(kind, counts):
    """How often each class should come, counted another way; the shares of sqrt are not yet rounded."""
    if kind == "over":
        return [max(counts)] * len(counts)
    if kind == "under":
        return [min(counts)] * len(counts)
    roots = [count**0.5 for count in counts]
    return [root / sum(roots) * sum(counts) for root in roots]


@settings(max_examples=60)
@given(LABELS, st.sampled_from(BALANCED), st.integers(0, 2**32), st.integers(0, 1000))
def test_the_counts_are_exact(labels, kind, seed, epoch):
    sampler = sampling.make(kind, labels, len(labels), seed)
    order = sampler.order(epoch)
    assert order.shape == (sampler.length,) and order.dtype == np.int64
    classes, counts = np.unique(labels, return_counts=True)
    found = np.array([(labels[order] == k).sum() for k in classes])
    share = np.array(wanted(kind, counts.tolist()))
    if kind == "sqrt":
        assert sampler.length == len(labels)
        assert (np.abs(found - share) < 1).all()
    else:
        np.testing.assert_array_equal(found, share)
    uses = np.bincount(order, minlength=len(labels))
    for k, drawn, count in zip(classes, found, counts):
        assert set(uses[labels == k]) <= {drawn // count, -(-drawn // count)}


@settings(max_examples=20)
@given(st.integers(1, 50), st.integers(0, 2**32), st.integers(0, 1000))
def test_uniform_is_the_permutation_of_seed_and_epoch(length, seed, epoch):
    sampler = sampling.make("uniform", None, length, seed)
    assert sampler.length == length
    np.testing.assert_array_equal(sampler.order(epoch), np.random.default_rng((seed, epoch)).permutation(length))


@pytest.mark.parametrize("kind", sampling.KINDS)
def test_an_order_is_a_function_of_seed_and_epoch(kind):
    labels = np.array([0] * 30 + [1] * 7 + [3] * 12, np.int32)
    one, same, other = (sampling.make(kind, labels, 49, seed) for seed in (1, 1, 2))
    orders = [one.order(epoch) for epoch in range(9)]
    for epoch in (8, 0, 3):
        np.testing.assert_array_equal(same.order(epoch), orders[epoch])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(one.order))(epoch), orders[epoch])  # noqa: S301
    assert len({tuple(order) for order in orders}) == 9
    assert not np.array_equal(other.order(0), orders[0])
    assert not (np.diff(labels[orders[0]]) == 0).all()


def test_under_takes_another_subset_each_epoch():
    labels = np.array([0] * 40 + [1] * 4, np.int32)
    sampler = sampling.make("under", labels, 44, 0)
    seen = {row for epoch in range(60) for row in sampler.order(epoch).tolist()}
    assert sampler.length == 8 and len(seen) == 44


@pytest.mark.parametrize(
    ("kind", "labels", "length", "words"),
    [
        ("ovre", None, 3, r"sampling='ovre' is not known\. Did you mean 'over'"),
        ("over", None, 3, "needs one class for each image"),
        ("sqrt", np.zeros((3, 2), bool), 3, "needs one class for each image"),
        ("under", np.zeros(0, np.int32), 0, "needs one class for each image"),
    ],
)
def test_mistakes(kind, labels, length, words):
    with pytest.raises(UserError, match=words):
        sampling.make(kind, labels, length, 0)
