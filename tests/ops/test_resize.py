"""Bilinear resizing against its definition, and against torch (run: pytest -m parity)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops.resize import bilinear

SIZES = [((3, 5), (6, 10)), ((3, 5), (7, 4)), ((1, 1), (2, 3)), ((1, 4), (2, 8)), ((7, 6), (3, 6)), ((4, 4), (32, 11))]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(x, size):
    """Sample one place after the other; beyond the outer centres the border's value goes on."""
    b, height, width, c = x.shape
    found = np.zeros((b, *size, c))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
            z = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(y), int(z)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            above = x[:, top, left] * (1 - (z - left)) + x[:, top, right] * (z - left)
            below = x[:, bottom, left] * (1 - (z - left)) + x[:, bottom, right] * (z - left)
            found[:, i, j] = above * (1 - (y - top)) + below * (y - top)
    return found


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_bilinear_by_hand(shape, size):
    x = random(2, *shape, 3)
    np.testing.assert_allclose(bilinear(jnp.asarray(x), size), by_hand(x, size), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_the_gradient_is_the_transposed_map(shape, size):
    x, y = jnp.asarray(random(2, *shape, 3)), jnp.asarray(random(2, *size, 3, seed=1))
    value, pull = jax.vjp(lambda x: bilinear(x, size), x)
    np.testing.assert_allclose((value * y).sum(), (x * pull(y)[0]).sum(), rtol=1e-4)
    text = jax.jit(lambda x, y: jax.vjp(lambda x: bilinear(x, size), x)[1](y)).lower(x, y).as_text()
    assert "scatter" not in text


def test_constants_and_the_same_size_stay():
    x = jnp.asarray(random(1, 3, 4, 2))
    assert bilinear(x, (3, 4)) is x
    np.testing.assert_allclose(bilinear(jnp.full((1, 3, 4, 2), 7.0), (13, 8)), 7, rtol=1e-6)
    assert bilinear(x.astype(jnp.bfloat16), (6, 9)).dtype == jnp.bfloat16


@pytest.mark.parity
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_bilinear_is_torchs(shape, size):
    torch = pytest.importorskip("torch")
    x, y = random(2, *shape, 3), random(2, *size, 3, seed=1)
    value, pull = jax.vjp(lambda x: bilinear(x, size), jnp.asarray(x))
    theirs = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    expected = torch.nn.functional.interpolate(theirs, size, mode="bilinear", align_corners=False)
    expected.backward(torch.from_numpy(y).permute(0, 3, 1, 2))
    np.testing.assert_allclose(value, expected.detach().permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(jnp.asarray(y))[0], theirs.grad.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
