"""Start from other weights: what is loaded, reinitialised and refused, and that it is told."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from mapjax import weights
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.task import State
from mapjax.weights import transfer

IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
NODE = {"name": "resnet", "depth": 18, "width": 0.0625}
VGG = {"name": "vgg", "depth": 11, "width": 0.0625}
MOBILENET = {"name": "mobilenet", "version": 3, "size": "small", "width": 0.25}
CONVNEXT = {"name": "convnext", "depths": (1, 1), "widths": (4, 8)}
DETECTOR = {"name": "faster_rcnn", "backbone": NODE, "channels": 4, "representation": 6, "pool": 3}
VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "mlp": 8, "patch": 4}


SHAPES = {}  # a network is traced once


def random_variables(node, classes, seed=0):
    rng = np.random.default_rng(seed)
    if (key := repr((node, classes))) not in SHAPES:
        model = parts.make("models", node, classes=classes)
        SHAPES[key] = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), SHAPES[key])


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def heads_of(node):
    return parts.make("models", node, classes=5).heads


def test_all_of_the_same_network():
    theirs, ours = random_variables(NODE, 5, seed=1), random_variables(NODE, 5)
    found = transfer.fit_in(weights.to_torchvision(theirs), ours, "file")
    equal(found.variables, theirs)
    assert len(found.loaded) == len(jax.tree.leaves(ours))
    assert not (found.resized or found.fresh or found.unused)


def test_a_head_of_another_size_is_reinitialised_and_said_so():
    theirs, ours = random_variables(NODE, 1000, seed=1), random_variables(NODE, 5)
    found = transfer.fit_in(weights.to_torchvision(theirs), ours, "file", heads=heads_of(NODE))
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
    detector = random_variables(DETECTOR, 2)
    found = transfer.fit_in(weights.to_torchvision(body), detector, "file", heads=heads_of(DETECTOR))
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
        transfer.fit_in(tensors, random_variables(NODE, 5), "file", heads=heads_of(NODE))


def sized(node, classes=5):
    return transfer.sized_by_classes(random_variables(node, classes), random_variables(node, classes + 1))


@pytest.mark.parametrize(
    ("node", "layers"),
    [
        (NODE, {"fc"}),
        (VGG, {"classifier.6"}),
        (MOBILENET, {"classifier.3"}),
        (CONVNEXT, {"classifier.2"}),
        ({"name": "googlenet", "width": 0.0625}, {"fc", "aux1.fc2", "aux2.fc2"}),
        (VIT, {"heads.head"}),
        (DETECTOR, {"roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"}),
    ],
)
def test_which_tensors_depend_on_the_classes(node, layers):
    assert sized(node) == {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}


@pytest.mark.parametrize(
    ("node", "change", "message"),
    [
        (VGG, lambda t: t.pop("classifier.0.weight"), r"has no tensor 'classifier\.0\.weight'"),
        (VGG, lambda t: t.pop("classifier.3.bias"), r"has no tensor 'classifier\.3\.bias'"),
        (VGG, lambda t: t.update({"classifier.0.bias": np.zeros(9)}), r"'classifier\.0\.bias' has shape \(9,\)"),
        (VGG, lambda t: t.update({"classifier.9.bias": np.zeros(9)}), r"holds the tensor 'classifier\.9\.bias'"),
        (
            VGG,
            lambda t: t.update({f"classifier.7.{leaf}": t.pop(f"classifier.6.{leaf}") for leaf in ("weight", "bias")}),
            r"has no tensor 'classifier\.6\.bias'.*Did you mean 'classifier\.7\.bias'",
        ),
        (MOBILENET, lambda t: t.pop("classifier.0.weight"), r"has no tensor 'classifier\.0\.weight'"),
        (CONVNEXT, lambda t: t.pop("classifier.0.bias"), r"has no tensor 'classifier\.0\.bias'"),
        (
            NODE,
            lambda t: t.update({"fc.wieght": t.pop("fc.weight")}),
            r"has no tensor 'fc\.weight'.*Did you mean 'fc\.wieght'",
        ),
        (NODE, lambda t: t.update({"fc.scale": np.zeros(5)}), r"holds the tensor 'fc\.scale'"),
        (
            DETECTOR,
            lambda t: t.update({"rpn.head.cls_logits.bias": np.zeros(9)}),
            r"'rpn\.head\.cls_logits\.bias' has shape \(9,\)",
        ),
    ],
)
@pytest.mark.parametrize("classes", [5, 7])
def test_a_head_is_no_excuse_for_what_does_not_depend_on_the_classes(node, change, message, classes):
    tensors = weights.to_torchvision(random_variables(node, classes))
    change(tensors)
    with pytest.raises(UserError, match=message):
        transfer.fit_in(tensors, random_variables(node, 5), "file", heads=heads_of(node), sized=sized(node))


def test_a_head_that_is_absent_as_a_whole_is_told():
    ours = random_variables(VGG, 5)
    tensors = weights.to_torchvision(random_variables(VGG, 7, seed=1))
    body = {name: tensor for name, tensor in tensors.items() if name.startswith("features.")}
    known = {"heads": heads_of(VGG), "sized": sized(VGG)}
    found = transfer.fit_in(body, ours, "file", **known)
    assert found.fresh == sorted(set(tensors) - set(body)) and not found.unused and not found.resized
    last = {name for name in tensors if name.startswith("classifier.6.")}
    without = {name: tensor for name, tensor in tensors.items() if name not in last}
    assert transfer.fit_in(without, ours, "file", **known).fresh == sorted(last)


def start(given, node, classes, image_size=(64, 64)):
    """What `start_from` makes of drawn variables, its table, and the variables as drawn."""
    drawn = random_variables(node, len(classes))
    state = State(jnp.zeros((), jnp.int32), drawn["params"], drawn["stats"], (), drawn["params"])
    state = jax.tree.map(jnp.asarray, state)
    places = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), state)
    said = []
    target = transfer.Target(classes, image_size, heads_of(node), sized(node, len(classes)), places)
    new = transfer.start_from(given, state, target, said.append)
    console = Console(width=200)
    with console.capture() as told:
        console.print(*said)
    equal(new.ema, new.params)
    return {"params": new.params, "stats": new.stats}, told.get(), drawn


@pytest.mark.parametrize("node", [NODE, DETECTOR])
def test_as_many_but_other_classes_are_learned_anew_and_nothing_else(node):
    # Three anchors a place and two classes: parts of the RPN are as long as the last layers are.
    theirs = random_variables(node, 2, seed=1)
    tensors = weights.to_torchvision(theirs)
    new, said, drawn = start(transfer.Given("run", tensors, ("a", "b")), node, ("c", "d"))
    found, expected, before = map(weights.to_torchvision, (new, theirs, drawn))
    for name in found:
        np.testing.assert_array_equal(found[name], (before if name in sized(node) else expected)[name])
    assert "for other classes, reinitialised" in said and sorted(sized(node))[0] in said
    same, _, _ = start(transfer.Given("run", tensors, ("c", "d")), node, ("c", "d"))
    equal(same, theirs)


def keys(x, a=-0.75):
    """The weight of a sample at distance x in cubic convolution (Keys 1981)."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resampled(grid, rows, columns):
    """A grid (i j d) sampled at rows × columns places, its corners on the corners; the border goes on."""
    height, width, _ = grid.shape
    found = np.zeros((rows, columns, grid.shape[2]))
    for r in range(rows):
        for c in range(columns):
            y, x = r * (height - 1) / (rows - 1), c * (width - 1) / (columns - 1)
            for i in range(int(y) - 1, int(y) + 3):
                for j in range(int(x) - 1, int(x) + 3):
                    pixel = grid[np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)]
                    found[r, c] += keys(y - i) * keys(x - j) * pixel
    return found


@pytest.mark.parametrize(
    ("theirs", "given_size", "ours"),
    [((12, 12), None, (20, 20)), ((12, 12), None, (8, 32)), ((8, 16), (8, 16), (16, 16))],
)
def test_position_embeddings_are_interpolated_for_another_size_of_images(theirs, given_size, ours):
    source = random_variables(VIT | {"image_size": theirs}, 5, seed=1)
    given = transfer.Given("file", weights.to_torchvision(source), image_size=given_size)
    new, said, _ = start(given, VIT | {"image_size": ours}, tuple("abcde"), ours)
    before, after = (np.asarray(v["params"]["encoder"].pop("pos_embedding")) for v in (source, new))
    equal(new, source)
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    grid = before[0, 1:].reshape(theirs[0] // 4, theirs[1] // 4, -1)
    expected = resampled(grid, ours[0] // 4, ours[1] // 4).reshape(after[0, 1:].shape)
    np.testing.assert_allclose(after[0, 1:], expected, atol=1e-5)
    assert re.search(r"interpolated for another size of images +│ 1 +│ encoder\.pos_embedding ", said)


def test_position_embeddings_of_an_unknown_grid_are_refused():
    source = random_variables(VIT | {"image_size": (8, 16)}, 5)
    given = transfer.Given("file", weights.to_torchvision(source))
    with pytest.raises(UserError, match=r"pos_embedding' has shape \(1, 9, 8\), and this network needs \(1, 17, 8\)"):
        start(given, VIT | {"image_size": (16, 16)}, tuple("abcde"), (16, 16))


def test_files_that_are_not_there():
    with pytest.raises(UserError, match=r"nowhere\.safetensors: there is no such weight file"):
        transfer.read("nowhere.safetensors")
