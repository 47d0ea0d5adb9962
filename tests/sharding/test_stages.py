"""A ResNet whose blocks are stacked is the same network."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import difference, distance
from jax.sharding import PartitionSpec as P

from mapjax import paths, weights
from mapjax.errors import UserError
from mapjax.models.backbones import resnet, vit


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch):
    """Of each kind of block, one network with three and one, that compiles in seconds."""
    for depth in (14, 62):
        monkeypatch.setitem(resnet.STAGES, depth, (3, 1, 0, 0))


def apart(values):
    """Give each block of a stack its own name, as networks have it that are not stacked."""
    if not isinstance(values, dict):
        return values
    found = {name: apart(inner) for name, inner in values.items() if name != "stack"}
    if "stack" in values:
        count = len(jax.tree.leaves(values["stack"])[0])
        found |= {str(i + 1): jax.tree.map(lambda leaf, i=i: leaf[i], values["stack"]) for i in range(count)}
    return found


def made(depth, norm, **options):
    return resnet.make(depth=depth, norm=norm, width=0.125, stem="small", classes=3, **options)


@pytest.mark.parametrize(("depth", "norm", "remat"), [(14, "group", False), (14, "frozen", True), (62, "group", True)])
def test_it_gives_the_same_values_and_gradients(depth, norm, remat):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    stacked, plain = made(depth, norm, stacked=True, remat=remat), made(depth, norm)
    shapes = jax.eval_shape(stacked.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype(np.float32) - 0.3, shapes)
    variables["stats"] = jax.tree.map(lambda leaf: np.abs(leaf) + 0.5, variables["stats"])
    expected = jax.eval_shape(plain.init, jax.random.key(0), images)
    assert jax.tree.structure(apart(variables)) == jax.tree.structure(expected)

    def value(model, params, stats):
        outputs, after = model.apply({"params": params, "stats": stats}, images, train=True)
        return jnp.square(outputs["logits"]).mean(), after

    both = []
    for model, change in ((stacked, lambda values: values), (plain, apart)):
        arguments = change(variables["params"]), change(variables["stats"])
        gradient = jax.jit(jax.value_and_grad(lambda p, s, model=model: value(model, p, s), has_aux=True))
        (loss, after), found = gradient(*arguments)
        jax.tree.map(np.testing.assert_array_equal, after, arguments[1])
        both.append((loss, found))
    assert difference(both[1][0], both[0][0]) < 1e-5
    assert distance(both[1][1], apart(both[0][1])) < 1e-4


def test_each_block_is_drawn_by_itself():
    model = made(14, "group", stacked=True)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    first, second = params["layer1"]["stack"]["conv1"]["kernel"]
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_allclose(np.std([first, second]), np.sqrt(2 / (9 * 8)), rtol=0.1)  # He et al. 2015


def test_statistics_of_micro_batches_are_refused():
    with pytest.raises(UserError, match=r"stacked=True cuts a batch .*set norm to 'group' or 'frozen'"):
        resnet.make(stacked=True)


@pytest.mark.parametrize(("depth", "first", "second"), [(14, "conv1", "conv2"), (62, "conv2", "conv3")])
def test_a_stack_of_blocks_is_split_over_both_axes(depth, first, second):
    model = made(depth, "group", stacked=True)
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32))["params"]
    specs = {path: next((s for e, s in model.rules if re.search(e, path)), None) for path in paths.paths(params)}
    assert specs[f"layer1/stack/{first}/kernel"] == P("pipe", None, None, None, "model")
    assert specs[f"layer1/stack/{second}/kernel"] == P("pipe", None, None, "model", None)
    assert specs[f"layer1/stack/bn{first[-1]}/scale"] == P("pipe", "model")
    assert specs[f"layer1/stack/bn{second[-1]}/scale"] == P("pipe")
    assert specs[f"layer1/0/{first}/kernel"] == P(None, None, None, "model")


def numbers(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(("depth", "norm"), [(14, "frozen"), (62, "group")])
def test_published_weights_have_a_place_in_stacked_blocks(depth, norm):
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
    variables = numbers(jax.eval_shape(made(depth, norm, stacked=True).init, jax.random.key(0), images))
    tensors, expected = weights.to_torchvision(variables), weights.to_torchvision(apart(variables))
    assert set(tensors) == set(expected) and "layer1.2.conv2.weight" in tensors
    for name in tensors:
        np.testing.assert_array_equal(tensors[name], expected[name])
    assert weights.shapes(variables) == {name: tensor.shape for name, tensor in tensors.items()}
    jax.tree.map(np.testing.assert_array_equal, weights.from_torchvision(tensors, variables), variables)


def test_published_weights_have_a_place_in_stacked_layers():
    tiny = {"width": 24, "depth": 3, "heads": 3, "mlp": 40, "patch": 8, "image_size": 16, "classes": 7}
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), np.float32)
    stacked, flat = (jax.eval_shape(vit.make(**tiny, stacked=s).init, jax.random.key(0), images) for s in (True, False))
    assert weights.shapes(stacked) == weights.shapes(flat)
    variables = numbers(stacked)
    tensors = weights.to_torchvision(variables)
    kernel = variables["params"]["encoder"]["layers"]["stack"]["mlp"]["0"]["kernel"]
    np.testing.assert_array_equal(tensors["encoder.layers.encoder_layer_2.mlp.0.weight"], kernel[2].T)
    jax.tree.map(np.testing.assert_array_equal, weights.from_torchvision(tensors, stacked), variables)
    left = {name: tensor for name, tensor in tensors.items() if "encoder_layer_1.mlp.0.weight" not in name}
    with pytest.raises(UserError, match=r"no tensor 'encoder.layers.encoder_layer_1.mlp.0.weight'"):
        weights.from_torchvision(left, stacked)
