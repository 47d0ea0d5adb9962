"""Sizes, strides, options; and the same function as written down with jax.lax alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.errors import UserError
from mapjax.models.backbones import resnet9


def variables_of(model, images):
    """Random ones, with variances that are not negative."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4)
        return jnp.asarray(np.abs(values) + 0.5 if path[-1].key == "var" else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize(("width", "count"), [(32, 1_646_122), (64, 6_573_130)])
def test_parameter_counts(width, count):
    """9 times the products of channels of eight convolutions, their norms, and a dense layer."""
    pairs = [(3, 1), (1, 2), (2, 2), (2, 2), (2, 4), (4, 8), (8, 8), (8, 8)]
    pairs = [(a if a == 3 else a * width, b * width) for a, b in pairs]
    assert sum(9 * a * b + 2 * b for a, b in pairs) + 8 * width * 10 + 10 == count
    model = resnet9.make(width=width, classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize(("classes", "dtype"), [(7, "float32"), (None, "bfloat16")])
def test_features_by_name(classes, dtype):
    model = resnet9.make(width=4, classes=classes, dtype=dtype)
    images = jax.ShapeDtypeStruct((2, 33, 24, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=None), variables, images)
    expected = {
        "stem": ((2, 33, 24, 4), dtype),
        "layer1": ((2, 16, 12, 8), dtype),
        "layer2": ((2, 8, 6, 16), dtype),
        "layer3": ((2, 4, 3, 32), dtype),
        "pool": ((2, 32), "float32"),
    }
    expected |= {"logits": ((2, 7), "float32")} if classes else {}
    assert {name: (value.shape, value.dtype.name) for name, value in outputs.items()} == expected
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    assert ("fc" in variables["params"]) == (classes is not None)


def test_what_it_computes():
    model, images = (
        resnet9.make(width=4, classes=7, logit_scale=0.125),
        jax.random.normal(jax.random.key(1), (2, 16, 16, 3)),
    )
    variables = variables_of(model, images)

    def block(x, *names):
        params, stats = variables["params"], variables["stats"]
        for name in names:
            params, stats = params[name], stats[name]
        x = jax.lax.conv_general_dilated(
            x, params["0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = (x - stats["1"]["mean"]) / jnp.sqrt(stats["1"]["var"] + 1e-5) * params["1"]["scale"] + params["1"]["bias"]
        return jnp.maximum(x, 0)

    def pool(x):
        return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))

    def expected(x):
        x = pool(block(block(x, "stem"), "layer1"))
        x += block(block(x, "residual1", "0"), "residual1", "1")
        x = pool(block(pool(block(x, "layer2")), "layer3"))
        x += block(block(x, "residual3", "0"), "residual3", "1")
        fc = variables["params"]["fc"]
        return (x.max((1, 2)) @ fc["kernel"] + fc["bias"]) / 8

    outputs, _ = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None))(variables, images)
    np.testing.assert_allclose(outputs["logits"], jax.jit(expected)(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["relu", "celu", "gelu"])
def test_activations(name):
    """Each has its own negative side."""
    x = np.array([-3.0, -0.05, 0.0, 2.0])
    expected = {"relu": [0, 0, 0, 2], "celu": 0.075 * np.expm1(np.minimum(x, 0) / 0.075) + np.maximum(x, 0)}
    expected["gelu"] = [-0.004050, -0.024003, 0, 1.954500]
    np.testing.assert_allclose(resnet9.ACTIVATIONS[name](jnp.asarray(x)), expected[name], atol=1e-5)


def test_mistakes():
    with pytest.raises(UserError, match=r"no activation='rellu'\. Did you mean"):
        resnet9.make(activation="rellu")
