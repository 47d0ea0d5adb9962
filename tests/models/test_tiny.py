"""Sizes, and that it learns digits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from mapjax.models.backbones import tiny


def test_parameter_count():
    shapes = jax.eval_shape(
        tiny.make(classes=10).init, jax.random.key(0), jax.ShapeDtypeStruct((2, 8, 8, 3), "float32")
    )
    counts = [9 * a * b + 2 * b for a, b in [(3, 24), (24, 24), (24, 48), (48, 48)]]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == sum(counts) + 48 * 10 + 10 == 37_714


@pytest.mark.parametrize(("classes", "dtype"), [(7, "float32"), (None, "bfloat16")])
def test_features_by_name(classes, dtype):
    model, images = tiny.make(width=4, classes=classes, dtype=dtype), jax.ShapeDtypeStruct((2, 9, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=None), variables, images)
    expected = {"layer1": ((2, 9, 8, 4), dtype), "layer2": ((2, 4, 4, 8), dtype), "pool": ((2, 8), "float32")}
    expected |= {"logits": ((2, 7), "float32")} if classes else {}
    assert {name: (value.shape, value.dtype.name) for name, value in outputs.items()} == expected
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}


def test_dropout_in_training_only_and_from_the_key():
    model, images = tiny.make(width=4, dropout=0.5, classes=7), jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1) + jnp.arange(leaf.shape[-1]), shapes)
    run = jax.jit(lambda key: model.apply(variables, images, train=True, key=key)[0]["logits"])
    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    outputs, _ = jax.jit(lambda: model.apply(variables, images, train=False, key=None))()
    fc = variables["params"]["fc"]
    np.testing.assert_allclose(outputs["logits"], outputs["pool"] @ fc["kernel"] + fc["bias"], rtol=1e-5)


def test_it_learns_digits():
    """A few epochs of half the width: better than nine in ten of the digits that it has not seen."""
    digits = load_digits()
    images = np.repeat(digits.images[..., None].astype(np.float32) / 8 - 1, 3, -1)
    model, optimizer = tiny.make(width=12, classes=10), optax.adam(optax.cosine_decay_schedule(0.02, 60))
    variables = model.init(jax.random.key(0), images[:1])

    @jax.jit
    def step(variables, state, x, y):
        def loss(params):
            outputs, stats = model.apply({**variables, "params": params}, x, train=True, key=None)
            return optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], y).mean(), stats

        gradient, stats = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradient, state)
        return {"params": optax.apply_updates(variables["params"], updates), "stats": stats}, state

    state, rng = optimizer.init(variables["params"]), np.random.default_rng(0)
    for _ in range(60):
        rows = rng.integers(0, 1400, 128)
        variables, state = step(variables, state, images[rows], digits.target[rows])
    outputs, _ = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None))(variables, images[1400:])
    assert (outputs["logits"].argmax(-1) == digits.target[1400:]).mean() > 0.9
