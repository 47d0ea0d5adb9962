"""Assignments against SciPy's optimum: ties, padded rows, costs that are not finite, several matrices at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import linear_sum_assignment

from mapjax.ops import hungarian
from mapjax.ops.matching import BACKGROUND

ROWS, COLUMNS = 5, 7
assign = jax.jit(hungarian.assign)
NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))
STRANGE = st.sampled_from([np.nan, np.inf, -np.inf, 3e38])


def total(cost, owner, valid):
    """The pairs that are avoided and the cost of the others; each valid row has one column, and no other row any."""
    columns = np.flatnonzero(owner != BACKGROUND)
    wanted = np.flatnonzero(valid)[: cost.shape[1]]
    assert sorted(owner[columns]) == list(wanted)
    return sums(cost[owner[columns], columns])


def sums(taken):
    sound = np.isfinite(taken) & (np.abs(taken) < hungarian.LARGEST)
    return np.sum(~sound), np.sum(taken[sound].astype(np.float64))


def best(cost, valid):
    real = cost[valid][: cost.shape[1]].astype(np.float64)
    sound = np.isfinite(real) & (np.abs(real) < hungarian.LARGEST)
    return sums(real[linear_sum_assignment(np.where(sound, real, 1e6))])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    arrays.arrays(np.float32, (ROWS, COLUMNS), elements=st.one_of(NUMBERS, NUMBERS, NUMBERS, STRANGE)),
    arrays.arrays(bool, (ROWS,)),
)
def test_as_scipy(cost, valid):
    avoided, cost_of_rest = total(cost, np.asarray(assign(cost, valid)), valid)
    expected = best(cost, valid)
    assert avoided == expected[0]
    np.testing.assert_allclose(cost_of_rest, expected[1], rtol=1e-5, atol=1e-3)


def test_as_scipy_where_all_queries_are_alike():
    """The matrix of an untrained network, with many rows that want the same columns."""
    rng = np.random.default_rng(0)
    cost = (rng.uniform(0, 1, (3, 40, 60)) + 5 * rng.uniform(0, 1, (3, 40, 1))).astype(np.float32)
    valid = rng.uniform(size=(3, 40)) < 0.7
    owners = jax.jit(jax.vmap(hungarian.assign))(cost, valid)
    for one, real, owner in zip(cost, valid, np.asarray(owners)):
        np.testing.assert_allclose(total(one, owner, real), best(one, real), rtol=1e-6)


@pytest.mark.parametrize("valid", [[True] * 4, [False, True, True, True]])
def test_of_more_rows_than_columns_the_first_are_assigned(valid):
    cost, valid = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2 % 7, np.array(valid)
    np.testing.assert_allclose(total(cost, np.asarray(assign(cost, valid)), valid), best(cost, valid))


def test_without_rows():
    for cost in (np.zeros((0, 3), np.float32), np.ones((2, 3), np.float32)):
        assert assign(cost, np.zeros(len(cost), bool)).tolist() == [BACKGROUND] * 3


def test_padded_rows_change_nothing():
    cost = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)
    padded = np.concatenate([cost, np.full((4, 9), np.nan, np.float32)])
    valid = np.arange(10) < 6
    np.testing.assert_array_equal(assign(padded, valid), assign(cost, valid[:6]))
    assert jnp.issubdtype(assign(cost, valid[:6]).dtype, jnp.integer)
