"""Sizes, strides and options; values are compared with torchvision's in test_parity_torchvision.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths
from mapjax.errors import UserError
from mapjax.models.backbones import resnet

IMAGES = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
SMALL = {"depth": 18, "width": 0.0625}  # 4 to 32 channels


def shapes_of(model, images=IMAGES):
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=None), variables, images)
    return variables, outputs, stats


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)]
)
def test_parameter_counts(depth, count):
    model = resnet.make(depth=depth, classes=1000)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize(("depth", "wider"), [(18, 1), (50, 4)])
def test_features_by_name(depth, wider):
    _, outputs, _ = shapes_of(resnet.make(depth=depth, classes=7), jax.ShapeDtypeStruct((2, 65, 96, 3), jnp.float32))
    assert {name: value.shape for name, value in outputs.items()} == {
        "stem": (2, 33, 48, 64),
        "layer1": (2, 17, 24, 64 * wider),
        "layer2": (2, 9, 12, 128 * wider),
        "layer3": (2, 5, 6, 256 * wider),
        "layer4": (2, 3, 3, 512 * wider),
        "pool": (2, 512 * wider),
        "logits": (2, 7),
    }
    _, outputs, _ = shapes_of(resnet.make(depth=depth, width=0.5))
    assert outputs["pool"].shape == (2, 256 * wider)
    assert "logits" not in outputs and outputs["layer4"].shape == (2, 2, 3, 256 * wider)


@pytest.mark.parametrize(
    ("depth", "groups", "width_per_group", "count"),
    [
        (50, 32, 4, 25_028_904),
        (101, 32, 8, 88_791_336),
        (101, 64, 4, 83_455_272),
        (50, 1, 128, 68_883_240),
        (101, 1, 128, 126_886_696),
    ],
)
def test_parameter_counts_of_resnext_and_wide_resnet(depth, groups, width_per_group, count):
    model = resnet.make(depth=depth, groups=groups, width_per_group=width_per_group, classes=1000)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    inner = variables["params"]["layer2"]["0"]["conv2"]["kernel"]
    assert inner.shape == (3, 3, 2 * width_per_group, 2 * groups * width_per_group)


def test_small_stem_keeps_the_resolution():
    variables, outputs, _ = shapes_of(
        resnet.make(stem="small", **SMALL), jax.ShapeDtypeStruct((2, 33, 32, 3), "float32")
    )
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 4)
    assert {name: value.shape[1:3] for name, value in outputs.items() if name != "pool"} == {
        "stem": (33, 32),
        "layer1": (33, 32),
        "layer2": (17, 16),
        "layer3": (9, 8),
        "layer4": (5, 4),
    }


@pytest.mark.parametrize("depth", [18, 50])
def test_output_strides(depth):
    images = jax.ShapeDtypeStruct((2, 65, 96, 3), "float32")
    found = {}
    for stride in (32, 16, 8):
        variables, outputs, _ = shapes_of(resnet.make(depth=depth, width=0.0625, output_stride=stride), images)
        found[stride] = [outputs[f"layer{i}"].shape[1:3] for i in range(1, 5)]
        counts = [leaf.shape for leaf in jax.tree.leaves(variables)]
        assert found.setdefault("variables", counts) == counts
    assert found[32] == [(17, 24), (9, 12), (5, 6), (3, 3)]
    assert found[16] == [(17, 24), (9, 12), (5, 6), (5, 6)]
    assert found[8] == [(17, 24), (9, 12), (9, 12), (9, 12)]


def test_stages_are_the_first_of_the_whole_network():
    images = jax.ShapeDtypeStruct((2, 65, 96, 3), "float32")
    whole, every, _ = shapes_of(resnet.make(depth=18, width=0.0625), images)
    part, outputs, _ = shapes_of(resnet.make(depth=18, width=0.0625, stages=2), images)
    assert set(outputs) == {"stem", "layer1", "layer2", "pool"} and outputs["pool"].shape == (2, 8)
    assert all(outputs[name].shape == every[name].shape for name in ("stem", "layer1", "layer2"))
    later = {"layer3", "layer4"}
    assert part["params"] == {name: leaf for name, leaf in whole["params"].items() if name not in later}


def test_names_are_those_of_torchvision():
    variables, _, _ = shapes_of(resnet.make(depth=50, classes=7))
    names = paths.paths(variables["params"])
    assert {"conv1/kernel", "bn1/scale", "layer1/0/downsample/0/kernel", "layer4/2/bn3/bias", "fc/bias"} <= set(names)
    assert not any("layer1/1/downsample" in name for name in names)
    assert {name.split("/")[-1] for name in paths.paths(variables["stats"])} == {"mean", "var"}


@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_statistics_of_each_norm(norm):
    variables, _, stats = shapes_of(resnet.make(norm=norm, **SMALL))
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    last = {name.split("/")[-1] for name in paths.paths(variables["stats"])}
    assert last == {"batch": {"mean", "var"}, "frozen": {"mean", "var", "scale", "bias"}, "group": set()}[norm]
    affine = {name.split("/")[-1] for name in paths.paths(variables["params"])}
    assert affine == ({"kernel"} if norm == "frozen" else {"kernel", "scale", "bias"})


def test_lower_precision_keeps_parameters_and_logits_in_float32():
    variables, outputs, stats = shapes_of(resnet.make(dtype="bfloat16", classes=7, **SMALL))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    assert outputs["layer4"].dtype == jnp.bfloat16 and outputs["logits"].dtype == jnp.float32


def stage(features=4, **options):
    norm = {"kind": "batch", "epsilon": 1e-5}
    return resnet.Stage(blocks=1, features=features, stride=1, bottleneck=False, norm=norm, **options)


def start(module, x):
    return jax.jit(lambda x: module.init(jax.random.key(0), x, False))(x)


def test_initial_kernels_keep_the_variance():
    params = start(stage(features=64), jnp.zeros((1, 4, 4, 64)))["params"]["0"]
    np.testing.assert_allclose(np.std(params["conv1"]["kernel"]), np.sqrt(2 / (9 * 64)), rtol=0.02)  # He et al. 2015
    assert (params["bn1"]["scale"] == 1).all() and (params["bn2"]["scale"] == 1).all()


def test_zero_init_starts_as_the_identity():
    x = jnp.abs(jax.random.normal(jax.random.key(1), (2, 5, 6, 4)))
    module = stage(zero_init=True)
    variables = start(module, x)
    np.testing.assert_array_equal(jax.jit(lambda v, x: module.apply(v, x, False))(variables, x), x)
    assert (variables["params"]["0"]["bn1"]["scale"] == 1).all()


def test_remat_changes_no_value():
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 4))
    variables = start(stage(), x)

    def value_and_gradient(module):
        def value(params, x):
            y, stats = module.apply({"params": params, "stats": variables["stats"]}, x, True, mutable=["stats"])
            return jnp.sum(jnp.square(y)), stats

        return jax.jit(jax.value_and_grad(value, has_aux=True))(variables["params"], x)

    plain, again = value_and_gradient(stage()), value_and_gradient(stage(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


def test_statistics_come_back_unchanged_without_train():
    model = resnet.make(**SMALL)

    def run(variables, x):
        _, stats = model.apply(variables, x, train=False, key=None)
        jax.tree.map(lambda new, old: pytest.fail("a new array") if new is not old else None, stats, variables["stats"])

    jax.eval_shape(run, jax.eval_shape(model.init, jax.random.key(0), IMAGES), IMAGES)


def test_mistakes():
    with pytest.raises(UserError, match=r"depth=20 does not exist: choose one of 18, 34, 50, 101, 152"):
        resnet.make(depth=20)
    with pytest.raises(UserError, match=r"no norm='bach'\. Did you mean 'batch'"):
        resnet.make(norm="bach")
    with pytest.raises(UserError, match=r"no stem='smal'\. Did you mean 'small'"):
        resnet.make(stem="smal")
    with pytest.raises(UserError, match=r"groups and width_per_group are of bottlenecks, which depth=34 has none of"):
        resnet.make(depth=34, groups=32)
    for options in ({"output_stride": 4}, {"output_stride": 8, "stem": "small"}):
        with pytest.raises(UserError, match=r"output_stride=. must be 32, 16 or 8, and 32 with stem='small'"):
            resnet.make(depth=50, **options)
    with pytest.raises(UserError, match=r"stages=5 must be 1, 2, 3 or 4"):
        resnet.make(depth=50, stages=5)
