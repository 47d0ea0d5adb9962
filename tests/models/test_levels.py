"""The strides that networks say their maps have, against the sizes of these maps."""

import math

import jax
import jax.numpy as jnp
import pytest

from mapjax.config import parts

SIDE = 1024  # of an image: a border that is lost on the way to a map is nothing to its stride
VIT = {"name": "vit", "width": 8, "depth": 2, "heads": 2, "mlp": 8, "image_size": 32, "patch": 16}
NODES = [
    {"name": "resnet", "depth": 18, "width": 0.125},
    {"name": "resnet", "depth": 18, "width": 0.125, "output_stride": 8},
    {"name": "resnet", "depth": 18, "width": 0.125, "stem": "small", "stages": 3},
    {"name": "mobilenet", "version": 1, "width": 0.25},
    {"name": "mobilenet", "version": 2, "width": 0.25},
    {"name": "mobilenet", "version": 3, "width": 0.25, "blocks": True},
    {"name": "mobilenet", "version": 3, "width": 0.25, "size": "small", "dilated": True},
    {"name": "efficientnet", "variant": "lite0", "depth": 0.3, "width": 0.25},
    {"name": "convnext", "depths": (1, 1, 1, 1), "widths": (8, 8, 8, 8)},
    {"name": "vgg", "depth": 11, "width": 0.125},
    {"name": "vgg", "depth": 11, "width": 0.01, "convolutional": True},
    {"name": "alexnet", "width": 0.125},
    {"name": "googlenet", "width": 0.125},
    {"name": "inception", "width": 0.125},
    {"name": "cifarnet", "widths": (8, 8, 8)},
    {"name": "resnet9", "width": 8},
    {"name": "tiny", "width": 8},
    VIT,
    {"name": "unet", "depth": 2, "width": 4, "stride": 2},
    {"name": "unet", "backbone": {"name": "tiny", "width": 4}},
    {"name": "segnet", "encoder": "small", "width": 0.125},
    {"name": "segmenter", "backbone": VIT},
    {"name": "crf_rnn", "unary": {"name": "unet", "depth": 1, "width": 4}},
]


@pytest.mark.parametrize("node", NODES, ids=lambda node: "-".join(str(value) for value in node.values())[:40])
def test_levels_are_all_maps_with_their_strides(node):
    model = parts.make("models", node, **({} if node.get("convolutional") else {"classes": 3}))

    def outputs():
        images = jnp.zeros((1, SIDE, SIDE, 3))
        return model.apply(model.init(jax.random.key(0), images), images, train=False, key=None)[0]

    maps = {name: value for name, value in jax.eval_shape(outputs).items() if value.ndim == 4}
    maps = {name: value for name, value in maps.items() if "logits" not in name and value.dtype == jnp.float32}
    assert dict(model.levels) == {name: 2 ** round(math.log2(SIDE / value.shape[1])) for name, value in maps.items()}
    assert list(model.levels.values()) == sorted(model.levels.values()), "finest first"
