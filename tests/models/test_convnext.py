"""Sizes, strides and options; values are compared with torchvision's in test_parity_convnext.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import weights
from mapjax.errors import UserError
from mapjax.models.backbones import convnext

IMAGES = jax.ShapeDtypeStruct((2, 65, 98, 3), jnp.float32)
TINY = {"depths": (1, 2), "widths": (4, 8), "layer_scale": 0.5}


def shapes_of(model, images=IMAGES):
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None)[0], variables, images)


@pytest.mark.parametrize(
    ("variant", "count"),
    [("tiny", 28_589_128), ("small", 50_223_688), ("base", 88_591_464), ("large", 197_767_336)],
)
def test_parameter_counts(variant, count):
    model = convnext.make(variant=variant, classes=1000)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    assert variables["stats"] == {}


def test_features_by_name():
    variables, outputs = shapes_of(convnext.make(depths=(1, 1, 1, 1), classes=7))
    assert {name: value.shape for name, value in outputs.items()} == {
        "stem": (2, 16, 24, 96),
        "layer1": (2, 16, 24, 96),
        "layer2": (2, 8, 12, 192),
        "layer3": (2, 4, 6, 384),
        "layer4": (2, 2, 3, 768),
        "pool": (2, 768),
        "logits": (2, 7),
    }
    without, outputs = shapes_of(convnext.make(depths=(1, 1, 1, 1)))
    assert set(variables["params"]) - set(without["params"]) == {"classifier"}
    assert "logits" not in outputs and outputs["pool"].shape == (2, 768)


def test_names_are_those_of_torchvision():
    model = convnext.make(classes=7, **TINY)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes_of(model)[0])
    tensors = weights.to_torchvision(variables)
    shapes = {name: tensor.shape for name, tensor in tensors.items() if not name.endswith("bias")}
    block = {"layer_scale": (8, 1, 1), "block.0.weight": (8, 1, 7, 7), "block.2.weight": (8,)}
    block |= {"block.3.weight": (32, 8), "block.5.weight": (8, 32)}
    assert {name: shape for name, shape in shapes.items() if name.startswith("features.3.1.")} == {
        f"features.3.1.{name}": shape for name, shape in block.items()
    }
    assert {name: shape for name, shape in shapes.items() if not name.startswith(("features.1.", "features.3."))} == {
        "features.0.0.weight": (4, 3, 4, 4),
        "features.0.1.weight": (4,),
        "features.2.0.weight": (4,),
        "features.2.1.weight": (8, 4, 2, 2),
        "classifier.0.weight": (8,),
        "classifier.2.weight": (7, 8),
    }


def test_lower_precision_keeps_parameters_and_logits_in_float32():
    variables, outputs = shapes_of(convnext.make(dtype="bfloat16", classes=7, **TINY))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert outputs["stem"].dtype == outputs["layer2"].dtype == jnp.bfloat16
    assert outputs["pool"].dtype == outputs["logits"].dtype == jnp.float32


def stage_and_variables(x, rates, **options):
    """A stage with a scale that shows, and random variables."""
    stage = convnext.Stage(rates=rates, layer_scale=1.0, **options)
    shapes = jax.eval_shape(lambda x: stage.init(jax.random.key(0), x, False), x)
    rng = np.random.default_rng(0)
    return stage, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, jnp.float32), shapes)


def test_stochastic_depth_in_training_only_and_from_the_key():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(16, 3, 4, 4)), jnp.float32)
    stage, variables = stage_and_variables(x, (0.25,))
    run = jax.jit(lambda x, key: stage.apply(variables, x, True, rngs={"dropout": key}))
    first, again, other = (np.asarray(run(x, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    branch = np.asarray(jax.jit(lambda x: stage.apply(variables, x, False))(x)) - np.asarray(x)
    for found in (first, other):
        kept = np.abs(found - x).max((1, 2, 3)) > 0
        assert 0 < kept.sum() < 16
        np.testing.assert_allclose((found - x)[kept], branch[kept] / 0.75, rtol=1e-3, atol=1e-5)
    assert (first != other).any()


def test_rates_rise_linearly_over_all_blocks(monkeypatch):
    rates = []
    monkeypatch.setattr(
        convnext.StochasticDepth, "__call__", lambda self, x, train: (rates.append(self.rate), x)[1], raising=True
    )
    shapes_of(convnext.make(depths=(1, 2, 1, 1), widths=(4, 4, 4, 4)))
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1])


def test_remat_changes_no_value():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4, 4)), jnp.float32)

    def value_and_gradient(remat):
        stage, variables = stage_and_variables(x, (0.5,), remat=remat)

        def value(variables):
            return jnp.sum(jnp.square(stage.apply(variables, x, True, rngs={"dropout": jax.random.key(2)})))

        return jax.jit(jax.value_and_grad(value))(variables)

    plain, again = value_and_gradient(False), value_and_gradient(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


def test_initial_values():
    variables = convnext.make(depths=(1,), widths=(64,)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
    block = variables["params"]["features"]["1"]["0"]
    np.testing.assert_allclose(np.std(block["block"]["3"]["kernel"]), 0.02, rtol=0.03)
    np.testing.assert_array_equal(block["layer_scale"], np.full(64, 1e-6, np.float32))


def test_mistakes():
    with pytest.raises(UserError, match=r"no variant='tini'\. Did you mean 'tiny'"):
        convnext.make(variant="tini")
    with pytest.raises(UserError, match=r"as many depths as widths, a pair for each stage; found \(3, 3\)"):
        convnext.make(depths=(3, 3))
