"""Start from other weights: what is loaded, drawn anew and refused, and that it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from mapjax import parts, transfer, weights
from mapjax.errors import UserError

IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
NODE = {"name": "resnet", "depth": 18, "width": 0.0625}


def random_variables(node, classes, seed=0):
    rng = np.random.default_rng(seed)
    model = parts.make("models", node, classes=classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_all_of_the_same_network():
    theirs, ours = random_variables(NODE, 5, seed=1), random_variables(NODE, 5)
    found = transfer.fit_in(weights.to_torchvision(theirs), ours, "file")
    equal(found.variables, theirs)
    assert len(found.loaded) == len(jax.tree.leaves(ours))
    assert not (found.resized or found.fresh or found.unused)


def test_a_head_of_another_size_is_drawn_anew_and_said_so():
    theirs, ours = random_variables(NODE, 1000, seed=1), random_variables(NODE, 5)
    found = transfer.fit_in(weights.to_torchvision(theirs), ours, "file")
    assert found.resized == ["fc.bias", "fc.weight"] and not found.fresh
    equal(found.variables["params"]["fc"], ours["params"]["fc"])
    equal(found.variables["params"]["layer3"], theirs["params"]["layer3"])
    equal(found.variables["stats"], theirs["stats"])
    console = Console(width=100)
    with console.capture() as said:
        console.print(transfer.table("file", found))
    assert "fc.bias, fc.weight" in said.get() and "another size" in said.get()


def test_a_classifier_in_a_detector_and_back():
    body = random_variables(NODE, 10, seed=1)
    node = {"name": "faster_rcnn", "backbone": NODE, "channels": 4, "representation": 6, "pool": 3}
    detector = random_variables(node, 2)
    found = transfer.fit_in(weights.to_torchvision(body), detector, "file")
    equal(found.variables["params"]["backbone"]["body"]["layer2"], body["params"]["layer2"])
    equal(found.variables["params"]["rpn"], detector["params"]["rpn"])
    assert found.unused == ["backbone.body.fc.bias", "backbone.body.fc.weight"]
    assert any(name.startswith("roi_heads.") for name in found.fresh)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer1.0.conv1.weight"), r"has no tensor 'layer1\.0\.conv1\.weight'"),
        (
            lambda t: t.update({"layer1.0.conv1.weight": np.zeros((9, 4, 3, 3))}),
            r"conv1\.weight' has shape \(9, 4, 3, 3\)",
        ),
        (lambda t: t.update({"layer5.0.conv1.weight": np.zeros(3)}), r"holds the tensor 'layer5\.0\.conv1\.weight'"),
        (lambda t: [t.pop(name) for name in list(t)] and t.update({"x": np.zeros(3)}), "none of its 1 tensors belongs"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message):
    tensors = weights.to_torchvision(random_variables(NODE, 5))
    change(tensors)
    with pytest.raises(UserError, match=message):
        transfer.fit_in(tensors, random_variables(NODE, 5), "file")


def test_heads_of_other_classes_are_left_out():
    tensors = weights.to_torchvision(random_variables(NODE, 7))
    left = transfer.without_heads(tensors, 7)
    assert set(tensors) - set(left) == {"fc.weight", "fc.bias"}


def test_files_that_are_not_there():
    with pytest.raises(UserError, match=r"nowhere\.safetensors: there is no such weight file"):
        transfer.read("nowhere.safetensors")
