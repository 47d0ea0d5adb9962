"""Sizes, strides and options; values are compared with torchvision's in test_parity_mobilenet.py."""

import jax
import jax.numpy as jnp
import pytest

from mapjax import paths
from mapjax.errors import UserError
from mapjax.models.backbones import mobilenet

IMAGES = jax.ShapeDtypeStruct((2, 65, 96, 3), jnp.float32)


def shapes_of(model, train=False):
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    run = lambda v, x: model.apply(v, x, train=train, key=jax.random.key(1))  # noqa: E731
    outputs, stats = jax.eval_shape(run, variables, IMAGES)
    return variables, outputs, stats


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"version": 1}, 4_231_976),
        ({"version": 1, "width": 0.5}, 1_331_592),
        ({"version": 1, "width": 0.25}, 470_072),
        ({"version": 2}, 3_504_872),
        ({"version": 2, "width": 0.5}, 1_968_680),
        ({"version": 2, "width": 1.4}, 6_108_776),
        ({"version": 3}, 5_483_032),
        ({"version": 3, "size": "large", "width": 0.75}, 3_377_576),
        ({"version": 3, "size": "small"}, 2_542_856),
        ({"version": 3, "size": "small", "width": 0.75}, 1_653_920),
    ],
)
def test_parameter_counts(options, count):
    variables = jax.eval_shape(mobilenet.make(classes=1000, **options).init, jax.random.key(0), IMAGES)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize(
    ("options", "strides", "channels", "pool"),
    [
        ({"version": 1}, (2, 2, 4, 8, 16, 32), (32, 64, 128, 256, 512, 1024), 1024),
        ({"version": 2}, (2, 2, 4, 8, 16, 16, 32, 32, 32), (32, 16, 24, 32, 64, 96, 160, 320, 1280), 1280),
        ({"version": 3}, (2, 2, 4, 8, 16, 16, 32, 32), (16, 16, 24, 40, 80, 112, 160, 960), 960),
        ({"version": 3, "size": "small"}, (2, 4, 8, 16, 16, 32, 32), (16, 16, 24, 40, 48, 96, 576), 576),
    ],
)
def test_features_by_name(options, strides, channels, pool):
    _, outputs, _ = shapes_of(mobilenet.make(classes=7, **options))
    stages = len(strides) - (1 if options["version"] == 1 else 2)
    names = ["stem", *[f"stage{i + 1}" for i in range(stages)], *(["head"] if options["version"] > 1 else [])]
    maps = {name: (2, -(-65 // s), -(-96 // s), c) for name, s, c in zip(names, strides, channels, strict=True)}
    expected = {**maps, "pool": (2, pool), "logits": (2, 7)}
    assert {name: value.shape for name, value in outputs.items()} == expected


@pytest.mark.parametrize("version", [1, 2, 3])
def test_without_classes_there_is_no_classifier(version):
    variables, outputs, _ = shapes_of(mobilenet.make(version=version, width=0.25))
    assert "logits" not in outputs and "classifier" not in variables["params"]


NAMES = {
    1: {"conv_stem/kernel", "blocks/3/5/bn2/scale", "classifier/bias"},
    2: {"features/1/conv/1/kernel", "features/17/conv/3/scale", "classifier/1/kernel"},
    3: {"features/4/block/2/fc1/bias", "features/16/1/scale", "classifier/3/kernel"},
}


@pytest.mark.parametrize("version", NAMES)
def test_names_are_those_of_torchvision_and_of_timm(version):
    model = mobilenet.make(version=version, classes=7)
    assert set(paths.paths(jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"])) >= NAMES[version]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_lower_precision_keeps_parameters_and_logits_in_float32(version):
    variables, outputs, stats = shapes_of(mobilenet.make(version=version, dtype="bfloat16", classes=7), train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    maps = {value.dtype.name for name, value in outputs.items() if name not in ("pool", "logits")}
    assert maps == {"bfloat16"} and outputs["pool"].dtype == outputs["logits"].dtype == jnp.float32


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_statistics_of_each_norm(norm):
    variables, _, _ = shapes_of(mobilenet.make(norm=norm, width=0.25))
    last = {name.split("/")[-1] for name in paths.paths(variables["stats"])}
    assert last == ({"mean", "var", "scale", "bias"} if norm == "frozen" else set())


def test_dilated_and_each_block():
    options = {"version": 3, "size": "large", "width": 0.25}
    variables, outputs, _ = shapes_of(mobilenet.make(dilated=True, blocks=True, **options))
    strided, plain, _ = shapes_of(mobilenet.make(**options))
    assert variables == strided
    assert outputs["stage6"].shape[1:3] == outputs["head"].shape[1:3] == outputs["stage5"].shape[1:3] == (5, 6)
    assert plain["stage6"].shape[1:3] == (3, 3)
    assert {f"block{i}" for i in range(1, 16)} == set(outputs) - set(plain)
    assert outputs["block4"].shape == outputs["stage3"].shape and outputs["block3"].shape == outputs["stage2"].shape
    blocks = mobilenet.v3_blocks("large", 1.0, dilated=True)
    assert [(one.stride, one.dilation) for one in blocks[-1]] == [(1, 2)] * 3
    assert {one.dilation for stage in blocks[:-1] for one in stage} == {1}


def test_mistakes():
    with pytest.raises(UserError, match=r"dilated and blocks are of version 3; version=2 has neither"):
        mobilenet.make(dilated=True)
    with pytest.raises(UserError, match=r"version=4 does not exist: choose 1, 2 or 3"):
        mobilenet.make(version=4)
    with pytest.raises(UserError, match=r"no size='smal'\. Did you mean 'small'"):
        mobilenet.make(version=3, size="smal")
    with pytest.raises(UserError, match=r"size='small' is of version 3"):
        mobilenet.make(version=2, size="small")
    with pytest.raises(UserError, match=r"no norm='bach'\. Did you mean 'batch'"):
        mobilenet.make(norm="bach")
    with pytest.raises(UserError, match=r"no padding='VALID'\. Known: SAME, torch"):
        mobilenet.make(padding="VALID")
