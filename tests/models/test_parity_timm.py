"""Our networks equal timm's, under its names; needs timm too (run: pytest -m parity)."""

import jax
import numpy as np
import pytest
from parity import as_torch, filled, photos, randomized, record, tensors_of

from mapjax import weights
from mapjax.config import parts
from mapjax.weights import timm as names

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.parity
NETWORKS = {  # timm's name → family of names, our part
    "mobilenetv1_100": (None, {"name": "mobilenet", "version": 1}),
    "mobilenetv2_100": ("mobilenet_v2", {"name": "mobilenet", "version": 2}),
    "mobilenetv2_140": ("mobilenet_v2", {"name": "mobilenet", "version": 2, "width": 1.4}),
    "mobilenetv3_large_100": ("mobilenet_v3_large", {"name": "mobilenet", "version": 3, "epsilon": 1e-5}),
    "mobilenetv3_small_100": (
        "mobilenet_v3_small",
        {"name": "mobilenet", "version": 3, "size": "small", "epsilon": 1e-5},
    ),
    "tf_mobilenetv3_large_100": ("mobilenet_v3_large", {"name": "mobilenet", "version": 3, "padding": "SAME"}),
    "efficientnet_b0": ("efficientnet", {"name": "efficientnet"}),
    "tf_efficientnet_b1": (
        "efficientnet",
        {"name": "efficientnet", "variant": "b1", "padding": "SAME", "epsilon": 1e-3},
    ),
    "tf_efficientnet_lite0": ("efficientnet_lite", {"name": "efficientnet", "variant": "lite0"}),
    "tf_efficientnet_lite4": ("efficientnet_lite", {"name": "efficientnet", "variant": "lite4"}),
    "resnet18": (None, {"name": "resnet", "depth": 18}),
    "inception_v3": (None, {"name": "inception", "transform_input": False, "aux": False}),
    "vgg11": ("vgg", {"name": "vgg", "depth": 11}),
    "convnext_atto": ("convnext", {"name": "convnext", "depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320)}),
    "convnext_tiny": ("convnext", {"name": "convnext"}),
    "vit_tiny_patch16_224": ("vit", {"name": "vit", "width": 192, "heads": 3, "mlp": 768}),
    "vit_small_patch32_224": ("vit", {"name": "vit", "variant": "small", "patch": 32}),
    "deit_small_patch16_224": ("vit", {"name": "vit", "variant": "small"}),
}
ODD = [(96, 64), (91, 75)]  # "SAME" pads even and odd sides differently
SIZES = {"inception_v3": [(107, 86)], "vgg11": [(91, 75)]}


def sizes_of(name):
    return [(96, 64)] if NETWORKS[name][0] == "vit" else SIZES.get(name, ODD)


def pair(name, size):
    """timm's network with random weights, and our model, for images of that size."""
    family, part = NETWORKS[name]
    torch.manual_seed(0)
    if family != "vit":
        return timm.create_model(name, num_classes=10), parts.make("models", part, classes=10)
    network = timm.create_model(name, num_classes=10, img_size=size)
    with torch.no_grad():  # they begin so small that nobody would see them
        torch.nn.init.normal_(network.cls_token)
        torch.nn.init.normal_(network.pos_embed)
    return network, parts.make("models", part, classes=10, image_size=size)


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in NETWORKS for size in sizes_of(name)])
def test_logits(name, size, record_property):
    network, model = pair(name, size)
    network, images, family = randomized(network), photos(size), NETWORKS[name][0]
    tensors = tensors_of(network)
    assert family is None or family in names.families_of(tensors)
    variables = filled(model, tensors if family is None else names.from_timm(tensors, family), images)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]["logits"])(variables, images)
    with torch.no_grad():
        expected = network(as_torch(images)).numpy()
    assert np.abs(expected).max() > 0.1
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    record(record_property, f"timm/{name}", error)
    assert error <= 1e-4


@pytest.mark.parametrize("name", [name for name, (family, _) in NETWORKS.items() if family and name != "convnext_atto"])
def test_timm_takes_ours(name):
    network, model = pair(name, (32, 32))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), photos((32, 32)))
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    tensors = names.to_timm(weights.to_torchvision(variables), NETWORKS[name][0])
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    held = network.state_dict()
    for tensor, value in tensors.items():
        np.testing.assert_array_equal(held[tensor].numpy(), value, err_msg=tensor)
