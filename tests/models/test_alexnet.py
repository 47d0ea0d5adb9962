"""Sizes, strides and options; values are compared with torchvision's in test_parity_classic.py."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import pytest
from draws import assert_draws_in_training_only

from mapjax import paths
from mapjax.errors import UserError
from mapjax.models.backbones import alexnet

IMAGES = jax.ShapeDtypeStruct((2, 95, 130, 3), jnp.float32)
KEY = jax.random.key(0)
SMALL = {"width": 0.0625, "classes": 5}  # 4 to 24 channels


def shapes_of(model, images=IMAGES, train=False, key=KEY):
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=key), variables, images)
    return variables, outputs, stats


def test_parameter_count():
    variables, _, stats = shapes_of(alexnet.make(classes=1000))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 61_100_840
    assert stats == {}


def test_features_by_name():
    _, outputs, _ = shapes_of(alexnet.make(classes=7))
    assert {name: value.shape for name, value in outputs.items()} == {
        "conv1": (2, 23, 31, 64),
        "pool1": (2, 11, 15, 64),
        "conv2": (2, 11, 15, 192),
        "pool2": (2, 5, 7, 192),
        "conv3": (2, 5, 7, 384),
        "conv4": (2, 5, 7, 256),
        "conv5": (2, 5, 7, 256),
        "pool5": (2, 2, 3, 256),
        "pool": (2, 6 * 6 * 256),
        "fc6": (2, 4096),
        "fc7": (2, 4096),
        "logits": (2, 7),
    }


def test_without_classes_there_is_no_classifier():
    variables, outputs, _ = shapes_of(alexnet.make(width=0.0625))
    assert set(variables["params"]) == {"features"}
    assert "pool" in outputs and "logits" not in outputs


def test_names_are_those_of_torchvision():
    variables, _, _ = shapes_of(alexnet.make(**SMALL))
    modules = {path.rpartition("/")[0] for path in paths.paths(variables["params"])}
    expected = [f"features/{i}" for i in (0, 3, 6, 8, 10)] + [f"classifier/{i}" for i in (1, 4, 6)]
    assert modules == set(expected)


def test_lower_precision_keeps_parameters_pool_and_logits_in_float32():
    variables, outputs, _ = shapes_of(alexnet.make(dtype="bfloat16", **SMALL))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    kept = {name for name, value in outputs.items() if value.dtype == jnp.float32}
    assert kept == {"pool", "logits"} and outputs["conv5"].dtype == outputs["fc7"].dtype == jnp.bfloat16


def test_dropout_in_training_only_and_from_the_key():
    head = alexnet.Classifier(hidden=16, classes=3)
    x = jax.random.normal(jax.random.key(1), (2, 2, 2, 4))
    variables = jax.jit(lambda x: head.init(jax.random.key(0), x, False))(x)

    @partial(jax.jit, static_argnums=1)
    def run(seed, train):
        return head.apply(variables, x, train, rngs={"dropout": jax.random.key(seed)})["logits"]

    assert_draws_in_training_only(run)


def test_the_network_draws_in_training_only():
    model = alexnet.make(**SMALL)
    shapes_of(model, train=False, key=None)
    with pytest.raises(flax.errors.InvalidRngError):
        shapes_of(model, train=True, key=None)


def test_a_image_too_small():
    shapes_of(alexnet.make(**SMALL), jax.ShapeDtypeStruct((1, 63, 63, 3), jnp.float32))
    with pytest.raises(UserError, match=r"alexnet needs images of 63×63 pixels or more, not 62×90"):
        shapes_of(alexnet.make(**SMALL), jax.ShapeDtypeStruct((1, 62, 90, 3), jnp.float32))
