"""Deformable sampling against a loop in float64, in both forms; places outside, gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import deformable

SIZES, HEADS, DEPTH = ((5, 7), (3, 4)), 2, 3


def case():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, *size, HEADS, DEPTH)).astype(np.float32) for size in SIZES]
    places = rng.uniform(-0.3, 1.3, (2, 6, HEADS, len(SIZES), 4, 2)).astype(np.float32)
    return maps, places, rng.uniform(size=places.shape[:-1]).astype(np.float32)


def expected(maps, places, weights):
    result = np.zeros((2, 6, HEADS, DEPTH))
    for b, q, h, level, p in np.ndindex(weights.shape):
        rows, columns = SIZES[level]
        x, y = places[b, q, h, level, p].astype(np.float64) * (columns, rows) - 0.5
        for row, column in itertools.product(
            (int(np.floor(y)) + i for i in (0, 1)), (int(np.floor(x)) + i for i in (0, 1))
        ):
            if 0 <= row < rows and 0 <= column < columns:
                near = (1 - abs(y - row)) * (1 - abs(x - column))
                result[b, q, h] += near * weights[b, q, h, level, p] * maps[level][b, row, column, h]
    return result


@pytest.mark.parametrize("form", ["auto", "gather", "dense"])
def test_as_a_loop(form):
    given = case()
    found = jax.jit(lambda *arrays: deformable.sample(*arrays, form))(*given)
    np.testing.assert_allclose(found, expected(*given), atol=1e-5)


def test_both_forms_have_the_same_gradients():
    maps, places, weights = case()
    target = np.random.default_rng(1).normal(size=(2, 6, HEADS, DEPTH)).astype(np.float32)

    def value(form, *arrays):
        return jnp.sum(deformable.sample(*arrays, form) * target)

    one, other = (
        jax.jit(jax.grad(lambda *a, f=f: value(f, *a), (0, 1, 2)))(maps, places, weights) for f in ("gather", "dense")
    )
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert np.abs(ours).max() > 0.1
