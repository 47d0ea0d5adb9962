"""Sizes, strides and options; values are compared with torchvision's in test_parity_classic.py."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import assert_draws_in_training_only

from mapjax import paths
from mapjax.errors import UserError
from mapjax.models.backbones import googlenet
from mapjax.ops.images import normalize

IMAGES = jax.ShapeDtypeStruct((2, 85, 100, 3), jnp.float32)
KEY = jax.random.key(0)
SMALL = {"width": 0.125, "classes": 5}


def shapes_of(model, images=IMAGES, train=False, key=KEY):
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=key), variables, images)
    return variables, outputs, stats


@pytest.mark.parametrize(("aux", "count"), [(True, 13_004_888), (False, 6_624_904)])
def test_parameter_counts(aux, count):
    variables, _, _ = shapes_of(googlenet.make(aux=aux, classes=1000))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_features_by_name():
    _, outputs, _ = shapes_of(googlenet.make(classes=7))
    maps = {
        "conv1": (43, 50, 64),
        "conv3": (21, 25, 192),
        "inception3a": (10, 12, 256),
        "inception3b": (10, 12, 480),
        "inception4a": (5, 6, 512),
        "inception4b": (5, 6, 512),
        "inception4c": (5, 6, 512),
        "inception4d": (5, 6, 528),
        "inception4e": (5, 6, 832),
        "inception5a": (3, 3, 832),
        "inception5b": (3, 3, 1024),
    }
    expected = {name: (2, *shape) for name, shape in maps.items()} | {"pool": (2, 1024), "logits": (2, 7)}
    assert {name: value.shape for name, value in outputs.items()} == expected


@pytest.mark.parametrize(
    ("classes", "aux", "train", "found"),
    [
        (5, True, True, {"logits", "aux1", "aux2"}),
        (5, False, True, {"logits"}),
        (None, True, True, set()),
    ],
)
def test_auxiliary_logits_in_training_only(classes, aux, train, found):
    variables, outputs, stats = shapes_of(googlenet.make(width=0.125, classes=classes, aux=aux), train=train)
    assert {name for name in outputs if name == "logits" or name.startswith("aux")} == found
    assert all(outputs[name].shape == (2, 5) and outputs[name].dtype == jnp.float32 for name in found)
    assert ("aux1" in variables["params"]) == (aux and classes is not None)
    assert ("fc" in variables["params"]) == (classes is not None)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])


def test_names_are_those_of_torchvision():
    variables, _, _ = shapes_of(googlenet.make(**SMALL))
    names = paths.paths(variables["params"])
    assert {
        "conv1/conv/kernel",
        "inception3a/branch1/bn/scale",
        "inception4e/branch3/1/conv/kernel",
        "inception5b/branch4/1/bn/bias",
        "aux1/fc1/map_kernel",
        "aux2/conv/conv/kernel",
        "fc/bias",
    } <= set(names)
    assert not any(name.startswith("inception3a/branch4/0") for name in names)  # that is its pool


def test_lower_precision_keeps_parameters_statistics_pool_and_logits_in_float32():
    model = googlenet.make(dtype="bfloat16", transform_input=True, **SMALL)
    variables, outputs, stats = shapes_of(model, train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    kept = {name for name, value in outputs.items() if value.dtype == jnp.float32}
    assert kept == {"pool", "logits", "aux1", "aux2"}
    assert {outputs[name].dtype for name in set(outputs) - kept} == {jnp.dtype("bfloat16")}


def test_transform_input_gives_values_between_minus_one_and_one():
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    found = googlenet.to_symmetric(normalize(jnp.asarray(image)))
    np.testing.assert_allclose(found, image / 127.5 - 1, atol=1e-5)


@pytest.mark.parametrize("transform_input", [False, True])
def test_transform_input_reaches_the_first_convolution(transform_input):
    model = googlenet.make(width=0.125, transform_input=transform_input)
    images = np.random.default_rng(0).normal(size=(1, 15, 15, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0, 1, leaf.shape), jnp.float32), shapes)
    found = jax.jit(lambda v, x: model.apply(v, x)[0]["conv1"])(variables, images)
    if transform_input:
        images = images * [0.458, 0.448, 0.45] + [-0.03, -0.088, -0.188]
    window = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))[0, 4:11, 6:13]  # of the pixel at row 2, column 3
    kernel = np.asarray(variables["params"]["conv1"]["conv"]["kernel"])
    affine, stats = variables["params"]["conv1"]["bn"], variables["stats"]["conv1"]["bn"]
    value = np.einsum("ijc,ijcd->d", window, kernel)
    value = (value - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * affine["scale"] + affine["bias"]
    np.testing.assert_allclose(found[0, 2, 3], np.maximum(value, 0), rtol=1e-4, atol=1e-4)


def test_dropout_in_training_only_and_from_the_key():
    head = googlenet.Auxiliary(classes=3, width=0.0625)
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))
    variables = jax.jit(lambda x: head.init(jax.random.key(0), x, False))(x)

    @partial(jax.jit, static_argnums=1)
    def run(seed, train):
        return head.apply(variables, x, train, rngs={"dropout": jax.random.key(seed)}, mutable=["stats"])[0]

    assert_draws_in_training_only(run)


@pytest.mark.parametrize(("dropout", "dropout_aux"), [(0.0, 0.5), (0.5, 0.0)])
def test_each_dropout_draws_in_training(dropout, dropout_aux):
    with pytest.raises(flax.errors.InvalidRngError):
        shapes_of(googlenet.make(dropout=dropout, dropout_aux=dropout_aux, **SMALL), train=True, key=None)


def test_remat_of_the_network_has_the_same_variables():
    plain, again = (googlenet.make(**SMALL, remat=flag) for flag in (False, True))
    shapes = jax.eval_shape(plain.init, jax.random.key(0), IMAGES)
    assert shapes == jax.eval_shape(again.init, jax.random.key(0), IMAGES)
    jaxpr = jax.make_jaxpr(lambda v, x: again.apply(v, x)[0]["pool"])(shapes, IMAGES)
    assert str(jaxpr).count("remat") >= len(googlenet.BLOCKS)


def test_a_image_too_small():
    with pytest.raises(UserError, match=r"googlenet needs images of 15×15 pixels or more, not 14×90"):
        shapes_of(googlenet.make(**SMALL), jax.ShapeDtypeStruct((1, 14, 90, 3), jnp.float32))
