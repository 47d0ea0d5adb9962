"""Sizes, strides and options; values are compared with torchvision's in test_parity_classic.py."""

from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import assert_draws_in_training_only

from mapjax import paths as tree
from mapjax.errors import UserError
from mapjax.models.backbones import vgg

IMAGES = jax.ShapeDtypeStruct((2, 65, 98, 3), jnp.float32)
KEY = jax.random.key(0)
SMALL = {"depth": 11, "width": 0.0625, "classes": 5}  # 4 to 32 channels


def shapes_of(model, images=IMAGES, train=False, key=KEY):
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=key), variables, images)
    return variables, outputs, stats


@pytest.mark.parametrize(
    ("depth", "batch_norm", "count"),
    [
        (11, False, 132_863_336),
        (11, True, 132_868_840),
        (13, False, 133_047_848),
        (13, True, 133_053_736),
        (16, False, 138_357_544),
        (16, True, 138_365_992),
        (19, False, 143_667_240),
        (19, True, 143_678_248),
    ],
)
def test_parameter_counts(depth, batch_norm, count):
    variables, _, _ = shapes_of(vgg.make(depth=depth, batch_norm=batch_norm, classes=1000))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("batch_norm", [False, True])
def test_features_by_name(batch_norm):
    _, outputs, _ = shapes_of(vgg.make(depth=16, batch_norm=batch_norm, classes=7))
    assert {name: value.shape for name, value in outputs.items()} == {
        "stage1": (2, 65, 98, 64),
        "pool1": (2, 32, 49, 64),
        "stage2": (2, 32, 49, 128),
        "pool2": (2, 16, 24, 128),
        "stage3": (2, 16, 24, 256),
        "pool3": (2, 8, 12, 256),
        "stage4": (2, 8, 12, 512),
        "pool4": (2, 4, 6, 512),
        "stage5": (2, 4, 6, 512),
        "pool5": (2, 2, 3, 512),
        "pool": (2, 7 * 7 * 512),
        "fc6": (2, 4096),
        "fc7": (2, 4096),
        "logits": (2, 7),
    }


def test_without_classes_there_is_no_classifier():
    variables, outputs, _ = shapes_of(vgg.make(width=0.0625))
    assert set(variables["params"]) == {"features"}
    assert "pool" in outputs and "logits" not in outputs


@pytest.mark.parametrize(
    ("batch_norm", "convolutions"), [(False, (0, 3, 6, 8, 11, 13, 16, 18)), (True, (0, 4, 8, 11, 15, 18, 22, 25))]
)
def test_names_are_those_of_torchvision(batch_norm, convolutions):
    variables, _, stats = shapes_of(vgg.make(batch_norm=batch_norm, **SMALL))
    paths = tree.paths(variables["params"])
    assert {path for path in paths if path.endswith("kernel") and path.startswith("features")} == {
        f"features/{i}/kernel" for i in convolutions
    }
    normalizations = {f"features/{i + 1}" for i in convolutions} if batch_norm else set()
    assert {path.removesuffix("/scale") for path in paths if path.endswith("scale")} == normalizations
    assert {path.rpartition("/")[0] for path in tree.paths(stats)} == normalizations


def test_lower_precision_keeps_parameters_statistics_pool_and_logits_in_float32():
    variables, outputs, stats = shapes_of(vgg.make(dtype="bfloat16", batch_norm=True, **SMALL), train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    kept = {name for name, value in outputs.items() if value.dtype == jnp.float32}
    assert kept == {"pool", "logits"} and outputs["stage5"].dtype == outputs["fc7"].dtype == jnp.bfloat16


def test_initial_kernels():
    x = jnp.zeros((1, 7, 7, 8))
    params = jax.jit(lambda x: vgg.Classifier(hidden=64, classes=100).init(KEY, x, False))(x)["params"]
    for layer, kernel in (("0", "map_kernel"), ("3", "kernel"), ("6", "kernel")):
        np.testing.assert_allclose(np.std(params[layer][kernel]), 0.01, rtol=0.05)
        assert (params[layer]["bias"] == 0).all()


def test_dropout_in_training_only_and_from_the_key():
    head = vgg.Classifier(hidden=16, classes=3)
    x = jax.random.normal(jax.random.key(1), (2, 2, 2, 4))
    variables = jax.jit(lambda x: head.init(jax.random.key(0), x, False))(x)

    @partial(jax.jit, static_argnums=1)
    def run(seed, train):
        return head.apply(variables, x, train, rngs={"dropout": jax.random.key(seed)})["logits"]

    assert_draws_in_training_only(run)


def test_the_network_draws_in_training_only():
    model = vgg.make(**SMALL)
    shapes_of(model, train=False, key=None)
    with pytest.raises(flax.errors.InvalidRngError):
        shapes_of(model, train=True, key=None)


def test_remat_changes_no_value():
    x = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    options = {"depth": 11, "width": 0.0625, "batch_norm": True}
    shapes = jax.eval_shape(lambda x: vgg.Features(**options).init(jax.random.key(0), x, False), x)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)

    def gradient(module):
        def value(params):
            outputs, changed = module.apply({**variables, "params": params}, x, True, mutable=["stats"])
            return jnp.square(outputs["stage2"]).sum(), changed

        return jax.jit(jax.grad(value, has_aux=True))

    plain, again = (gradient(vgg.Features(**options, remat=flag)) for flag in (False, True))
    found, expected = again(variables["params"]), plain(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected)
    assert "remat" in str(jax.make_jaxpr(again)(variables["params"]))


def test_mistakes():
    with pytest.raises(UserError, match=r"depth=12 does not exist: choose one of 11, 13, 16, 19"):
        vgg.make(depth=12)
    shapes_of(vgg.make(**SMALL), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    with pytest.raises(UserError, match=r"vgg needs images of 32×32 pixels or more, not 90×31"):
        shapes_of(vgg.make(**SMALL), jax.ShapeDtypeStruct((1, 90, 31, 3), jnp.float32))
