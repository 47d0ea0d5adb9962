"""Names by hand, and there and back; with timm itself in tests/models/test_parity_timm.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import parts
from mapjax.errors import UserError
from mapjax.weights import from_torchvision, timm, to_torchvision

IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
NETWORKS = {
    "mobilenet_v2": {"name": "mobilenet", "version": 2, "width": 0.25},
    "mobilenet_v3_large": {"name": "mobilenet", "version": 3, "width": 0.25},
    "mobilenet_v3_small": {"name": "mobilenet", "version": 3, "size": "small", "width": 0.25},
    "efficientnet_lite": {"name": "efficientnet", "variant": "lite0", "width": 0.25},
    "efficientnet": {"name": "efficientnet", "width": 0.25},
    "efficientnet_lite0_wheel": {"name": "efficientnet", "variant": "lite0", "width": 0.25},
}
BY_HAND = {  # theirs, torchvision's
    "mobilenet_v2": [
        ("conv_stem.weight", "features.0.0.weight"),
        ("bn2.running_var", "features.18.1.running_var"),
        ("blocks.0.0.conv_dw.weight", "features.1.conv.0.0.weight"),
        ("blocks.0.0.conv_pw.weight", "features.1.conv.1.weight"),
        ("blocks.0.0.bn2.bias", "features.1.conv.2.bias"),
        ("blocks.3.1.conv_pwl.weight", "features.8.conv.2.weight"),
        ("blocks.6.0.bn3.running_mean", "features.17.conv.3.running_mean"),
        ("classifier.bias", "classifier.1.bias"),
    ],
    "mobilenet_v3_large": [
        ("blocks.0.0.bn2.weight", "features.1.block.1.1.weight"),
        ("blocks.2.0.se.conv_expand.bias", "features.4.block.2.fc2.bias"),
        ("blocks.3.3.conv_pwl.weight", "features.10.block.2.0.weight"),
        ("blocks.5.2.conv_pwl.weight", "features.15.block.3.0.weight"),
        ("blocks.6.0.conv.weight", "features.16.0.weight"),
        ("conv_head.weight", "classifier.0.weight"),
        ("classifier.weight", "classifier.3.weight"),
    ],
    "mobilenet_v3_small": [
        ("blocks.0.0.se.conv_reduce.weight", "features.1.block.1.fc1.weight"),
        ("blocks.0.0.conv_pw.weight", "features.1.block.2.0.weight"),
        ("blocks.4.2.bn3.bias", "features.11.block.3.1.bias"),
        ("blocks.5.0.bn1.bias", "features.12.1.bias"),
    ],
    "efficientnet_lite": [
        ("blocks.0.0.conv_pw.weight", "features.1.0.block.1.0.weight"),
        ("blocks.5.3.conv_pwl.weight", "features.6.3.block.2.0.weight"),
    ],
    "efficientnet": [
        ("blocks.0.0.se.conv_reduce.weight", "features.1.0.block.1.fc1.weight"),
        ("blocks.4.2.bn2.weight", "features.5.2.block.1.1.weight"),
        ("conv_head.weight", "features.8.0.weight"),
    ],
    "efficientnet_lite0_wheel": [
        ("_conv_stem.weight", "features.0.0.weight"),
        ("_blocks.0._depthwise_conv.weight", "features.1.0.block.0.0.weight"),
        ("_blocks.0._bn2.running_mean", "features.1.0.block.1.1.running_mean"),
        ("_blocks.5._expand_conv.weight", "features.4.0.block.0.0.weight"),
        ("_blocks.15._project_conv.weight", "features.7.0.block.2.0.weight"),
        ("_bn1.bias", "features.8.1.bias"),
        ("_fc.weight", "classifier.1.weight"),
    ],
}


def shapes_of(family):
    model = parts.make("models", NETWORKS[family], classes=3)
    return jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def tensors_of(family):
    rng = np.random.default_rng(0)
    shapes = shapes_of(family)
    return to_torchvision(jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes))


@pytest.mark.parametrize("family", timm.FAMILIES)
def test_names_by_hand(family):
    tensors = tensors_of(family)
    theirs = timm.to_timm(tensors, family)
    for their, ours in BY_HAND[family]:
        np.testing.assert_array_equal(theirs[their].ravel(), tensors[ours].ravel())


@pytest.mark.parametrize("family", timm.FAMILIES)
def test_there_and_back(family):
    tensors = tensors_of(family)
    theirs = timm.to_timm(tensors, family)
    assert len(theirs) == len(tensors) and not set(theirs) & {name for name in tensors if "." in name[:-7]}
    assert family in timm.families_of(theirs) and not timm.families_of(tensors)
    back = timm.from_timm(theirs, family)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_one_of_the_renamings_fills_the_network():
    """Where two families have all the names, the network tells them apart."""
    tensors, shapes = tensors_of("mobilenet_v2"), shapes_of("mobilenet_v2")
    found = 0
    for renamed in timm.renamings(timm.to_timm(tensors, "mobilenet_v2")):
        if set(renamed) == set(tensors):
            filled, found = from_torchvision(renamed, shapes), found + 1
            again = to_torchvision(filled)
            assert all(np.array_equal(again[name], tensor) for name, tensor in tensors.items())
    assert found == 1


def test_a_dense_layer_that_is_a_convolution_there():
    tensors = tensors_of("mobilenet_v3_small")
    weight = timm.to_timm(tensors, "mobilenet_v3_small")["conv_head.weight"]
    assert weight.shape == (*tensors["classifier.0.weight"].shape, 1, 1)


def test_mistakes():
    with pytest.raises(UserError, match=r"no family 'mobilenetv2' of names\. Did you mean 'mobilenet_v2'"):
        timm.from_timm({}, "mobilenetv2")
    with pytest.raises(UserError, match=r"'blocks\.7\.0\.bn1\.weight', which no network of the family 'efficientnet'"):
        timm.from_timm({"blocks.7.0.bn1.weight": np.zeros(1)}, "efficientnet")
    assert not timm.families_of({}) and not timm.families_of({"fc.weight": np.zeros(1)})
