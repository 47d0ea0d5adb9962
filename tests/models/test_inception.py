"""Sizes, strides and options; values are compared with torchvision's in test_parity_classic.py."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths
from mapjax.errors import UserError
from mapjax.models.backbones import inception

IMAGES = jax.ShapeDtypeStruct((2, 299, 330, 3), jnp.float32)
LITTLE = jax.ShapeDtypeStruct((2, 75, 75, 3), jnp.float32)
KEY = jax.random.key(0)
SMALL = {"width": 0.0625, "classes": 5}


def shapes_of(model, images=IMAGES, train=False, key=KEY):
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=key), variables, images)
    return variables, outputs, stats


@pytest.mark.parametrize(("aux", "count"), [(True, 27_161_264), (False, 23_834_568)])
def test_parameter_counts(aux, count):
    model = inception.make(aux=aux, classes=1000)
    variables = jax.eval_shape(model.init, jax.random.key(0), LITTLE)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_features_by_name():
    _, outputs, _ = shapes_of(inception.make(classes=7))
    maps = {
        "Conv2d_2b_3x3": (147, 162, 64),
        "Conv2d_4a_3x3": (71, 78, 192),
        "Mixed_5b": (35, 38, 256),
        "Mixed_5c": (35, 38, 288),
        "Mixed_5d": (35, 38, 288),
        "Mixed_6a": (17, 18, 768),
        "Mixed_6b": (17, 18, 768),
        "Mixed_6c": (17, 18, 768),
        "Mixed_6d": (17, 18, 768),
        "Mixed_6e": (17, 18, 768),
        "Mixed_7a": (8, 8, 1280),
        "Mixed_7b": (8, 8, 2048),
        "Mixed_7c": (8, 8, 2048),
    }
    expected = {name: (2, *shape) for name, shape in maps.items()} | {"pool": (2, 2048), "logits": (2, 7)}
    assert {name: value.shape for name, value in outputs.items()} == expected


@pytest.mark.parametrize(
    ("classes", "aux", "train", "found"),
    [
        (5, True, True, {"logits", "aux"}),
        (5, False, True, {"logits"}),
        (None, True, True, set()),
    ],
)
def test_auxiliary_logits_in_training_only(classes, aux, train, found):
    variables, outputs, stats = shapes_of(inception.make(width=0.0625, classes=classes, aux=aux), train=train)
    assert {name for name in outputs if name in ("logits", "aux")} == found
    assert all(outputs[name].shape == (2, 5) and outputs[name].dtype == jnp.float32 for name in found)
    assert ("AuxLogits" in variables["params"]) == (aux and classes is not None)
    assert ("fc" in variables["params"]) == (classes is not None)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])


def test_names_are_those_of_torchvision():
    model = inception.make(**SMALL)
    variables, large = (jax.eval_shape(model.init, jax.random.key(0), images) for images in (LITTLE, IMAGES))
    assert variables == large  # the size of the images does not matter
    names = paths.paths(variables["params"])
    assert {
        "Conv2d_1a_3x3/conv/kernel",
        "Mixed_5b/branch5x5_2/bn/scale",
        "Mixed_6b/branch7x7dbl_5/conv/kernel",
        "Mixed_7c/branch3x3dbl_3b/bn/bias",
        "AuxLogits/conv1/conv/kernel",
        "AuxLogits/fc/kernel",
        "fc/bias",
    } <= set(names)


def test_lower_precision_keeps_parameters_statistics_pool_and_logits_in_float32():
    model = inception.make(dtype="bfloat16", transform_input=True, **SMALL)
    variables, outputs, stats = shapes_of(model, train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    kept = {name for name, value in outputs.items() if value.dtype == jnp.float32}
    assert kept == {"pool", "logits", "aux"}
    assert {outputs[name].dtype for name in set(outputs) - kept} == {jnp.dtype("bfloat16")}


def test_dropout_draws_in_training():
    with pytest.raises(flax.errors.InvalidRngError):
        shapes_of(inception.make(**SMALL), train=True, key=None)


def test_training_without_dropout_needs_no_key():
    variables, outputs, stats = shapes_of(inception.make(**SMALL, aux=False, dropout=0.0), LITTLE, train=True, key=None)
    assert outputs["logits"].shape == (2, 5) and "aux" not in outputs
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])


def gradient_of(module):
    def value(params, stats, x):
        y, changed = module.apply({"params": params, "stats": stats}, x, True, mutable=["stats"])
        return jnp.square(y).sum(), changed

    return jax.jit(jax.grad(value, has_aux=True))


def test_remat_changes_no_value():
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))
    arguments = (lambda x, conv: [conv(x, "one", 3), conv(x, "two", 2)],)
    plain, again = inception.Mixed(*arguments), nn.remat(inception.Mixed, static_argnums=(2,))(*arguments)
    variables = jax.jit(lambda x: plain.init(jax.random.key(0), x, False))(x)
    found, expected = (gradient_of(module)(variables["params"], variables["stats"], x) for module in (again, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected)


def test_remat_of_the_network_has_the_same_variables():
    plain, again = (inception.make(**SMALL, remat=flag) for flag in (False, True))
    shapes = jax.eval_shape(plain.init, jax.random.key(0), LITTLE)
    assert shapes == jax.eval_shape(again.init, jax.random.key(0), LITTLE)
    jaxpr = jax.make_jaxpr(lambda v, x: again.apply(v, x)[0]["pool"])(shapes, LITTLE)
    assert str(jaxpr).count("remat") >= len(inception.BLOCKS)


def test_images_too_small():
    model = inception.make(**SMALL)
    with pytest.raises(UserError, match=r"needs images of 75×75 pixels or more, not 74×90: enlarge image_size\."):
        shapes_of(model, jax.ShapeDtypeStruct((1, 74, 90, 3), jnp.float32))
    with pytest.raises(
        UserError, match=r"299×299 pixels or more to train with its auxiliary head, .* choose aux=False"
    ):
        shapes_of(model, LITTLE, train=True)
