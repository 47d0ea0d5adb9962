"""The block by hand in NumPy, and what is left out in training."""

import jax
import jax.numpy as jnp
import numpy as np

from mapjax.models.backbones import inverted_residual
from mapjax.models.backbones.inverted_residual import Block, InvertedResidual

CONVOLUTION = inverted_residual.convolution_of("batch", 1e-3, 0.1, "torch", "float32")
BLOCK = Block(4, 8, 5, 1, jax.nn.relu6, 2, jax.nn.silu, jax.nn.sigmoid)


def started(block=BLOCK, convolution=CONVOLUTION, drop_path=0.0, shape=(2, 6, 5, 4), branch="block"):
    """A block with random variables, and images."""
    module = InvertedResidual(block, branch, drop_path, convolution)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x)
    return module, jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1, leaf.shape), jnp.float32), shapes), x


def by_hand(variables, x, stride, pads, branch="block"):
    params, stats = (jax.tree.map(np.asarray, variables[kind])[branch] for kind in ("params", "stats"))

    def norm(y, *path):
        scale_bias, mean_var = params, stats
        for name in path:
            scale_bias, mean_var = scale_bias[name], mean_var[name]
        return (y - mean_var["mean"]) / np.sqrt(mean_var["var"] + 1e-3) * scale_bias["scale"] + scale_bias["bias"]

    y = np.clip(norm(x @ params["0"]["0"]["kernel"][0, 0], "0", "1"), 0, 6)
    y, kernel = np.pad(y, ((0, 0), *pads, (0, 0))), params["1"]["0"]["kernel"][:, :, 0]
    windows = np.lib.stride_tricks.sliding_window_view(y, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    y = np.clip(norm(np.einsum("bijckl,klc->bijc", windows, kernel), "1", "1"), 0, 6)
    if branch == "conv":
        return norm(y @ params["2"]["kernel"][0, 0], "3")
    hidden = y.mean((1, 2)) @ params["2"]["fc1"]["kernel"][0, 0] + params["2"]["fc1"]["bias"]
    hidden = hidden / (1 + np.exp(-hidden))
    gate = 1 / (1 + np.exp(-(hidden @ params["2"]["fc2"]["kernel"][0, 0] + params["2"]["fc2"]["bias"])))
    return norm(y * gate[:, None, None] @ params["3"]["0"]["kernel"][0, 0], "3", "1")


def test_residual_with_squeeze_excite_by_hand():
    module, variables, x = started()
    y = jax.jit(lambda v, x: module.apply(v, x, False))(variables, x)
    np.testing.assert_allclose(y, x + by_hand(variables, np.asarray(x), 1, ((2, 2), (2, 2))), rtol=1e-4, atol=1e-4)


def test_bare_projection_and_a_stride_by_hand():
    module, variables, x = started(BLOCK._replace(kernel=3, stride=2, squeeze=0), branch="conv")
    assert set(variables["params"]["conv"]) == {"0", "1", "2", "3"}
    y = jax.jit(lambda v, x: module.apply(v, x, False))(variables, x)
    expected = by_hand(variables, np.asarray(x), 2, ((1, 1), (1, 1)), "conv")
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_same_padding_is_on_the_far_side_of_an_even_image():
    convolution = inverted_residual.convolution_of("batch", 1e-3, 0.1, "SAME", "float32")
    module, variables, x = started(BLOCK._replace(kernel=3, stride=2), convolution)
    y = jax.jit(lambda v, x: module.apply(v, x, False))(variables, x)
    expected = by_hand(variables, np.asarray(x), 2, ((0, 1), (1, 1)))  # 6 rows, 5 columns
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_stochastic_depth_leaves_out_branches_of_whole_images():
    module, variables, x = started(drop_path=0.5, shape=(16, 6, 5, 4))
    train = jax.jit(lambda key: module.apply(variables, x, True, mutable=["stats"], rngs={"dropout": key})[0])
    whole = InvertedResidual(BLOCK, "block", 0.0, CONVOLUTION).apply(variables, x, True, mutable=["stats"])[0]
    y = train(jax.random.key(1))
    left_out = np.isclose(y, x, atol=1e-5).all((1, 2, 3))
    assert 0 < left_out.sum() < len(x)
    kept = ~left_out
    np.testing.assert_allclose((y - x)[kept], 2 * (whole - x)[kept], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(y, train(jax.random.key(1)))
    assert (np.asarray(y) != np.asarray(train(jax.random.key(2)))).any()


def test_rates_grow_in_equal_steps():
    rates = inverted_residual.ramp(0.2, (1, 3, 4))
    assert [len(stage) for stage in rates] == [1, 3, 4]
    np.testing.assert_allclose(np.concatenate(rates), np.linspace(0, 0.2, 8, endpoint=False))


def test_dropout_in_training_only_and_from_the_key():
    module, x = inverted_residual.Classifier(3, 0.5), jnp.ones((2, 64))
    variables = module.init(jax.random.key(0), x, False)
    dense = variables["params"]["1"]
    np.testing.assert_allclose(module.apply(variables, x, False), x @ dense["kernel"] + dense["bias"], rtol=1e-5)
    one, again, other = (module.apply(variables, x, True, rngs={"dropout": jax.random.key(i)}) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).all()


def test_remat_changes_no_value():
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))
    block = BLOCK._replace(kernel=1, squeeze=0)

    def stage(remat):
        return inverted_residual.Stage((block,), (0.0,), "block", remat, CONVOLUTION)

    variables = jax.jit(stage(False).init, static_argnums=2)(jax.random.key(0), x, False)

    def value_and_gradient(remat):
        def value(params):
            y, _ = stage(remat).apply({**variables, "params": params}, x, True, mutable=["stats"])
            return jnp.square(y).sum()

        return jax.jit(jax.value_and_grad(value))(variables["params"])

    plain, again = value_and_gradient(False), value_and_gradient(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)
