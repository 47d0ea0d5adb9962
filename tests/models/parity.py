"""A network of torchvision with random weights, and how far ours is from it (run: pytest -m parity).

The error is the largest difference of two logits over the largest logit. $MAPJAX_PARITY_TABLE names a file that gets a
line "network error" for each.
"""

import copy
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


def photos(size, count=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *size, 3)).astype(np.float32)


def as_torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


KINKS = {"ReLU": (0.0,), "ReLU6": (0.0, 6.0), "Hardswish": (-3.0, 3.0), "Hardsigmoid": (-3.0, 3.0)}


@torch.no_grad()
def settled_images(network, size, count, gap=5e-6, tries=400):
    """Images for which no value in training lies within `gap` of a kink, by torch alone and in float64.

    A rounding that puts a value on the other side of a ReLU moves gradients by a percent, whoever computes them; on
    these images none does, so that one input tells whether two networks have the same gradient.
    """
    network, nearest = copy.deepcopy(network).train().double(), []

    def look(module, inputs):
        nearest.extend((inputs[0] - kink).abs().min().item() for kink in KINKS[type(module).__name__])

    for module in network.modules():
        if type(module).__name__ in KINKS:
            module.register_forward_pre_hook(look)
    for seed in range(tries):
        nearest.clear()
        images = photos(size, count, seed)
        network(as_torch(images).double())
        if min(nearest) > gap:
            return images
    raise AssertionError(f"none of {tries} inputs stays {gap} away from every kink")


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
    """Relative errors of the gradient of the cross-entropy in training: of each parameter, by torchvision's name.

    Compared are lengths: that of ours (in float32) minus torchvision's (in float64: in float32 its own error can be as
    large), over that of torchvision's; "" is the whole gradient, of all parameters. Where a gradient is nothing but
    rounding, as that of a bias which the next batch normalization takes out, it is relative to the longest of all.
    """
    variables = filled(model, tensors_of(network), images)

    def loss(params):
        outputs, stats = model.apply({**variables, "params": params}, images, train=True, key=jax.random.key(0))
        return -jax.nn.log_softmax(outputs["logits"])[np.arange(len(labels)), labels].mean(), stats

    ours = weights.to_torchvision({"params": jax.jit(jax.grad(loss, has_aux=True))(variables["params"])[0]})
    network = network.train().double()
    torch.nn.functional.cross_entropy(network(as_torch(images).double()), torch.tensor(labels)).backward()
    return relative_errors(ours, {name: parameter.grad.numpy() for name, parameter in network.named_parameters()})


def relative_errors(ours, theirs):
    """The length of the difference of each tensor, and of all together (""), over the length of theirs."""
    assert set(ours) == set(theirs)
    lengths = {name: np.linalg.norm(their) for name, their in theirs.items()}
    longest = max(lengths.values())
    apart = {name: np.linalg.norm(ours[name] - their) for name, their in theirs.items()}
    errors = {name: apart[name] / (lengths[name] if lengths[name] > 1e-12 * longest else longest) for name in theirs}
    whole = np.linalg.norm(list(apart.values())) / np.linalg.norm(list(lengths.values()))
    return {name: float(error) for name, error in {**errors, "": whole}.items()}


def record(record_property, network, error):
    """Keep an error for the table."""
    record_property(network, error)
    if path := os.environ.get("MAPJAX_PARITY_TABLE"):
        with pathlib.Path(path).open("a") as file:
            file.write(f"{network} {error:.1e}\n")
