"""Against the definitions in float64, numbers by hand, and extreme inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import losses


def array(values):
    return jnp.asarray(values, jnp.float32)


def test_smooth_l1_by_hand():
    found = losses.smooth_l1(array([0, 0.5, -0.5, 1, 3, -3]), jnp.zeros(6))
    np.testing.assert_allclose(found, [0, 0.125, 0.125, 0.5, 2.5, 2.5])
    found = losses.smooth_l1(array([1, 2.5]), array([1.25, 0.5]), 0.5)
    np.testing.assert_allclose(found, [0.0625, 1.75])


@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_smooth_l1_and_its_slope(beta):
    error = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    found, slope = jax.vjp(lambda x: losses.smooth_l1(x, jnp.zeros((4, 5)), beta), array(error))
    small = np.abs(error) < beta
    expected = np.where(small, error**2 / 2 / (beta or 1), np.abs(error) - beta / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    expected = np.where(small, error / (beta or 1), np.sign(error))
    np.testing.assert_allclose(slope(jnp.ones((4, 5)))[0], expected, rtol=1e-5)


def test_smooth_l1_is_smooth_where_its_pieces_meet():
    beta = 1 / 9
    below, above = (losses.smooth_l1(array([beta + step]), jnp.zeros(1), beta) for step in (-1e-6, 1e-6))
    np.testing.assert_allclose(below, beta / 2, atol=2e-6)
    np.testing.assert_allclose(above, beta / 2, atol=2e-6)


def test_cross_entropy():
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(size=(3, 4, 6)) * 3, rng.integers(0, 6, (3, 4))
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [[-np.log(probability[i, j, classes[i, j]]) for j in range(4)] for i in range(3)]
    np.testing.assert_allclose(losses.cross_entropy(array(logits), jnp.asarray(classes)), expected, rtol=1e-4)
    slope = jax.grad(lambda x: losses.cross_entropy(x, jnp.asarray(classes)).sum())(array(logits))
    np.testing.assert_allclose(slope, probability - np.eye(6)[classes], atol=1e-6)


def test_cross_entropy_of_equal_and_of_huge_logits():
    np.testing.assert_allclose(losses.cross_entropy(jnp.zeros((1, 81)), jnp.array([80])), [np.log(81)], rtol=1e-6)
    huge = array([[1e4, -1e4], [-1e4, 1e4]])
    np.testing.assert_allclose(losses.cross_entropy(huge, jnp.array([0, 0])), [0, 2e4])


def test_binary_cross_entropy():
    rng = np.random.default_rng(2)
    logits, target = rng.normal(size=20) * 3, np.concatenate([np.zeros(8), np.ones(8), [0.2, 0.5, 0.9, 1e-3]])
    chance = 1 / (1 + np.exp(-logits))
    expected = -target * np.log(chance) - (1 - target) * np.log(1 - chance)
    np.testing.assert_allclose(losses.binary_cross_entropy(array(logits), array(target)), expected, rtol=1e-4)
    slope = jax.grad(lambda x: losses.binary_cross_entropy(x, array(target)).sum())(array(logits))
    np.testing.assert_allclose(slope, chance - target, atol=1e-6)


def test_binary_cross_entropy_of_huge_logits():
    found = losses.binary_cross_entropy(array([1e4, 1e4, -1e4, -1e4]), array([1, 0, 0, 1]))
    np.testing.assert_allclose(found, [0, 1e4, 0, 1e4])


def test_masked_sum_ignores_whatever_is_masked():
    values, mask = array([[1, np.nan, 3], [np.inf, 5, -np.inf]]), jnp.array([[True, False, True], [False, True, False]])
    assert losses.masked_sum(values, mask) == 9
    assert losses.masked_sum(values, jnp.zeros((2, 3), bool)) == 0
    slope = jax.grad(losses.masked_sum)(values, mask)
    np.testing.assert_array_equal(slope, mask)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0])
def test_what_is_missed_to_a_power_and_its_slope(gamma):
    miss = np.array([1, 0.3, 1e-3, 1e-6, 1e-9])
    found, slope = jax.vjp(lambda x: losses.modulated(x, gamma), array(miss))
    np.testing.assert_allclose(found, miss**gamma, rtol=1e-5)
    np.testing.assert_allclose(slope(jnp.ones(5))[0], gamma * miss ** (gamma - 1), rtol=1e-5)
    nothing, slope = jax.vjp(lambda x: losses.modulated(x, gamma), array([0.0]))
    assert nothing < 0.002 and slope(jnp.ones(1))[0] == 0


@pytest.mark.parametrize("gamma", [0, 1.5, 2])
def test_focal_by_its_definition(gamma):
    rng = np.random.default_rng(3)
    logits, target = rng.normal(size=30) * 3, rng.integers(0, 2, 30)
    chance = 1 / (1 + np.exp(-logits))
    of_truth, weight = np.where(target, chance, 1 - chance), np.where(target, 0.3, 0.7)
    expected = -weight * (1 - of_truth) ** gamma * np.log(of_truth)
    found = losses.focal(array(logits), array(target), 0.3, gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    slope = jax.grad(lambda x: losses.focal(x, array(target), 0.3, gamma).sum())
    assert np.isfinite(slope(array(np.where(target, 1e3, -1e3)))).all()
