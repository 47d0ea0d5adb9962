"""AlexNet, VGG, GoogLeNet and Inception-v3 are torchvision's, given its weights (run: pytest -m parity)."""

import jax
import numpy as np
import pytest
from parity import filled, record, tensors_of

from mapjax import weights
from mapjax.config import parts

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity

VGGS = [
    (f"vgg{depth}{suffix}", {"name": "vgg", "depth": depth, "batch_norm": bool(suffix)}, (72, 100), {})
    for depth in (11, 13, 16, 19)
    for suffix in ("", "_bn")
]
PLAIN = {"init_weights": False}  # torchvision's Inceptions warn without it
CASES = [  # torchvision's name, ours, size of the images, torchvision's arguments
    ("alexnet", {"name": "alexnet"}, (95, 130), {}),
    *VGGS,
    ("googlenet", {"name": "googlenet", "transform_input": False}, (85, 100), PLAIN),
    ("googlenet", {"name": "googlenet", "transform_input": True}, (85, 100), PLAIN | {"transform_input": True}),
    ("inception_v3", {"name": "inception", "transform_input": False}, (299, 299), PLAIN),
    ("inception_v3", {"name": "inception", "transform_input": True}, (107, 130), PLAIN | {"transform_input": True}),
]


def randomized(name, seed=0, **options):
    """A network of torchvision with random weights, biases and statistics that keep the size of activations."""
    with torch.no_grad():
        with torch.device("meta"):
            network = getattr(torchvision.models, name)(num_classes=10, **options)
        network = network.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)

        def normal(tensor, scale, mean=0.0):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + mean)

        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                normal(module.weight, (2 / module.weight[0].numel()) ** 0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                normal(module.weight, 0.1, 1.0)
                normal(module.running_mean, 0.2)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
            if getattr(module, "bias", None) is not None:
                normal(module.bias, 0.2)
    return network.eval()


def photos(size, count=2):
    """Noise, of another contrast and colour in each, as a deep network sees all noise of one kind alike."""
    rng = np.random.default_rng(0)
    contrast, colour = rng.uniform(0.2, 2, (count, 1, 1, 1)), rng.normal(size=(count, 1, 1, 3))
    return (rng.normal(size=(count, *size, 3)) * contrast + colour).astype(np.float32)


def ours_with(network, node, images):
    model = parts.make("models", node, classes=10)
    return model, filled(model, tensors_of(network), images)


def relative_error(ours, theirs):
    theirs = theirs.detach().numpy()
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(("name", "node", "size", "options"), CASES)
def test_logits(name, node, size, options, record_property):
    network, images = randomized(name, **options), photos(size)
    model, variables = ours_with(network, node, images)
    outputs, _ = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None))(variables, images)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    error = relative_error(outputs["logits"], expected)
    record(record_property, f"{name}{'+transform_input' * options.get('transform_input', False)}", error)
    assert error <= 1e-4
    assert (expected[0] - expected[1]).abs().max() > 0.05 * expected.abs().max()  # the images are told apart


@pytest.mark.parametrize(
    ("name", "node", "size", "heads"),
    [
        ("googlenet", {"name": "googlenet", "dropout_aux": 0.0}, (96, 130), ("logits", "aux2", "aux1")),
        ("inception_v3", {"name": "inception"}, (299, 299), ("logits", "aux")),
    ],
)
def test_auxiliary_heads_and_statistics_in_training(name, node, size, heads):
    drop = {key: 0.0 for key in ("dropout", "dropout_aux") if key == "dropout" or name == "googlenet"}
    network, images = randomized(name, **PLAIN, **drop), photos(size, 3)
    node = node | {"dropout": 0.0, "transform_input": False}
    model, variables = ours_with(network, node, images)
    outputs, stats = jax.jit(lambda v, x: model.apply(v, x, train=True, key=None))(variables, images)
    network = network.double().train()  # statistics of a few pixels magnify what float32 rounds
    with torch.no_grad():
        expected = network(torch.from_numpy(images).double().permute(0, 3, 1, 2))
    for head, their in zip(heads, expected, strict=True):
        assert relative_error(outputs[head], their) <= 1e-3, head
    theirs = network.state_dict()
    for key, value in weights.to_torchvision({"stats": stats}).items():
        np.testing.assert_allclose(value, theirs[key].numpy(), rtol=1e-3, atol=1e-4, err_msg=key)


def test_weights_there_and_back():
    network = randomized("googlenet", **PLAIN)
    _, variables = ours_with(network, {"name": "googlenet"}, photos((64, 64)))
    back = weights.to_torchvision(variables)
    theirs = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert set(back) == set(theirs)
    for key, value in back.items():
        np.testing.assert_array_equal(value, theirs[key].numpy())
