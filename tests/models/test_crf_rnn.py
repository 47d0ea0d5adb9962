"""The composition: trees, names, sizes, what the start does, that it is trained, and how weights get into it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mapjax import weights
from mapjax.config import keys
from mapjax.errors import UserError
from mapjax.models.layers import Conv, ConvNorm, Dropout, model_of
from mapjax.models.segmenters import crf_rnn
from mapjax.ops.mean_field import Kernels
from mapjax.weights import transfer

SOURCE = """
from mapjax.models.layers import Conv, model_of
import flax.linen as nn

class Small(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images, train):
        return {"map_logits": Conv(self.classes, stride=2, name="classifier")(images)}

def make(*, classes, dtype, image_size, wide=3):
    assert (dtype, image_size) == ("float32", (9, 10))
    return model_of(Small(classes))
"""


class Small(nn.Module):
    """Stride 4; features, an auxiliary answer, statistics and dropout, as a network of segmentation has them."""

    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train):
        x = ConvNorm(6, stride=4, dtype=self.dtype, name="layer1")(images, train)
        x = Dropout(0.5)(x, train)
        return {
            "layer1": x,
            "map_logits": Conv(self.classes, 1, dtype=self.dtype, name="classifier")(x),
            "aux_map_logits": Conv(self.classes, 1, dtype=self.dtype, name="aux_classifier")(x),
        }


def alone(classes=3, dtype=jnp.float32):
    return model_of(Small(classes, dtype), heads=("^(aux_)?classifier/",))


def small(classes=3, iterations=2, dtype=jnp.float32):
    return crf_rnn.refined(alone(classes, dtype), Kernels(), iterations=iterations, classes=classes)


def images(*size, batch=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, *size, 3)), jnp.float32)


@pytest.mark.parametrize("size", [(21, 34), (3, 5), (16, 16)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_by_name_at_any_size(size, dtype):
    model = small(dtype=jnp.dtype(dtype))
    variables = jax.eval_shape(model.init, jax.random.key(0), images(*size))
    outputs, stats = jax.eval_shape(
        lambda v, x, key: model.apply(v, x, train=True, key=key), variables, images(*size), jax.random.key(1)
    )
    coarse = (2, -(-size[0] // 4), -(-size[1] // 4))
    assert {name: (value.shape, value.dtype.name) for name, value in outputs.items()} == {
        "layer1": ((*coarse, 6), dtype),
        "aux_map_logits": ((*coarse, 3), dtype),
        "unary_map_logits": ((*coarse, 3), dtype),
        "map_logits": ((2, *size, 3), "float32"),
    }
    assert set(variables["params"]) == {"unary", "crf"} and set(stats) == {"unary"}
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["crf"])) == 3 + 3 + 3 * 3


def test_without_iterations_it_is_the_network_enlarged():
    model, x = small(iterations=0), images(16, 24)
    variables = model.init(jax.random.key(0), x)
    outputs, stats = jax.jit(lambda v, x: model.apply(v, x))(variables, x)
    coarse, fine = outputs["unary_map_logits"], outputs["map_logits"]
    # Between the centres of two cells, 4 pixels apart, bilinear values are on a line; beyond the last they stay.
    np.testing.assert_allclose(fine[:, 0, 0], coarse[:, 0, 0], rtol=1e-5, atol=1e-6)
    expected = 0.625 * coarse[:, 0, 1] + 0.375 * coarse[:, 0, 2]
    np.testing.assert_allclose(fine[:, 0, 7], expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["stats"])


def test_the_start_turns_ties_and_leaves_certain_pixels():
    """An image of two halves; the network is certain of most pixels, right or wrong, and has no opinion of some."""
    rng = np.random.default_rng(0)
    truth = np.arange(32)[None] // 16 * np.ones((32, 1), int)
    image = jnp.asarray((truth[..., None] * 2 - 1) + 0.1 * rng.normal(size=(32, 32, 3)), jnp.float32)[None]
    known = rng.random((32, 32)) < 0.5
    logits = jnp.asarray(np.eye(2)[truth] * 8 * known[..., None], jnp.float32)
    logits = logits.at[5, 5].set(jnp.array([0.0, 8.0]))[None]
    model = crf_rnn.refined(model_of(Fixed(2)), Kernels(), iterations=5, classes=2)
    variables = model.init(jax.random.key(0), image)
    variables["params"]["unary"]["map_logits"] = logits
    found = np.asarray(jax.jit(lambda v, x: model.apply(v, x)[0]["map_logits"])(variables, image))[0]
    right = found.argmax(-1) == truth
    assert right[~known].mean() > 0.99 and not right[5, 5]
    assert np.abs(found - logits[0]).max() <= crf_rnn.BILATERAL + crf_rnn.SPATIAL


class Fixed(nn.Module):
    """Answers with a parameter."""

    classes: int

    @nn.compact
    def __call__(self, images, train):
        shape = (*images.shape[:3], self.classes)
        return {"map_logits": self.param("map_logits", nn.initializers.zeros, shape)}


def test_all_of_it_is_trained():
    model, x = small(), images(12, 16)
    variables, truth = model.init(jax.random.key(0), x), jnp.asarray(x[..., 0] > 0, jnp.int32)

    @jax.jit
    def gradient(variables, key):
        def loss(params):
            outputs, stats = model.apply({**variables, "params": params}, x, train=True, key=key)
            return optax.softmax_cross_entropy_with_integer_labels(outputs["map_logits"], truth).mean(), stats

        return jax.grad(loss, has_aux=True)(variables["params"])

    found, stats = gradient(variables, jax.random.key(1))
    del found["unary"]["aux_classifier"]  # no term of this loss
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
    assert not np.array_equal(stats["unary"]["layer1"]["1"]["mean"], variables["stats"]["unary"]["layer1"]["1"]["mean"])
    other, _ = gradient(variables, jax.random.key(2))
    assert not np.allclose(found["unary"]["layer1"]["0"]["kernel"], other["unary"]["layer1"]["0"]["kernel"])  # dropout


def random_variables(model, seed=0):
    shapes = jax.eval_shape(model.init, jax.random.key(0), images(8, 8))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_run_of_the_network_alone_fits_inside():
    theirs, ours = random_variables(alone(), seed=1), random_variables(small(3))
    found = transfer.fit_in(weights.to_torchvision(theirs), ours, "file")
    for kind in ("params", "stats"):
        equal(found.variables[kind]["unary"], theirs[kind])
    equal(found.variables["params"]["crf"], ours["params"]["crf"])
    assert found.fresh == ["crf.compatibility", "crf.log_bilateral", "crf.log_spatial"] and not found.unused


def test_a_classifier_fits_as_the_backbone_of_the_network():
    theirs = random_variables(alone(), seed=1)
    ours = random_variables(small(3))
    for kind in ("params", "stats"):
        ours[kind]["unary"] = {"backbone": ours[kind]["unary"]}
    ours["params"]["unary"]["up1"] = {"kernel": np.zeros((1, 1, 2, 2), np.float32)}
    found = transfer.fit_in(weights.to_torchvision(theirs), ours, "file")
    equal(found.variables["params"]["unary"]["backbone"], theirs["params"])
    equal(found.variables["params"]["unary"]["up1"], ours["params"]["unary"]["up1"])


def test_a_run_of_it_fits_into_one_of_other_classes():
    theirs, ours = random_variables(small(4), seed=1), random_variables(small(3))
    found = transfer.fit_in(weights.to_torchvision(theirs), ours, "file", heads=small().heads)
    equal(found.variables["params"]["unary"]["layer1"], theirs["params"]["unary"]["layer1"])
    equal(found.variables["params"]["crf"], ours["params"]["crf"])
    assert set(found.resized) >= {"crf.compatibility", "unary.classifier.weight"}


def test_weights_of_it_go_out_and_come_back():
    variables = random_variables(small())
    equal(weights.from_torchvision(weights.to_torchvision(variables), variables), variables)


def test_the_network_is_a_node_of_the_config(tmp_path, monkeypatch):
    (tmp_path / "small_nets").mkdir()
    (tmp_path / "small_nets" / "net.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    node = {"name": "small_nets.net"}
    model = crf_rnn.make(unary=node, iterations=1, classes=4, image_size=(9, 10))
    variables = jax.eval_shape(model.init, jax.random.key(0), images(9, 10))
    outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x), variables, images(9, 10))
    assert outputs["map_logits"].shape == (2, 9, 10, 4)
    assert variables["params"]["unary"]["classifier"]["kernel"].shape == (3, 3, 3, 4)
    listed = keys.optional({"model": {"name": "crf_rnn", "unary": node, "colour": 0.5}})
    assert listed["model.unary.wide"] == 3 and listed["model.reach"] == 3
    assert not {"model.colour", "model.unary.classes", "model.image_size"} & set(listed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": -1}, r"iterations=-1 must be 0 or more"),
        ({"stride": 0}, r"stride=0 must be 1 or more"),
        ({"reach": -1}, r"reach=-1 must be 0 or more"),
        ({"colour": 0.0}, r"colour=0\.0 is a standard deviation; it must be above 0"),
        ({"unary": {"name": "tiny", "classes": 3}}, r"its unary takes no 'classes'"),
        ({"unary": {"name": "tinny"}}, r"Did you mean 'tiny'"),
    ],
)
def test_options_out_of_range(changes, message):
    with pytest.raises(UserError, match=message):
        crf_rnn.make(**{"unary": {"name": "tiny"}, "classes": 3, **changes})


def test_a_network_that_gives_no_map():
    model, x = crf_rnn.make(unary={"name": "tiny"}, classes=3), images(8, 8)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    with pytest.raises(UserError, match=r"'tiny' gives no 'map_logits' to refine; choose a network of segmentation"):
        jax.eval_shape(lambda v, x: model.apply(v, x), variables, x)
