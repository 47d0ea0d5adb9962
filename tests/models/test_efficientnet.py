"""Sizes, strides and options; values are compared with torchvision's and timm's in test_parity_*.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths
from mapjax.errors import UserError
from mapjax.models.backbones import efficientnet

IMAGES = jax.ShapeDtypeStruct((2, 65, 96, 3), jnp.float32)
TINY = {"width": 0.25, "depth": 0.3}


def shapes_of(model, train=False):
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    run = lambda v, x: model.apply(v, x, train=train, key=jax.random.key(1))  # noqa: E731
    outputs, stats = jax.eval_shape(run, variables, IMAGES)
    return variables, outputs, stats


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("b0", 5_288_548),
        ("b1", 7_794_184),
        ("b2", 9_109_994),
        ("b3", 12_233_232),
        ("b4", 19_341_616),
        ("b5", 30_389_784),
        ("b6", 43_040_704),
        ("b7", 66_347_960),
        ("lite0", 4_652_008),
        ("lite1", 5_416_680),
        ("lite2", 6_092_072),
        ("lite3", 8_197_096),
        ("lite4", 13_006_568),
    ],
)
def test_parameter_counts(variant, count):
    variables = jax.eval_shape(efficientnet.make(variant=variant, classes=1000).init, jax.random.key(0), IMAGES)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("variant", ["b0", "lite0"])
def test_features_by_name(variant):
    variables, outputs, _ = shapes_of(efficientnet.make(variant=variant, classes=7))
    strides = {"stem": 2, "stage1": 2, "stage2": 4, "stage3": 8, "stage4": 16, "stage5": 16, "stage6": 32, "stage7": 32}
    channels = (32, 16, 24, 40, 80, 112, 192, 320)
    maps = {name: (2, -(-65 // s), -(-96 // s), c) for (name, s), c in zip(strides.items(), channels)}
    expected = {**maps, "head": (2, 3, 3, 1280), "pool": (2, 1280), "logits": (2, 7)}
    assert {name: value.shape for name, value in outputs.items()} == expected
    assert any("fc1" in name for name in paths.paths(variables["params"])) == (variant == "b0")  # squeeze-excite


def test_width_and_depth_make_a_tiny_one():
    variables, outputs, _ = shapes_of(efficientnet.make(**TINY))
    assert "logits" not in outputs and "classifier" not in variables["params"]
    assert outputs["stage7"].shape == (2, 3, 3, 80) and set(variables["params"]["features"]["6"]) == {"0", "1"}


def test_names_are_those_of_torchvision():
    names = paths.paths(shapes_of(efficientnet.make(classes=7))[0]["params"])
    assert {"features/0/0/kernel", "features/1/0/block/1/fc1/bias", "features/6/3/block/3/1/scale"} <= set(names)
    assert {"features/8/1/bias", "classifier/1/kernel"} <= set(names)


def test_lower_precision_keeps_parameters_and_logits_in_float32():
    variables, outputs, stats = shapes_of(efficientnet.make(dtype="bfloat16", classes=7, **TINY), train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    assert outputs["stage3"].dtype == jnp.bfloat16 and outputs["logits"].dtype == jnp.float32


@pytest.mark.parametrize("classes", [5, 300])
def test_the_first_scores_are_near_zero_for_few_and_for_many_classes(classes):
    model = efficientnet.make(variant="lite0", classes=classes)
    draw = jax.jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)))["params"]["classifier"]["1"]["kernel"])
    np.testing.assert_allclose(np.asarray(draw(jax.random.key(0))).std(), 0.01, rtol=0.05)


def test_mistakes():
    with pytest.raises(UserError, match=r"no variant='lite_0'\. Did you mean 'lite0'"):
        efficientnet.make(variant="lite_0")
    with pytest.raises(UserError, match=r"no padding='same'\. Did you mean 'SAME'|Known: SAME, torch"):
        efficientnet.make(padding="same")
