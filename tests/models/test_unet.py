"""Sizes, names and options of U-Nets; a small one by hand; any backbone."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_finite_and_everywhere

from mapjax import weights
from mapjax.errors import UserError
from mapjax.models import compose
from mapjax.models.backbones import efficientnet, resnet, vgg
from mapjax.models.segmenters import unet
from mapjax.ops.resize import bilinear, pixel_shuffle
from mapjax.weights import transfer

KEY = jax.random.key(0)
SMALL = {"depth": 2, "width": 4, "classes": 3}
RESNET = {"name": "resnet", "depth": 18, "width": 0.0625}


def shapes_of(model, size, train=False, dtype="float32"):
    images = jax.ShapeDtypeStruct((2, *size, 3), dtype)
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=KEY), variables, images)
    return variables, outputs, stats


def random_variables(model, images, seed=1):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, KEY, images)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (1, 1), (2, 5), (17, 16)])
def test_as_large_as_the_image(size):
    _, outputs, _ = shapes_of(unet.make(depth=4, width=2, classes=5), size)
    assert outputs["map_logits"].shape == (2, *size, 5) and outputs["map_logits"].dtype == jnp.float32
    halved = [tuple(-(-side // 2**i) for side in size) for i in range(5)]
    assert [outputs[f"level{i}"].shape[1:3] for i in range(5)] == halved


@pytest.mark.parametrize("subpixel", [True, False])
def test_a_first_level_with_a_stride(subpixel):
    size = (33, 46)
    variables, outputs, _ = shapes_of(unet.make(depth=2, width=4, stride=2, classes=5, subpixel=subpixel), size)
    assert outputs["map_logits"].shape == (2, *(size if subpixel else (17, 23)), 5)
    assert [outputs[f"level{i}"].shape[1:] for i in range(3)] == [(17, 23, 4), (9, 12, 8), (5, 6, 16)]
    assert variables["params"]["backbone"]["stem"]["0"]["kernel"].shape == (5, 5, 3, 4)
    assert variables["params"]["head"]["kernel"].shape == (1, 1, 4, 20 if subpixel else 5)


def test_widths_double_up_to_the_widest():
    variables, outputs, _ = shapes_of(unet.make(classes=21, depth=6), (64, 64))
    assert [outputs[f"level{i}"].shape[3] for i in range(7)] == [32, 64, 128, 256, 512, 512, 512]
    params = variables["params"]
    assert params["decoder0"]["conv1"]["0"]["kernel"].shape == (3, 3, 64, 32)
    assert params["decoder5"]["conv1"]["0"]["kernel"].shape == (3, 3, 1024, 512)
    assert params["head"]["kernel"].shape == (1, 1, 32, 21)


def conv(x, kernel):
    """3×3 or 1×1 convolution by sums over shifted images."""
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return sum(
        padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def test_a_small_one_by_hand():
    model = unet.make(depth=1, width=2, classes=3, norm="none")
    images = np.random.default_rng(0).normal(size=(1, 5, 6, 3)).astype(np.float32)
    variables = random_variables(model, images)
    params = variables["params"]

    def double(x, block):
        for layer in (block["conv1"]["0"], block["conv2"]["0"]):
            x = np.maximum(conv(x, layer["kernel"]) + layer["bias"], 0)
        return x

    level0 = double(images, params["backbone"]["level0"])
    padded = np.pad(level0, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=-np.inf)
    pooled = padded.reshape(1, 3, 2, 3, 2, 2).max((2, 4))
    x = conv(double(pooled, params["backbone"]["level1"]), params["up0"]["kernel"]) + params["up0"]["bias"]
    x = double(np.concatenate([level0, bilinear(jnp.asarray(x), (6, 6))[:, :5]], -1), params["decoder0"])
    expected = conv(x, params["head"]["kernel"]) + params["head"]["bias"]
    found, stats = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None))(variables, images)
    np.testing.assert_allclose(found["map_logits"], expected, rtol=1e-4, atol=1e-4)
    assert stats == {}


@pytest.mark.parametrize(
    "options",
    [{"depth": 1, "width": 4}, {"backbone": {"name": "tiny", "width": 4}, "norm": "group", "remat": True}],
    ids=["own", "tiny"],
)
def test_gradients_are_finite_and_reach_every_parameter(options):
    model = unet.make(classes=3, **options)
    images = np.random.default_rng(0).normal(size=(2, 7, 10, 3)).astype(np.float32)
    variables = random_variables(model, images)
    assert_finite_and_everywhere(model, variables, images, KEY)


def test_the_map_of_each_stride_that_is_read():
    backbones = {"resnet": resnet.make(), "vgg": vgg.make(), "lite0": efficientnet.make(variant="lite0")}
    assert {name: compose.by_stride(backbone.levels) for name, backbone in backbones.items()} == {
        "resnet": {2: "stem", 4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"},
        "vgg": {1: "stage1", 2: "stage2", 4: "stage3", 8: "stage4", 16: "stage5", 32: "pool5"},
        "lite0": {2: "stage1", 4: "stage2", 8: "stage3", 16: "stage5", 32: "stage7"},
    }


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (RESNET, ((95, 98), (48, 49))),
        ({"name": "mobilenet", "version": 2, "width": 0.35}, ((95, 98), (48, 49))),
        ({"name": "convnext", "depths": (1, 1, 1, 1), "widths": (8, 16, 32, 64)}, ((92, 96), (23, 24))),
        ({"name": "vgg", "depth": 11, "width": 0.0625}, ((95, 98), (95, 98))),
        ({"name": "inception"}, ((90, 92), (45, 46))),  # unpadded convolutions
    ],
    ids=["resnet", "mobilenet", "convnext", "vgg", "inception"],
)
def test_any_backbone_as_encoder(node, expected):
    for subpixel, size in zip((True, False), expected):
        model = unet.make(classes=4, backbone=node, width=2, subpixel=subpixel)
        _, outputs, _ = shapes_of(model, (95, 98), train=True)
        assert outputs["map_logits"].shape == (2, *size, 4)


def test_a_place_is_spread_over_its_pixels_as_torch_shuffles_them():
    x = np.arange(2 * 3 * 12, dtype=np.float32).reshape(1, 2, 3, 12)
    found = np.asarray(pixel_shuffle(jnp.asarray(x), 2))
    assert found.shape == (1, 4, 6, 3)
    for row, column, channel in np.ndindex(4, 6, 3):
        part = 2 * (row % 2) + column % 2
        assert found[0, row, column, channel] == x[0, row // 2, column // 2, 3 * part + channel]


def test_pixels_of_a_place_begin_alike():
    model = unet.make(classes=3, depth=1, width=2, stride=2)
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    logits = np.asarray(
        jax.jit(lambda v: model.apply(v, images, train=False, key=None))(jax.jit(model.init)(KEY, images))[0][
            "map_logits"
        ]
    )
    np.testing.assert_array_equal(logits, logits[:, ::2, ::2].repeat(2, 1).repeat(2, 2))
    assert logits.std() > 0


def filled(model, value):
    shapes = jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, 64, 64, 3), "float32"))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, np.float32), shapes)


def test_weights_of_a_classifier_fit_in_the_backbone():
    node = {"name": "efficientnet", "variant": "lite0", "width": 0.25, "depth": 0.34}
    model = unet.make(classes=4, backbone=node)
    theirs = efficientnet.make(**{k: v for k, v in node.items() if k != "name"}, classes=7)
    given, ours = filled(theirs, 1), filled(model, 0)
    known = {"heads": model.heads}
    found = transfer.fit_in(weights.to_torchvision(given), ours, "file", **known)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(found.variables["params"]["backbone"]))
    assert found.unused == ["backbone.classifier.1.bias", "backbone.classifier.1.weight"] and not found.resized
    assert {name.split(".")[0].rstrip("0123456789") for name in found.fresh} == {"up", "decoder", "head"}
    other = filled(unet.make(classes=9, backbone=node), 0)
    assert transfer.fit_in(weights.to_torchvision(ours), other, "run", **known).resized == ["head.bias", "head.weight"]


def test_lower_precision_keeps_parameters_and_map_logits_in_float32():
    variables, outputs, stats = shapes_of(unet.make(dtype="bfloat16", **SMALL), (8, 8), train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats))} == {"float32"}
    assert outputs["level2"].dtype == jnp.bfloat16 and outputs["map_logits"].dtype == jnp.float32


def test_dropout_draws_in_training_only():
    model = unet.make(dropout=0.5, **SMALL)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
    variables = jax.eval_shape(model.init, KEY, images)
    jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None), variables, images)
    with pytest.raises(flax.errors.InvalidRngError):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=None), variables, images)


def test_mistakes_of_unets():
    with pytest.raises(UserError, match=r"unet has no norm='bach'\. Did you mean 'batch'"):
        unet.make(classes=2, norm="bach")
    with pytest.raises(UserError, match=r"depth=0 must be 1 or more"):
        unet.make(classes=2, depth=0)
    with pytest.raises(UserError, match=r"stride=0 must be 1 or more"):
        unet.make(classes=2, stride=0)
    with pytest.raises(UserError, match=r"stride=2 is of its own encoder; .* leave stride out"):
        unet.make(classes=2, stride=2, backbone=RESNET)
    with pytest.raises(UserError, match=r"depth=3 is of its own encoder; .* leave depth out"):
        unet.make(classes=2, depth=3, backbone=RESNET)
    with pytest.raises(UserError, match=r"takes no 'classes'"):
        unet.make(classes=2, backbone={**RESNET, "classes": 3})
    with pytest.raises(UserError, match=r"all maps of the backbone 'vit' have one stride"):
        unet.make(classes=2, backbone={"name": "vit", "width": 8, "heads": 1, "depth": 1, "mlp": 8, "variant": "small"})
