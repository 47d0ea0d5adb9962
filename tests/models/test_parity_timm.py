"""MobileNet and EfficientNet equal timm's, under its names; needs timm too (run: pytest -m parity)."""

import jax
import numpy as np
import pytest
from parity import as_torch, filled, pictures, randomized, record, tensors_of

from mapjax import parts, weights
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
}


@pytest.mark.parametrize("size", [(96, 64), (91, 75)])  # "SAME" pads even and odd sides differently
@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name, size, record_property):
    family, part = NETWORKS[name]
    torch.manual_seed(0)
    network, images = randomized(timm.create_model(name, num_classes=10)), pictures(size)
    model, tensors = parts.make("models", part, classes=10), tensors_of(network)
    assert family is None or family in names.families_of(tensors)
    variables = filled(model, tensors if family is None else names.from_timm(tensors, family), images)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]["logits"])(variables, images)
    with torch.no_grad():
        expected = network(as_torch(images)).numpy()
    error = float(np.abs(logits - expected).max() / np.abs(expected).max())
    record(record_property, f"timm/{name}", error)
    assert error <= 1e-4


@pytest.mark.parametrize("name", [name for name, (family, _) in NETWORKS.items() if family])
def test_timm_takes_ours(name):
    family, part = NETWORKS[name]
    model, rng = parts.make("models", part, classes=10), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), pictures((32, 32)))
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    tensors = names.to_timm(weights.to_torchvision(variables), family)
    network = timm.create_model(name, num_classes=10)
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
