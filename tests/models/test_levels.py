"""What networks give: maps, whose strides they say, against the sizes of these, and keys that stages.py lists."""

import math

import jax
import jax.numpy as jnp
import pytest

from mapjax import stages
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
    {"name": "csp_darknet", "depth": 0.1, "width": 0.0625},
    {"name": "tiny", "width": 8},
    VIT,
    {"name": "unet", "depth": 2, "width": 4, "stride": 2},
    {"name": "unet", "backbone": {"name": "tiny", "width": 4}},
    {"name": "segnet", "encoder": "small", "width": 0.125},
    {"name": "segmenter", "backbone": VIT},
    {"name": "crf_rnn", "unary": {"name": "unet", "depth": 1, "width": 4}},
    {"name": "unet", "depth": 3, "width": 4, "supervised": True},
    {"name": "deeplab", "backbone": {"name": "resnet", "depth": 18, "width": 0.125}, "aux": True},
    {"name": "fcn", "backbone": {"name": "resnet", "depth": 18, "width": 0.125}, "aux": True},
    {"name": "lraspp", "width": 0.25},
    {"name": "figure_ground", "backbone": {"name": "tiny", "width": 4}, "stride": 2, "width": 4},
]
ELSEWHERE = {
    "faster_rcnn",
    "retinanet",
    "fcos",
    "ssd",
    "ssdlite",
    "yolo",
    "yolox",
    "detr",
    "rt_detr",
    "rcnn",
    "fast_rcnn",
    "condinst",
}  # in tests of their own: they give maps in a dict of their own


@pytest.mark.parametrize("node", NODES, ids=lambda node: "-".join(str(value) for value in node.values())[:40])
def test_levels_are_all_maps_with_their_strides_and_other_outputs_are_in_the_table(node):
    model = parts.make("models", node, **({} if node.get("convolutional") else {"classes": 3}))

    def outputs():
        images, key = jnp.zeros((1, SIDE, SIDE, 3)), jax.random.key(0)
        return model.apply(model.init(key, images), images, train=True, key=key)[0]

    found = jax.eval_shape(outputs)
    maps = {name: value for name, value in found.items() if value.ndim == 4 and value.dtype == jnp.float32}
    maps = {name: value for name, value in maps.items() if "logits" not in name}
    assert dict(model.levels) == {name: 2 ** round(math.log2(SIDE / value.shape[1])) for name, value in maps.items()}
    assert list(model.levels.values()) == sorted(model.levels.values()), "finest first"
    stages.check("output", {name: value for name, value in found.items() if name not in maps} | {"features": maps})


def test_every_network_is_here():
    assert {node["name"] for node in NODES} | ELSEWHERE == set(parts.names("models"))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"aux": (1, 4)}, "has C=4, but logits says 3"),
        ({"aux1_map_logits": (1, 8, 8, 2)}, "has C=2, but logits says 3"),
        ({"auxiliary": (1, 3)}, "'auxiliary' that the table of stages.py does not list"),
        ({"pool": (1, 2, 2, 3)}, r"'pool' has shape \(1, 2, 2, 3\), expected axes B D"),
        ({"deltas": (1, 9)}, "expected axes B R 4"),
    ],
)
def test_outputs_that_the_table_does_not_list(outputs, words):
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in {"logits": (1, 3), **outputs}.items()}
    with pytest.raises(ValueError, match=words):
        stages.check("output", shapes)
