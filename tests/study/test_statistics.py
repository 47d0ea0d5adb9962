"""Intervals and tests against SciPy, R's p.adjust, and what is known of chance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mapjax.study import statistics


def test_the_interval_is_students():
    values = [0.91, 0.93, 0.92, 0.95]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = statistics.mean(values)
    assert (found.value, found.seeds) == (pytest.approx(np.mean(values)), 4)
    assert (found.value - found.half, found.value + found.half) == (pytest.approx(low), pytest.approx(high))
    assert math.isnan(statistics.mean([0.5]).half)


def test_seeds_are_compared_in_pairs():
    ours, baseline = [0.91, 0.95, 0.93], [0.90, 0.93, 0.92]
    found = statistics.over_seeds(ours, baseline)
    expected = stats.ttest_rel(ours, baseline)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.value == pytest.approx(np.mean(ours) - np.mean(baseline))


@pytest.mark.parametrize(("ours", "baseline"), [([0.9], [0.8]), ([0.5, 0.75], [0.25, 0.5]), ([0.5, 0.5], [0.5, 0.5])])
def test_differences_without_spread_prove_nothing(ours, baseline):
    assert math.isnan(statistics.over_seeds(ours, baseline).p)


def test_a_bootstrap_has_the_spread_of_the_mean():
    rng = np.random.default_rng(0)
    right = rng.random((2, 400)) < 0.7
    other = right ^ (rng.random((2, 400)) < 0.1)
    drawn = [
        np.stack([statistics.draws(lambda times, one=one: float(one @ times / times.sum()), 400) for one in both])
        for both in (right, other)
    ]
    found = statistics.over_images(*drawn)
    differences = (right.astype(float) - other).mean(0)
    assert found.value == pytest.approx(differences.mean())
    half = 1.96 * differences.std() / 20
    assert (found.low, found.high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.004)


def test_the_same_answers_differ_by_nothing():
    drawn = statistics.draws(lambda times: float(times[0]), 5)[None]
    assert statistics.over_images(drawn, drawn) == (0.0, 0.0, 0.0, 1.0)


def test_chance_is_found_as_often_as_it_says(monkeypatch):
    """Of cells that are no better than the baseline one in twenty is taken for it."""
    monkeypatch.setattr(statistics, "RESAMPLES", 199)
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(300):
        right = rng.random((2, 100)) < 0.6
        one, other = (statistics.draws(lambda t, r=r: float(r @ t / t.sum()), 100)[None] for r in right)
        found += statistics.over_images(one, other).p < 0.05
    assert 0.02 < found / 300 < 0.1


def test_holm_as_r_has_it():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = statistics.holm([0.02, math.nan, 0.5])
    assert found[0] == pytest.approx(0.04) and math.isnan(found[1]) and found[2] == 0.5


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_only_raises(ps):
    found = statistics.holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, found))
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.asarray(found)[order]) >= 0).all()
