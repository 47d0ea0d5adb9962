"""Muon against the singular value decomposition, and which parameters it takes for matrices."""

import compare_muon
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mapjax.engine import muon, optimizer


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 5, 5)])
def test_orthogonal_is_near_the_polar_factor(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = np.asarray(muon.orthogonal(jnp.asarray(matrix)))
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    singular = np.linalg.svd(found, compute_uv=False)
    assert singular.min() > 0.6 and singular.max() < 1.25
    # The same singular vectors: turned by them, what is found is diagonal.
    turned = np.swapaxes(u, -1, -2) @ found @ np.swapaxes(v, -1, -2)
    np.testing.assert_allclose(turned, turned * np.eye(turned.shape[-1]), atol=1e-4)


def test_orthogonal_of_zeros_is_zero():
    assert not np.asarray(muon.orthogonal(jnp.zeros((3, 2)))).any()


@pytest.mark.parametrize("scale", [1e-14, 3e-19, 1e-19, 3e-20, 1e-22])
def test_orthogonal_of_next_to_nothing_is_next_to_nothing(scale):
    """The momentum of what has had no gradient for hundreds of steps: squares of it vanish in float32."""
    matrix = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    found = np.asarray(muon.orthogonal(jnp.asarray(matrix * np.float32(scale))))
    assert np.abs(found).max() < 0.1


def _params():
    shapes = {
        "conv": {"kernel": (3, 3, 4, 8), "bias": (8,)},
        "depthwise": {"kernel": (3, 3, 1, 8)},
        "stack": {"mlp": {"kernel": (2, 6, 5)}, "in_proj_kernel": (2, 6, 3, 6)},
        "pos_embedding": (1, 7, 6),
    }
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def test_each_matrix_is_made_orthogonal_and_the_rest_is_left_to_the_others():
    params = _params()
    tx = muon.make(params, 0.9, optax.stateless(lambda updates, _: jax.tree.map(jnp.zeros_like, updates)))
    updates, _ = tx.update(params, tx.init(params), params)
    assert not np.asarray(updates["depthwise"]["kernel"]).any()
    assert not np.asarray(updates["pos_embedding"]).any()
    assert not np.asarray(updates["conv"]["bias"]).any()
    projections = np.moveaxis(np.asarray(updates["stack"]["in_proj_kernel"]), 2, 1).reshape(-1, 6, 6)
    matrices = [
        np.asarray(updates["conv"]["kernel"]).reshape(1, 36, 8),
        np.asarray(updates["stack"]["mlp"]["kernel"]),
        projections,
    ]
    for one in matrices:
        singular = np.linalg.svd(one, compute_uv=False) / (muon.LIKE_ADAM * np.sqrt(max(one.shape[1:])))
        assert singular.min() > 0.6 and singular.max() < 1.25, one.shape


def test_a_first_update_is_that_of_optax():
    """The momentum of a first step points along the gradient in both, and what is made orthogonal has no scale."""
    params = _params()
    found = [
        make(params, 0.9, optax.set_to_zero()).update(params, make(params, 0.9, optax.set_to_zero()).init(params))[0]
        for make in (muon.make, compare_muon.optax_muon)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-4), *found)
    assert np.abs(found[0]["conv"]["kernel"]).max() > 0.1


def test_first_step_is_of_the_gradients_and_momentum_is_nesterovs():
    gradient = {"kernel": jnp.diag(jnp.array([4.0, 1.0]))}
    tx = muon.make(gradient, 0.5, optax.identity())
    state = tx.init(gradient)
    _, state = tx.update(gradient, state, gradient)
    opposite = jax.tree.map(lambda g: -g * jnp.array([[2.0], [0.1]]), gradient)
    updates, _ = tx.update(opposite, state, gradient)
    # Trace: 4·0.5 - 8 = -6, 1·0.5 - 0.1 = 0.4; Nesterov's: 0.5 trace + gradient = -11 and 0.1.
    expected = muon._update(jnp.diag(jnp.array([-11.0, 0.1])), muon.Matrix(()))
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_it_learns_what_it_should_with_decay_and_multipliers():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(64, 5)), jnp.float32)
    wanted = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    params = {"layer": {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3)}}
    node = {"name": "muon", "learning_rate": 0.1, "weight_decay": 1e-4, "lr_multipliers": (("bias", 0.5),)}
    tx = optimizer.make(node, params=params, schedule=optax.cosine_decay_schedule(0.1, 200))

    def loss(params):
        return ((x @ params["layer"]["kernel"] + params["layer"]["bias"] - x @ wanted) ** 2).mean()

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(200):
        params, state = step(params, state)
    assert loss(params) < 1e-3
