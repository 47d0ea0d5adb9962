"""Sizes, names and the places that a SegNet carries to its decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_finite_and_everywhere

from mapjax import paths, weights
from mapjax.errors import UserError
from mapjax.models.backbones import vgg
from mapjax.models.segmenters import segnet
from mapjax.weights import transfer

KEY = jax.random.key(0)
SMALL = {"classes": 3, "encoder": "small", "width": 0.0625}


def shapes_of(model, size, train=False):
    images = jax.ShapeDtypeStruct((2, *size, 3), "float32")
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=None), variables, images)
    return variables, outputs, stats


def random_variables(model, images, seed=1):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, KEY, images)
    return jax.tree.map(lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype(np.float32) ** 2, shapes)


@pytest.mark.parametrize("encoder", ["vgg16", "small"])
@pytest.mark.parametrize("size", [(32, 64), (45, 33), (1, 1), (3, 7)])
def test_as_large_as_the_image_whatever_its_size(encoder, size):
    _, outputs, _ = shapes_of(segnet.make(classes=5, encoder=encoder, width=0.0625), size)
    assert outputs["map_logits"].shape == (2, *size, 5) and outputs["map_logits"].dtype == jnp.float32
    assert outputs["places1"].shape == outputs["pool1"].shape and outputs["places1"].dtype == jnp.uint8


def test_the_decoder_mirrors_vgg():
    variables, _, _ = shapes_of(segnet.make(classes=12), (32, 32))
    params = variables["params"]
    kernels = {name: block["0"]["kernel"].shape[2:] for name, block in params.items() if name.startswith("decoder")}
    assert kernels == {
        "decoder5_0": (512, 512),
        "decoder5_1": (512, 512),
        "decoder5_2": (512, 512),
        "decoder4_0": (512, 512),
        "decoder4_1": (512, 512),
        "decoder4_2": (512, 256),
        "decoder3_0": (256, 256),
        "decoder3_1": (256, 256),
        "decoder3_2": (256, 128),
        "decoder2_0": (128, 128),
        "decoder2_1": (128, 64),
        "decoder1_0": (64, 64),
    }
    assert params["head"]["kernel"].shape == (3, 3, 64, 12)
    encoder = 138_365_992 - 123_642_856  # VGG-16 without its classifier
    decoder = sum(9 * i * o + 2 * o for i, o in kernels.values()) + 9 * 64 * 12 + 12
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == encoder + decoder == 29_446_220


def test_the_small_one_has_a_convolution_at_every_level_and_then_the_classes():
    variables, _, _ = shapes_of(segnet.make(classes=12, encoder="small", width=0.5), (32, 32))
    params = variables["params"]
    kernels = {name: block["0"]["kernel"].shape for name, block in params.items() if name.startswith("decoder")}
    assert kernels == {f"decoder{i}_0": (3, 3, 32, 32) for i in range(1, 5)}
    assert params["head"]["kernel"].shape == (1, 1, 32, 12)


def test_each_value_goes_back_to_its_place():
    """With kernels that pass one channel on, the decoder's input is zero but at the largest of each window."""
    model = segnet.make(classes=1, encoder="small", width=1 / 64, kernel=1)
    images = np.random.default_rng(0).permutation(16 * 16 * 3).reshape(1, 16, 16, 3).astype(np.float32)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.init, KEY, images))

    def identity(path, leaf):
        if path.endswith("kernel"):
            return leaf.at[0, 0, 0].set(1)
        return leaf + 1 if path.endswith(("scale", "var")) else leaf

    variables = paths.map_with_path(identity, variables)
    found = model.apply(variables, images, train=False, key=None)[0]["map_logits"]
    windows = images[0, :, :, 0]
    assert (np.asarray(found) != 0).sum() == 1
    assert np.asarray(found)[0, :, :, 0].argmax() == windows.argmax()


def test_gradients_of_segnet():
    model = segnet.make(**SMALL)
    images = np.random.default_rng(0).normal(size=(2, 17, 16, 3)).astype(np.float32)
    variables = random_variables(model, images)
    assert_finite_and_everywhere(model, variables, images, None)


def test_weights_of_vgg16_bn_fit_in():
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    theirs = vgg.make(depth=16, batch_norm=True, width=0.0625, classes=5)
    given = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), jax.eval_shape(theirs.init, KEY, images))
    model = segnet.make(classes=3, width=0.0625)
    ours = random_variables(model, images)
    found = transfer.fit_in(weights.to_torchvision(given), ours, "file", heads=model.heads)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(found.variables["params"]["backbone"]))
    assert {name.rpartition(".")[0] for name in found.unused} == {f"backbone.classifier.{i}" for i in (0, 3, 6)}
    assert "backbone.features.1.running_mean" in found.loaded and "head.weight" in found.fresh


def test_mistakes_of_segnets():
    with pytest.raises(UserError, match=r"segnet has no encoder='vgg'\. Did you mean 'vgg16'"):
        segnet.make(classes=2, encoder="vgg")
    with pytest.raises(UserError, match=r"kernel=7 is of encoder='small'; that of 'vgg16' is 3"):
        segnet.make(classes=2, kernel=7)
