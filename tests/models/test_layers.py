"""Normalization against NumPy in float64, and the layers around it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.models.layers import Conv, ConvNorm, Dense, Norm, model_of, module_of
from mapjax.task import Model

CHANNELS = 6


def start(layer, x):
    """Its first variables (a layer's field `init` hides the method of flax)."""
    return nn.init(lambda layer, x: layer(x), layer)(jax.random.key(0), x)


def numbers(shape=(3, 4, 5, CHANNELS), seed=0):
    """Channels of different means and spreads."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.uniform(0.5, 3, shape[-1]) + rng.normal(size=shape[-1])).astype(np.float32)


def variables_of(norm, x, seed=1):
    """Random scale, bias, mean and variance, wherever the layer keeps them."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda x: norm.init(jax.random.key(0), x, False), jnp.asarray(x))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), jnp.float32), shapes)


def apply(norm, variables, x, train):
    return jax.jit(lambda v, x: norm.apply(v, x, train, mutable=["stats"]))(variables, jnp.asarray(x))


def normalized(x, mean, var, scale, bias, epsilon=1e-5):
    x, mean, var, scale, bias = (np.asarray(a, float) for a in (x, mean, var, scale, bias))
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


def test_batch_norm_in_training():
    x, norm = numbers(), Norm("batch")
    variables = variables_of(norm, x)
    found, changed = apply(norm, variables, x, True)
    rows = x.reshape(-1, CHANNELS).astype(float)
    expected = normalized(x, rows.mean(0), rows.var(0), **variables["params"])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    before = jax.tree.map(np.asarray, variables["stats"])
    mean, var = 0.9 * before["mean"] + 0.1 * rows.mean(0), 0.9 * before["var"] + 0.1 * rows.var(0, ddof=1)
    np.testing.assert_allclose(changed["stats"]["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(changed["stats"]["var"], var, rtol=1e-5)


def test_running_statistics_after_several_batches():
    norm = Norm("batch", momentum=0.3)
    variables = variables_of(norm, numbers())
    mean, var = (np.asarray(variables["stats"][name], float) for name in ("mean", "var"))
    for seed in range(4):
        x = numbers(seed=seed)
        variables = variables | apply(norm, variables, x, True)[1]
        rows = x.reshape(-1, CHANNELS).astype(float)
        mean, var = 0.7 * mean + 0.3 * rows.mean(0), 0.7 * var + 0.3 * rows.var(0, ddof=1)
    np.testing.assert_allclose(variables["stats"]["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variables["stats"]["var"], var, rtol=1e-5)


@pytest.mark.parametrize(("kind", "train"), [("batch", False), ("frozen", False), ("frozen", True)])
def test_running_statistics_normalize_and_stay(kind, train):
    x, norm = numbers(), Norm(kind, epsilon=1e-3)
    variables = variables_of(norm, x)
    found, changed = apply(norm, variables, x, train)
    leaves = variables["stats"] | variables.get("params", {})
    assert set(leaves) == {"mean", "var", "scale", "bias"}
    np.testing.assert_allclose(found, normalized(x, **leaves, epsilon=1e-3), atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, changed.get("stats", variables["stats"]), variables["stats"])


def test_frozen_has_no_parameter_and_passes_a_gradient():
    x, norm = jnp.asarray(numbers()), Norm("frozen")
    variables = variables_of(norm, x)
    assert set(variables) == {"stats"} and set(variables["stats"]) == {"mean", "var", "scale", "bias"}
    slope = jax.jit(jax.grad(lambda x: norm.apply(variables, x, True).sum()))(x)
    factor = variables["stats"]["scale"] / np.sqrt(variables["stats"]["var"] + 1e-5)
    np.testing.assert_allclose(slope, np.broadcast_to(factor, x.shape), rtol=1e-5)


def test_the_gradient_goes_through_the_statistics_of_the_batch():
    """Adding a constant to a channel, or scaling it, changes nothing after batch norm: no gradient that way."""
    x, norm = jnp.asarray(numbers()), Norm("batch")
    variables, weight = variables_of(norm, x), jnp.asarray(numbers(seed=5))

    def value(x):
        return jnp.sum(norm.apply(variables, x, True, mutable=["stats"])[0] * weight)

    slope = np.asarray(jax.jit(jax.grad(value))(x), float)
    assert np.abs(slope).max() > 0.1
    np.testing.assert_allclose(slope.sum((0, 1, 2)), 0, atol=1e-3)
    centred = x - x.mean((0, 1, 2))
    np.testing.assert_allclose((slope * centred).sum((0, 1, 2)), 0, atol=1e-2)


def test_a_constant_channel_stays_finite():
    x, norm = np.full((2, 3, 3, CHANNELS), 1000.1, np.float32), Norm("batch")
    variables = norm.init(jax.random.key(0), jnp.asarray(x), True)
    found, changed = apply(norm, variables, x, True)
    assert np.all(np.isfinite(found)) and np.all(changed["stats"]["var"] >= 0)
    found, changed = apply(norm, variables, numbers((1, 1, 1, CHANNELS)), True)  # one value a channel
    np.testing.assert_allclose(found, 0, atol=1e-3)
    assert np.all(np.isfinite(changed["stats"]["var"]))


def test_initial_variables():
    norm = Norm("batch")
    variables = norm.init(jax.random.key(0), jnp.asarray(numbers()), True)  # counts no batch
    one, zero = np.ones(CHANNELS), np.zeros(CHANNELS)
    expected = {"params": {"scale": one, "bias": zero}, "stats": {"mean": zero, "var": one}}
    jax.tree.map(np.testing.assert_array_equal, dict(variables), expected)


@pytest.mark.parametrize(("groups", "used"), [(3, 3), (6, 6), (4, 2), (32, 2), (1, 1)])
def test_group_norm(groups, used):
    """The count of groups is the largest that divides both numbers."""
    x, norm = numbers(), Norm("group", groups=groups)
    variables = variables_of(norm, x)
    found, changed = apply(norm, variables, x, True)
    parts = x.astype(float).reshape(3, 4, 5, used, -1)
    axes = (1, 2, 4)
    scaled = (parts - parts.mean(axes, keepdims=True)) / np.sqrt(parts.var(axes, keepdims=True) + 1e-5)
    expected = scaled.reshape(x.shape) * variables["params"]["scale"] + variables["params"]["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert set(variables) == {"params"} and not changed


def test_none_does_nothing():
    x = jnp.asarray(numbers())
    assert Norm("none").apply({}, x, True) is x


def test_statistics_of_lower_precision_are_float32():
    x, norm = jnp.asarray(numbers(), jnp.bfloat16), Norm("batch", dtype=jnp.bfloat16)
    found, changed = apply(norm, variables_of(norm, x), x, True)
    assert found.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(changed)} == {"float32"}


def test_convolution_and_its_bias():
    x = jnp.asarray(numbers((2, 5, 4, 3)))
    layer = Conv(2, kernel=3, stride=2, bias=True)
    variables = start(layer, x)
    assert not variables["params"]["bias"].any()
    variables = {"params": {"kernel": variables["params"]["kernel"], "bias": jnp.array([5.0, -7.0])}}
    kernel, padded = np.asarray(variables["params"]["kernel"], float), np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = np.asarray(layer.apply(variables, x))
    assert found.shape == (2, 3, 2, 2)
    for i in range(3):
        for j in range(2):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected = np.einsum("bijc,ijcd->bd", window, kernel) + np.array([5, -7])
            np.testing.assert_allclose(found[:, i, j], expected, atol=1e-4)


def test_dense():
    x = numbers((4, 50))
    layer = Dense(30)
    variables = start(layer, jnp.asarray(x))
    kernel = np.asarray(variables["params"]["kernel"], float)
    np.testing.assert_allclose(np.abs(kernel).max(), 1 / np.sqrt(50), rtol=0.02)  # uniform, as torch's
    np.testing.assert_allclose(layer.apply(variables, jnp.asarray(x)), x @ kernel, atol=1e-4)


def test_convolution_has_a_bias_only_without_norm():
    x = jnp.asarray(numbers())
    for norm, leaves in [("none", {"0": {"kernel", "bias"}}), ("batch", {"0": {"kernel"}, "1": {"scale", "bias"}})]:
        params = jax.eval_shape(partial(start, ConvNorm(2, norm=norm)), x)["params"]
        assert {name: set(module) for name, module in params.items()} == leaves


class Around(nn.Module):
    """Another network, below one."""

    below: nn.Module

    def __call__(self, images, train):
        return self.below(images, train)


def test_any_model_stands_inside_a_module():
    """Pure functions without flax, with the mean of all images as a statistic."""

    def init(key, images):
        return {"params": {"patches": {"kernel": jax.random.normal(key, (3, 4))}}, "stats": {"seen": jnp.zeros(3)}}

    def apply(variables, images, *, train, key):
        seen = images.mean((0, 1, 2)) if train else variables["stats"]["seen"]
        return {"map": images @ variables["params"]["patches"]["kernel"]}, {"seen": seen}

    images = jnp.asarray(numbers((2, 4, 5, 3)))
    around = model_of(Around(module_of(Model(init, apply))))
    variables = around.init(jax.random.key(0), images)
    inner = {kind: leaves["below"] for kind, leaves in variables.items()}
    assert jax.tree.map(jnp.shape, inner) == jax.tree.map(jnp.shape, init(jax.random.key(0), images))
    assert jnp.std(inner["params"]["patches"]["kernel"]) > 0.1
    for train in (False, True):
        found, stats = around.apply(variables, images, train=train)
        expected, own_stats = apply(inner, images, train=train, key=None)
        np.testing.assert_allclose(found["map"], expected["map"], rtol=1e-5)
        np.testing.assert_array_equal(stats["below"]["seen"], own_stats["seen"])
