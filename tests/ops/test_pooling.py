"""Pooling with places and unpooling, against loops and against torch (run: pytest -m parity)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import pooling

SHAPES = [(4, 6), (5, 6), (7, 5), (3, 2)]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("pool", [pooling.max_pool, pooling.max_pool_all])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1)])
def test_places_and_back_by_hand(pool, shape):
    x = random(2, *shape, 3)
    largest, places = pool(jnp.asarray(x))
    rows, columns = (side // 2 if pool is pooling.max_pool else -(-side // 2) for side in shape)
    assert largest.shape == places.shape == (2, rows, columns, 3)
    expected = np.zeros_like(x)
    for b, i, j, c in np.ndindex(largest.shape):
        window = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        row, column = np.unravel_index(window.argmax(), window.shape)
        assert largest[b, i, j, c] == window.max() and places[b, i, j, c] == 2 * row + column
        expected[b, 2 * i + row, 2 * j + column, c] = window.max()
    np.testing.assert_array_equal(pooling.unpool(largest, places, shape), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_pool_and_unpool(shape):
    """Both are linear in x where the places stay, so the gradient is the transposed map."""
    x, y = jnp.asarray(random(2, *shape, 3)), jnp.asarray(random(2, *shape, 3, seed=1))

    def there_and_back(x):
        largest, places = pooling.max_pool_all(x)
        return pooling.unpool(largest, places, shape)

    value, pull = jax.vjp(jax.jit(there_and_back), x)
    chosen = np.asarray(value) != 0
    np.testing.assert_array_equal(value, np.where(chosen, x, 0))
    np.testing.assert_array_equal(pull(y)[0], np.where(chosen, y, 0))
    assert "scatter" not in jax.jit(lambda x, y: jax.vjp(there_and_back, x)[1](y)).lower(x, y).as_text()


def test_larger_windows():
    x = jnp.asarray(random(1, 10, 9, 2))
    largest, places = pooling.max_pool(x, 3)
    window = (1, 3, 3, 1)
    np.testing.assert_array_equal(largest, jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID"))
    back = pooling.unpool(largest, places, (10, 9), 3)
    np.testing.assert_array_equal(jnp.where(back != 0, x, 0), back)
    assert (back != 0).sum() == largest.size


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
def test_unpool_is_torchs(shape):
    torch = pytest.importorskip("torch")
    x = random(2, *shape, 3)
    theirs, where = torch.nn.functional.max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), 2, return_indices=True)
    expected = torch.nn.functional.max_unpool2d(theirs, where, 2, output_size=shape).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pooling.unpool(*pooling.max_pool(jnp.asarray(x)), shape), expected)


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (1, 1), (2, 5)])
def test_the_largest_of_three_is_that_of_the_windows(size):
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * size[0] * size[1] * 3).reshape(2, *size, 3), jnp.float32)
    window = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))

    def windows(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *window)

    found, pull = jax.vjp(pooling.max_of_three, x)
    expected, pull_expected = jax.vjp(windows, x)
    np.testing.assert_array_equal(found, expected)
    gradient = jnp.asarray(np.random.default_rng(1).integers(-9, 9, expected.shape), jnp.float32)
    np.testing.assert_array_equal(pull(gradient)[0], pull_expected(gradient)[0])
    assert jnp.isnan(pooling.max_of_three(x.at[0, 0, 0, 0].set(jnp.nan))[0, 0, 0, 0])
