"""There and back, layouts by hand, and what is said of weights that do not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.errors import UserError
from mapjax.models.backbones import resnet
from mapjax.models.detectors import faster_rcnn, fcos, retinanet
from mapjax.weights import from_torchvision, to_torchvision
from mapjax.weights.translate import new_name

IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
RESNET = resnet.make(depth=18, width=0.125, classes=5)
DETECTOR = faster_rcnn.make(
    classes=2, backbone={"name": "resnet", "depth": 50, "width": 0.0625}, channels=4, representation=6, pool=3
)


def random_variables(model, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("model", [RESNET, DETECTOR], ids=["resnet", "faster_rcnn"])
def test_there_and_back(model):
    variables = random_variables(model)
    tensors = to_torchvision(variables)
    assert len(tensors) == len(jax.tree.leaves(variables))
    assert sum(tensor.size for tensor in tensors.values()) == sum(leaf.size for leaf in jax.tree.leaves(variables))
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    back = from_torchvision(tensors, shapes)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    again = to_torchvision(back)
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensor) for name, tensor in tensors.items())


def test_names_and_layouts_of_a_resnet():
    variables = random_variables(RESNET)
    tensors = to_torchvision(variables)
    params, stats = variables["params"], variables["stats"]
    assert tensors["conv1.weight"].shape == (8, 3, 7, 7)
    assert tensors["conv1.weight"][5, 2, 1, 6] == params["conv1"]["kernel"][1, 6, 2, 5]
    assert tensors["fc.weight"].shape == (5, 64) and tensors["fc.weight"][3, 40] == params["fc"]["kernel"][40, 3]
    np.testing.assert_array_equal(tensors["fc.bias"], params["fc"]["bias"])
    theirs = {
        "weight": params["layer2"]["0"]["downsample"]["1"]["scale"],
        "bias": params["layer2"]["0"]["downsample"]["1"]["bias"],
        "running_mean": stats["layer2"]["0"]["downsample"]["1"]["mean"],
        "running_var": stats["layer2"]["0"]["downsample"]["1"]["var"],
    }
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(tensors[f"layer2.0.downsample.1.{name}"], leaf)


def test_names_and_layouts_of_a_detector():
    variables = random_variables(DETECTOR)
    tensors = to_torchvision(variables)
    assert {
        "backbone.body.layer4.2.conv3.weight",
        "backbone.fpn.inner_blocks.0.0.weight",
        "backbone.fpn.layer_blocks.3.0.bias",
        "rpn.head.conv.0.0.weight",
        "rpn.head.cls_logits.bias",
        "rpn.head.bbox_pred.weight",
        "roi_heads.box_head.fc7.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.bbox_pred.bias",
    } <= set(tensors)
    assert all(tensor.flags.c_contiguous and tensor.dtype == np.float32 for tensor in tensors.values())


def test_the_first_dense_layer_reads_channels_first_there():
    variables = random_variables(DETECTOR)
    ours = variables["params"]["roi_heads"]["box_head"]["fc6"]["map_kernel"]  # (rows, columns, channels, features)
    theirs = to_torchvision(variables)["roi_heads.box_head.fc6.weight"]  # (features, channels · rows · columns)
    pooled = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype(np.float32)
    found = pooled.transpose(0, 3, 1, 2).reshape(2, -1) @ theirs.T
    np.testing.assert_allclose(found, pooled.reshape(2, -1) @ ours.reshape(-1, ours.shape[-1]), rtol=1e-4, atol=1e-5)


def test_counters_and_old_names_are_understood():
    variables = random_variables(DETECTOR)
    old = {}
    for name, tensor in to_torchvision(variables).items():
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "_blocks." in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[name] = tensor
    assert {"rpn.head.conv.weight", "backbone.fpn.inner_blocks.0.weight", "backbone.fpn.layer_blocks.2.bias"} <= set(
        old
    )
    old["backbone.body.bn1.num_batches_tracked"] = np.array(7)
    jax.tree.map(np.testing.assert_array_equal, from_torchvision(old, variables), variables)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("backbone.13.block.0.0.weight", "backbone.features.13.block.0.0.weight"),
        ("backbone.body.13.block.0.0.weight", "backbone.body.features.13.block.0.0.weight"),
        ("backbone.body.layer1.0.conv1.weight", "backbone.body.layer1.0.conv1.weight"),
    ],
)
def test_names_of_what_stands_on_a_mobilenet(old, new):
    assert new_name(old) == new


@pytest.mark.parametrize("detector", [retinanet, fcos], ids=["retinanet", "fcos"])
def test_heads_of_dense_detectors(detector):
    """Those of old RetinaNets are numbered 0, 2, 4, 6, and FCOS' own 0, 3, 6, 9, which stay."""
    backbone = {"name": "resnet", "depth": 18, "width": 0.0625}
    variables = random_variables(detector.make(classes=2, backbone=backbone, channels=4))
    today = to_torchvision(variables)
    old = {
        re.sub(r"_head\.conv\.(\d)\.0\.", lambda found: f"_head.conv.{2 * int(found[1])}.", name): tensor
        for name, tensor in today.items()
    }
    assert (old.keys() != today.keys()) == (detector is retinanet)
    assert ("head.regression_head.conv.6.weight" in old) and len(old) == len(today)
    jax.tree.map(np.testing.assert_array_equal, from_torchvision(old, variables), variables)


def test_the_given_arrays_are_not_shared():
    variables = random_variables(RESNET)
    tensors = to_torchvision(variables)
    back = from_torchvision(tensors, variables)
    tensors["bn1.weight"][:] = 9
    np.testing.assert_array_equal(back["params"]["bn1"]["scale"], variables["params"]["bn1"]["scale"])


def test_a_missing_tensor_is_named():
    variables = random_variables(RESNET)
    tensors = to_torchvision(variables)
    del tensors["layer3.1.conv2.weight"]
    with pytest.raises(UserError, match=r"no tensor 'layer3\.1\.conv2\.weight', which this network needs"):
        from_torchvision(tensors, variables)


def test_a_misspelt_tensor_gets_a_hint():
    variables = random_variables(RESNET)
    tensors = to_torchvision(variables)
    tensors["fc.wieght"] = tensors.pop("fc.weight")
    with pytest.raises(UserError, match=r"no tensor 'fc\.weight'.*Did you mean .*'fc\.wieght'"):
        from_torchvision(tensors, variables)


def test_extra_tensors_are_named():
    variables = random_variables(RESNET)
    tensors = to_torchvision(variables) | {"layer9.weight": np.zeros(3), "layer5.weight": np.zeros(3)}
    with pytest.raises(UserError, match=r"2 tensors that this network has no place for, first 'layer5\.weight'"):
        from_torchvision(tensors, variables)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("fc.weight", (7, 64)), ("conv1.weight", (8, 3, 3, 3)), ("bn1.running_var", (9,)), ("conv1.weight", (7, 7, 3, 8))],
)
def test_a_tensor_of_another_shape_is_named(name, shape):
    variables = random_variables(RESNET)
    tensors = to_torchvision(variables)
    needed = str(tensors[name].shape)
    with pytest.raises(UserError) as mistake:
        from_torchvision(tensors | {name: np.zeros(shape, np.float32)}, variables)
    assert repr(name) in str(mistake.value) and str(shape) in str(mistake.value) and needed in str(mistake.value)


def test_another_pool_does_not_fit():
    variables = random_variables(DETECTOR)
    tensors = to_torchvision(variables)
    name = "roi_heads.box_head.fc6.weight"
    wide = tensors | {name: np.zeros((6, 4 * 7 * 7), np.float32)}
    with pytest.raises(UserError, match=r"fc6\.weight' of the weights has shape \(6, 196\).*needs \(6, 36\)"):
        from_torchvision(wide, variables)
