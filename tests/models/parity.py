"""A network of torchvision with random weights, and how far ours is from it (run: pytest -m parity).

The error is the largest difference of two logits over the largest logit. $MAPJAX_PARITY_TABLE names a file that gets a
line "network error" for each.
"""

import os
import pathlib

import jax
import numpy as np
import pytest

from mapjax import weights

torch = pytest.importorskip("torch")


@torch.no_grad()
def randomized(network, seed=0):
    """The network in evaluation mode, where no parameter or statistic is what its layer begins with."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    def normal(tensor, std):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            uniform(tensor, 0.75, 1.25)
        elif name.endswith("running_mean") or name.endswith("bias"):
            normal(tensor, 0.1)
        elif tensor.ndim == 1:
            uniform(tensor, 0.75, 1.25)
        elif name.endswith("layer_scale"):
            uniform(tensor, 0.1, 0.5)
        elif name.endswith("class_token") or name.endswith("pos_embedding"):
            normal(tensor, 1)
        elif tensor.ndim == 2:
            normal(tensor, tensor.shape[1] ** -0.5)
    return network.eval()


def tensors_of(network):
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def pictures(size, count=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *size, 3)).astype(np.float32)


def as_torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def filled(model, tensors, images):
    """Our variables, from torchvision's tensors."""
    return weights.from_torchvision(tensors, jax.eval_shape(model.init, jax.random.key(0), images))


def error_of_logits(model, network, images):
    """Relative error of our logits, in evaluation mode."""
    variables = filled(model, tensors_of(network), images)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]["logits"])(variables, images)
    with torch.no_grad():
        expected = network(as_torch(images)).numpy()
    assert np.abs(expected).max() > 0.1
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def errors_of_gradients(model, network, images, labels):
    """Relative error of the gradient of the cross-entropy in training, for each parameter by torchvision's name.

    torchvision computes in float64: in float32 its own error can be as large. Where a gradient is nothing but rounding,
    as that of a bias which the next batch normalization takes out, the error is relative to the largest of all.
    """
    variables = filled(model, tensors_of(network), images)

    def loss(params):
        outputs, stats = model.apply({**variables, "params": params}, images, train=True, key=jax.random.key(0))
        return -jax.nn.log_softmax(outputs["logits"])[np.arange(len(labels)), labels].mean(), stats

    ours = weights.to_torchvision({"params": jax.jit(jax.grad(loss, has_aux=True))(variables["params"])[0]})
    network = network.train().double()
    torch.nn.functional.cross_entropy(network(as_torch(images).double()), torch.tensor(labels)).backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    assert set(ours) == set(theirs)
    sizes = {name: np.abs(their).max() for name, their in theirs.items()}
    largest = max(sizes.values())
    scales = {name: size if size > 1e-12 * largest else largest for name, size in sizes.items()}
    return {name: float(np.abs(ours[name] - their).max() / scales[name]) for name, their in theirs.items()}


def record(record_property, network, error):
    """Keep an error for the table."""
    record_property(network, error)
    if path := os.environ.get("MAPJAX_PARITY_TABLE"):
        with pathlib.Path(path).open("a") as file:
            file.write(f"{network} {error:.1e}\n")
