"""Sizes, options and the layout of heads; values are compared with torchvision's in test_parity_vit.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import weights
from mapjax.errors import UserError
from mapjax.models.backbones import vit

IMAGES = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
TINY = {"width": 24, "depth": 2, "heads": 3, "mlp": 40, "patch": 8, "image_size": 16}


def shapes_of(model, images=IMAGES):
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, train=False, key=None)[0], variables, images)


def start(images, **options):
    """A tiny network with all of its parameters random, and its outputs for some variables."""
    model = vit.make(**TINY, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) * 0.3, shapes)
    return variables, jax.jit(
        lambda v, key=None, train=False: model.apply(v, images, train=train, key=key)[0], static_argnames="train"
    )


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    ("variant", "patch", "count"),
    [
        ("small", 16, 22_050_664),
        ("small", 32, 22_878_952),
        ("base", 16, 86_567_656),
        ("base", 32, 88_224_232),
        ("large", 16, 304_326_632),
        ("large", 32, 306_535_400),
        ("huge", 14, 632_045_800),
    ],
)
def test_parameter_counts(variant, patch, count):
    """They are those of the grid of 224×224, whatever the size of the images."""
    model = vit.make(variant=variant, patch=patch, classes=1000)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count
    assert variables["stats"] == {}


def test_features_by_name():
    images = jax.ShapeDtypeStruct((2, 17, 30, 3), jnp.float32)
    variables, outputs = shapes_of(vit.make(**TINY, classes=7, attention=True), images)
    tokens = (2, 2, 3, 24)
    assert {name: value.shape for name, value in outputs.items()} == {
        "stem": tokens,
        "layer1": tokens,
        "layer2": tokens,
        "map": tokens,
        "attention": (2, 2, 3, 7, 7),
        "pool": (2, 24),
        "logits": (2, 7),
    }
    assert variables["params"]["encoder"]["pos_embedding"].shape == (1, 5, 24)
    without, outputs = shapes_of(vit.make(**TINY), images)
    assert set(variables["params"]) - set(without["params"]) == {"heads"}
    assert "logits" not in outputs and "attention" not in outputs


def test_names_are_those_of_torchvision():
    variables, _ = start(numbers(1, 16, 16, 3), classes=7)
    layer = "encoder.layers.encoder_layer_1"
    shapes = {name: tensor.shape for name, tensor in weights.to_torchvision(variables).items()}
    assert {name: shape for name, shape in shapes.items() if "encoder_layer_0" not in name} == {
        "conv_proj.weight": (24, 3, 8, 8),
        "conv_proj.bias": (24,),
        "class_token": (1, 1, 24),
        "encoder.pos_embedding": (1, 5, 24),
        f"{layer}.ln_1.weight": (24,),
        f"{layer}.ln_1.bias": (24,),
        f"{layer}.self_attention.in_proj_weight": (72, 24),
        f"{layer}.self_attention.in_proj_bias": (72,),
        f"{layer}.self_attention.out_proj.weight": (24, 24),
        f"{layer}.self_attention.out_proj.bias": (24,),
        f"{layer}.ln_2.weight": (24,),
        f"{layer}.ln_2.bias": (24,),
        f"{layer}.mlp.0.weight": (40, 24),
        f"{layer}.mlp.0.bias": (40,),
        f"{layer}.mlp.3.weight": (24, 40),
        f"{layer}.mlp.3.bias": (24,),
        "encoder.ln.weight": (24,),
        "encoder.ln.bias": (24,),
        "heads.head.weight": (7, 24),
        "heads.head.bias": (7,),
    }


def test_lower_precision_keeps_parameters_and_logits_in_float32():
    variables, outputs = shapes_of(vit.make(dtype="bfloat16", classes=7, attention=True, **TINY))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert outputs["stem"].dtype == outputs["layer2"].dtype == outputs["map"].dtype == jnp.bfloat16
    assert outputs["pool"].dtype == outputs["logits"].dtype == outputs["attention"].dtype == jnp.float32


def test_self_attention():
    """Against its formula in float64; asking for the weights changes nothing else."""
    x, heads = numbers(2, 5, 12), 3
    module = vit.SelfAttention(heads, 0.0, weights=True)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x)
    variables = jax.tree.map(lambda leaf: numbers(*leaf.shape, seed=leaf.size), shapes)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), variables["params"])
    query, key, value = (
        (x @ params["in_proj_kernel"][:, i] + params["in_proj_bias"][i]).reshape(2, 5, heads, 4) for i in range(3)
    )
    scores = np.exp(np.einsum("bshd,bthd->bhst", query, key) / 2)
    expected = scores / scores.sum(-1, keepdims=True)
    mixed = np.einsum("bhst,bthd->bshd", expected, value).reshape(2, 5, 12)
    found, attention = module.apply(variables, x, False)
    np.testing.assert_allclose(attention, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found, mixed @ params["out_proj"]["kernel"] + params["out_proj"]["bias"], atol=1e-3)
    plain, nothing = vit.SelfAttention(heads, 0.0).apply(variables, x, False)
    assert nothing is None
    np.testing.assert_allclose(plain, found, atol=1e-4)


def test_heads_are_blocks_of_the_last_axis_in_and_the_first_axis_out():
    """Their order is nothing to the network, so each device of a mesh can have some of them."""
    variables, run = start(numbers(2, 16, 16, 3))
    order = np.arange(24).reshape(3, 8)[[2, 0, 1]].ravel()

    def permute(path, leaf):
        last = str(path[-1].key)
        if last in ("in_proj_kernel", "in_proj_bias"):
            return leaf[..., order]
        return leaf[order] if "out_proj" in str(path) and last == "kernel" else leaf

    shuffled = jax.tree_util.tree_map_with_path(permute, variables)
    np.testing.assert_allclose(run(shuffled)["map"], run(variables)["map"], atol=1e-4)


def test_positions_matter_and_are_interpolated():
    embedding = numbers(1, 1 + 2 * 3, 4)
    assert vit.resize_positions(embedding, (2, 3), (2, 3)) is embedding
    found = vit.resize_positions(embedding, (2, 3), (5, 7))
    assert found.shape == (1, 36, 4)
    np.testing.assert_array_equal(found[:, 0], embedding[:, 0])
    before, after = np.asarray(embedding)[0, 1:].reshape(2, 3, 4), np.asarray(found)[0, 1:].reshape(5, 7, 4)
    np.testing.assert_allclose(after[::4, ::3], before, atol=1e-5)  # every grid point is one of the finer grid
    middle = np.array([-0.09375, 0.59375, 0.59375, -0.09375])  # cubic convolution at 1/2, the end repeated
    np.testing.assert_allclose(after[2, 0], middle @ before[[0, 0, 1, 1], 0], atol=1e-5)
    ones = vit.resize_positions(jnp.ones((1, 10, 2)), (3, 3), (4, 2))
    np.testing.assert_allclose(ones, np.ones((1, 9, 2)), atol=1e-6)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "stochastic_depth"])
def test_dropout_in_training_only_and_from_the_key(name):
    images = numbers(4, 16, 16, 3)
    variables, run = start(images, **{name: 0.5})
    first, again, other = (run(variables, jax.random.key(seed), train=True)["map"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    _, without = start(images)
    np.testing.assert_allclose(run(variables)["map"], without(variables)["map"], atol=1e-5)


def test_remat_changes_no_value():
    images = numbers(2, 16, 16, 3)
    variables, _ = start(images)

    def value_and_gradient(remat):
        model = vit.make(**TINY, dropout=0.2, remat=remat, attention=True)

        def value(params):
            outputs, _ = model.apply({**variables, "params": params}, images, train=True, key=jax.random.key(2))
            return jnp.mean(jnp.square(outputs["map"])) + jnp.mean(jnp.square(outputs["attention"]))

        return jax.jit(jax.value_and_grad(value))(variables["params"])

    plain, again = value_and_gradient(False), value_and_gradient(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


def test_initial_values():
    model = vit.make(width=64, depth=1, heads=2, mlp=128, patch=8, image_size=64, classes=7)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    layer = params["encoder"]["layers"]["encoder_layer_0"]
    for kernel, fans in [(layer["self_attention"]["in_proj_kernel"], 4 * 64), (layer["mlp"]["0"]["kernel"], 64 + 128)]:
        np.testing.assert_allclose(np.abs(kernel).max(), np.sqrt(6 / fans), rtol=0.01)  # Glorot & Bengio 2010
    np.testing.assert_allclose(np.std(params["conv_proj"]["kernel"]), (3 * 8 * 8) ** -0.5, rtol=0.03)
    np.testing.assert_allclose(np.std(params["encoder"]["pos_embedding"]), 0.02, rtol=0.05)
    assert not params["heads"]["head"]["kernel"].any() and not params["class_token"].any()


def test_mistakes():
    with pytest.raises(UserError, match=r"no variant='bass'\. Did you mean 'base'"):
        vit.make(variant="bass")
    with pytest.raises(UserError, match=r"width=100 must be a multiple of heads=12"):
        vit.make(width=100)
    with pytest.raises(UserError, match=r"image_size=100 must be a multiple of patch=16"):
        vit.make(image_size=100)
    with pytest.raises(UserError, match=r"an image of 8×40 is smaller than one patch of 16 pixels"):
        shapes_of(vit.make(), jax.ShapeDtypeStruct((1, 8, 40, 3), jnp.float32))
