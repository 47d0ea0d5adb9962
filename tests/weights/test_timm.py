"""Names by hand, and there and back; with timm itself in tests/models/test_parity_timm.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.config import parts
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
    "vgg": {"name": "vgg", "depth": 13, "batch_norm": True, "width": 0.01},
    "convnext": {"name": "convnext", "depths": (1, 2, 1, 1), "widths": (4, 8, 12, 16)},
    "vit": {"name": "vit", "image_size": 32, "width": 8, "depth": 2, "heads": 2, "mlp": 16},
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
    "vgg": [
        ("features.0.weight", "features.0.weight"),
        ("features.32.running_var", "features.32.running_var"),
        ("pre_logits.fc1.weight", "classifier.0.weight"),
        ("pre_logits.fc2.bias", "classifier.3.bias"),
        ("head.fc.weight", "classifier.6.weight"),
    ],
    "convnext": [
        ("stem.0.weight", "features.0.0.weight"),
        ("stem.1.bias", "features.0.1.bias"),
        ("stages.0.blocks.0.conv_dw.weight", "features.1.0.block.0.weight"),
        ("stages.1.downsample.0.weight", "features.2.0.weight"),
        ("stages.1.blocks.1.norm.bias", "features.3.1.block.2.bias"),
        ("stages.2.downsample.1.bias", "features.4.1.bias"),
        ("stages.2.blocks.0.gamma", "features.5.0.layer_scale"),
        ("stages.3.blocks.0.mlp.fc1.weight", "features.7.0.block.3.weight"),
        ("stages.3.blocks.0.mlp.fc2.bias", "features.7.0.block.5.bias"),
        ("head.norm.weight", "classifier.0.weight"),
        ("head.fc.bias", "classifier.2.bias"),
    ],
    "vit": [
        ("patch_embed.proj.weight", "conv_proj.weight"),
        ("cls_token", "class_token"),
        ("pos_embed", "encoder.pos_embedding"),
        ("blocks.0.norm1.weight", "encoder.layers.encoder_layer_0.ln_1.weight"),
        ("blocks.1.attn.qkv.weight", "encoder.layers.encoder_layer_1.self_attention.in_proj_weight"),
        ("blocks.1.attn.qkv.bias", "encoder.layers.encoder_layer_1.self_attention.in_proj_bias"),
        ("blocks.0.attn.proj.bias", "encoder.layers.encoder_layer_0.self_attention.out_proj.bias"),
        ("blocks.1.norm2.bias", "encoder.layers.encoder_layer_1.ln_2.bias"),
        ("blocks.1.mlp.fc1.weight", "encoder.layers.encoder_layer_1.mlp.0.weight"),
        ("blocks.0.mlp.fc2.weight", "encoder.layers.encoder_layer_0.mlp.3.weight"),
        ("norm.bias", "encoder.ln.bias"),
        ("head.weight", "heads.head.weight"),
    ],
}
LAYOUTS = {  # timm's tensor → its shape in the network of that family above
    "mobilenet_v3_small": {"conv_head.weight": (256, 144, 1, 1)},
    "vgg": {
        "pre_logits.fc1.weight": (41, 5, 7, 7),
        "pre_logits.fc2.weight": (41, 41, 1, 1),
        "head.fc.weight": (3, 41),
    },
    "convnext": {"stages.0.blocks.0.gamma": (4,), "stages.0.blocks.0.mlp.fc1.weight": (16, 4)},
    "vit": {"cls_token": (1, 1, 8), "pos_embed": (1, 5, 8), "blocks.0.attn.qkv.weight": (24, 8)},
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
    same = {name for name in set(theirs) & set(tensors) if "." in name[:-7]}
    assert len(theirs) == len(tensors) and all(family == "vgg" and name.startswith("features.") for name in same)
    assert family in timm.families_of(theirs) and not timm.families_of(tensors)
    back = timm.from_timm(theirs, family)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize("family", ["mobilenet_v2", "vgg", "convnext", "vit"])
def test_one_of_the_renamings_fills_the_network(family):
    """Where two families have all the names, the network tells them apart."""
    tensors, shapes = tensors_of(family), shapes_of(family)
    found = 0
    for renamed in timm.renamings(timm.to_timm(tensors, family)):
        if set(renamed) == set(tensors):
            filled, found = from_torchvision(renamed, shapes), found + 1
            again = to_torchvision(filled)
            assert all(np.array_equal(again[name], tensor) for name, tensor in tensors.items())
    assert found == 1


@pytest.mark.parametrize("family", LAYOUTS)
def test_layouts(family):
    """timm keeps some dense layers as convolutions, and a scale as a vector."""
    theirs = timm.to_timm(tensors_of(family), family)
    assert {name: theirs[name].shape for name in LAYOUTS[family]} == LAYOUTS[family]


def test_convolutions_in_the_mlps_of_a_small_convnext():
    tensors = tensors_of("convnext")
    theirs = timm.to_timm(tensors, "convnext")
    mlps = {name: tensor[:, :, None, None] for name, tensor in theirs.items() if re.search(r"mlp\.fc\d\.weight", name)}
    back = timm.from_timm({**theirs, **mlps}, "convnext")
    assert len(mlps) == 10 and all(np.array_equal(back[name], tensor) for name, tensor in tensors.items())


def test_names_that_are_torchvisions_anyway():
    """A VGG without a classifier has the same names everywhere."""
    tensors = tensors_of("vgg")
    features = {name: tensor for name, tensor in tensors.items() if name.startswith("features.")}
    assert features and not timm.families_of(features)
    assert timm.to_timm(features, "vgg").keys() == features.keys()


@pytest.mark.parametrize("name", ["dist_token", "blocks.0.ls1.gamma", "fc_norm.weight"])
def test_networks_that_are_not_ours(name):
    """A distilled DeiT, a DeiT-III and a ViT with a mean for a class token are no ViT of ours."""
    theirs = timm.to_timm(tensors_of("vit"), "vit")
    assert not timm.families_of({**theirs, name: np.zeros(8, np.float32)})


def test_mistakes():
    with pytest.raises(UserError, match=r"no family 'mobilenetv2' of names\. Did you mean 'mobilenet_v2'"):
        timm.from_timm({}, "mobilenetv2")
    with pytest.raises(UserError, match=r"'blocks\.7\.0\.bn1\.weight', which no network of the family 'efficientnet'"):
        timm.from_timm({"blocks.7.0.bn1.weight": np.zeros(1)}, "efficientnet")
    assert not timm.families_of({}) and not timm.families_of({"fc.weight": np.zeros(1)})
