"""Sizes, order and options; values are compared with torchvision's in test_parity_torchvision.py."""

import inspect
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths, stages
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.detectors import faster_rcnn
from mapjax.models.heads.boxes import RoiHeads
from mapjax.models.heads.rpn import RPN
from mapjax.models.necks import body
from mapjax.task import Context
from mapjax.tasks.detection import two_stage
from mapjax.weights import recipes

IMAGES = jax.ShapeDtypeStruct((2, 65, 96, 3), jnp.float32)
SMALL = {
    "classes": 2,
    "backbone": {"name": "resnet", "depth": 18, "width": 0.0625},
    "channels": 4,
    "representation": 6,
    "pool": 2,
}


def shapes_of(model, images=IMAGES, boxes=5):
    def run(variables, images, boxes):
        outputs, stats = model.apply(variables, images, train=True)
        return outputs, stats, model.calls["regions"](variables, outputs["features"], boxes, train=True)[0]

    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    boxes = jax.ShapeDtypeStruct((images.shape[0], boxes, 4), jnp.float32)
    return variables, *jax.eval_shape(run, variables, images, boxes)


def count(leaves):
    return sum(leaf.size for leaf in jax.tree.leaves(leaves))


@pytest.mark.parametrize(
    ("weights", "trained", "numbers"),  # torchvision counts what it trains, and here all tensors of its files
    [
        ("resnet50_fpn", 41_755_286, 41_861_526),
        ("resnet50_fpn_v2", 43_712_278, 43_771_542),
        ("mobilenet_v3_large_fpn", 19_386_354, 19_435_154),
    ],
)
def test_counts_of_torchvision(weights, trained, numbers):
    """Of those but v2 the affine parts of the frozen norms are no parameters."""
    node = dict(recipes.find(f"torchvision/fasterrcnn_{weights}").model)
    variables = jax.eval_shape(parts.make("models", node, classes=90).init, jax.random.key(0), IMAGES)
    assert (count(variables["params"]), count(variables)) == (trained, numbers)


def test_outputs_by_name():
    model = faster_rcnn.make(**SMALL)
    variables, outputs, stats, regions = shapes_of(model)
    grids = {"p2": (17, 24), "p3": (9, 12), "p4": (5, 6), "p5": (3, 3), "p6": (2, 2)}
    assert {name: value.shape for name, value in outputs["features"].items()} == {
        "stem": (2, 33, 48, 4),
        "layer1": (2, 17, 24, 4),
        "layer2": (2, 9, 12, 8),
        "layer3": (2, 5, 6, 16),
        "layer4": (2, 3, 3, 32),
    } | {name: (2, *grid, 4) for name, grid in grids.items()}
    anchors = model.calls["anchors"]((65, 96))
    assert [len(level) for level in anchors] == [3 * h * w for h, w in grids.values()]
    assert outputs["objectness"].shape == (2, sum(map(len, anchors)))
    assert outputs["deltas"].shape == (2, sum(map(len, anchors)), 4)
    assert regions["logits"].shape == (2, 5, 3) and regions["deltas"].shape == (2, 5, 3, 4)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    stages.check("output", outputs)
    assert model.levels == {"p2": 4, "p3": 8, "p4": 16, "p5": 32}


def test_a_shorter_pyramid():
    options = {"levels": ("layer3", "layer4"), "anchor_sizes": ((64, 96), (128, 192), (256, 384)), "ratios": (1,)}
    model = faster_rcnn.make(**SMALL | options)
    variables, outputs, _, regions = shapes_of(model)
    assert [name for name in outputs["features"] if name.startswith("p")] == ["p4", "p5", "p6"]
    assert [len(level) for level in model.calls["anchors"]((65, 96))] == [2 * 5 * 6, 2 * 3 * 3, 2 * 2 * 2]
    assert outputs["objectness"].shape == (2, 2 * (30 + 9 + 4)) and regions["logits"].shape == (2, 5, 3)
    assert set(variables["params"]["backbone"]["fpn"]["inner_blocks"]) == {"0", "1"}


def test_lower_precision_keeps_parameters_and_answers_in_float32():
    variables, outputs, stats, regions = shapes_of(faster_rcnn.make(dtype="bfloat16", **SMALL))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, stats, regions))} == {"float32"}
    assert outputs["features"]["layer4"].dtype == outputs["features"]["p2"].dtype == jnp.bfloat16
    assert outputs["objectness"].dtype == outputs["deltas"].dtype == jnp.float32


def test_offsets_are_in_the_order_of_the_anchors():
    """A head that passes its input on, given each cell's own place, answers with the centres of the anchors."""
    image, ratios = (64, 128), (0.5, 1.0, 2.0)
    anchors = faster_rcnn.make(**SMALL | {"ratios": ratios}).calls["anchors"](image)
    maps = []
    for stride in (4, 8, 16, 32, 64):
        y, x = np.mgrid[0 : image[0] : stride, 0 : image[1] : stride]
        maps.append(np.stack([x, y], -1)[None].astype(np.float32))
    conv = np.zeros((3, 3, 2, 2), np.float32)
    conv[1, 1] = np.eye(2)
    scores, boxes, bias = np.zeros((1, 1, 2, 3)), np.zeros((1, 1, 2, 3, 4)), np.zeros((3, 4))
    scores[..., 0, :] = 1
    boxes[..., 0, :, 0] = boxes[..., 1, :, 1] = 1
    bias[:, 2] = ratios
    head = {
        "conv": {"0": {"0": {"kernel": conv, "bias": np.zeros(2)}}},
        "cls_logits": {"kernel": scores, "bias": np.zeros(3)},
        "bbox_pred": {"kernel": boxes.reshape(1, 1, 2, 12), "bias": bias.reshape(12)},
    }
    head = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), head)
    module = RPN(2, 3)
    objectness, deltas = jax.jit(lambda maps: module.apply({"params": {"head": head}}, maps))(maps)
    every = np.concatenate(anchors)
    np.testing.assert_array_equal(objectness[0], (every[:, 0] + every[:, 2]) / 2)
    np.testing.assert_array_equal(deltas[0, :, :2], (every[:, :2] + every[:, 2:]) / 2)
    found = (every[:, 3] - every[:, 1]) / (every[:, 2] - every[:, 0])
    np.testing.assert_allclose(deltas[0, :, 2], found, rtol=0.05)  # anchors are whole pixels


def test_the_box_head_by_hand():
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(3, 2, 2, 4)).astype(np.float32)
    module = RoiHeads(classes=2, representation=6)
    shapes = jax.eval_shape(module.init, jax.random.key(0), pooled)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)

    def dense(x, part, name):
        return x @ params[part][name]["kernel"] + params[part][name]["bias"]

    first = params["box_head"]["fc6"]
    hidden = np.maximum(pooled.reshape(3, 16) @ first["map_kernel"].reshape(16, 6) + first["bias"], 0)
    hidden = np.maximum(dense(hidden, "box_head", "fc7"), 0)
    logits, deltas = jax.jit(lambda p, x: module.apply({"params": p}, x))(params, pooled)
    np.testing.assert_allclose(logits, dense(hidden, "box_predictor", "cls_score"), rtol=1e-4, atol=1e-4)
    expected = dense(hidden, "box_predictor", "bbox_pred").reshape(3, 3, 4)
    np.testing.assert_allclose(deltas, expected, rtol=1e-4, atol=1e-4)


def test_images_of_a_batch_are_independent():
    model = faster_rcnn.make(**SMALL | {"levels": ("layer1",), "anchor_sizes": ((8,), (16,))})
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 32, 32, 3)), jnp.float32)
    boxes = jnp.asarray([[[2, 3, 20, 17]], [[0, 9, 31, 30]]], jnp.float32)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(np.abs(rng.normal(size=leaf.shape)) * 0.3, jnp.float32),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )

    @jax.jit
    def run(images, boxes):
        outputs, _ = model.apply(variables, images)
        regions, _ = model.calls["regions"](variables, outputs["features"], boxes)
        return {"objectness": outputs["objectness"], "offsets": outputs["deltas"]} | regions

    found, turned = run(images, boxes), run(images[::-1], boxes[::-1])
    for name, value in found.items():
        assert np.all(np.isfinite(value)) and not np.allclose(value[0], value[1], rtol=1e-3)
        np.testing.assert_allclose(turned[name][::-1], value, rtol=1e-5, atol=1e-5)


BACKBONES = {
    "resnet": {"name": "resnet", "depth": 18, "width": 0.0625, "norm": "frozen"},
    "mobilenet_v3_large": {"name": "mobilenet", "version": 3, "width": 0.125},
    "mobilenet_v3_small": {"name": "mobilenet", "version": 3, "size": "small", "width": 0.125},
    "mobilenet_v2": {"name": "mobilenet", "width": 0.125},
    "efficientnet_lite0": {"name": "efficientnet", "variant": "lite0", "width": 0.125, "depth": 0.3},
    "convnext": {"name": "convnext", "depths": (1, 1, 1, 1), "widths": (4, 4, 8, 8)},
    "vgg": {"name": "vgg", "depth": 11, "width": 0.0625},
    "vit": {"name": "vit", "width": 16, "depth": 1, "heads": 2, "mlp": 16, "image_size": 32},
}
READS = {
    "resnet": ("layer1", "layer2", "layer3", "layer4"),
    "convnext": ("layer1", "layer2", "layer3", "layer4"),
    "mobilenet_v3_small": ("stage1", "stage2", "stage4", "stage5"),
    "mobilenet_v2": ("stage2", "stage3", "stage5", "stage7"),
    "efficientnet_lite0": ("stage2", "stage3", "stage5", "stage7"),
    "mobilenet_v3_large": ("stage2", "stage3", "stage5", "stage6"),
    "vgg": ("stage3", "stage4", "stage5", "pool5"),
}
QUICK = ("vgg", "vit")  # an FPN and a simple pyramid; the others compile for longer


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_of_each_backbone(name):
    model = faster_rcnn.make(**SMALL | {"backbone": BACKBONES[name]})
    key = jax.random.key(0)

    def run(images):
        variables = model.init(key, images)
        outputs, stats = model.apply(variables, images, train=True, key=key)
        return variables, outputs["features"], stats

    variables, features, stats = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32))
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])
    sides = {name: value.shape[1:3] for name, value in features.items() if re.fullmatch(r"p\d", name)}
    assert sides == {f"p{i}": (-(-64 // 2**i), -(-96 // 2**i)) for i in range(2, 7)}
    assert [len(level) for level in model.calls["anchors"]((64, 96))] == [3 * h * w for h, w in sides.values()]
    neck = variables["params"]["backbone"]["fpn"]
    if name == "vit":
        assert set(neck) == {"stride4", "stride8", "stride16", "stride32"}
    else:
        widths = [features[level].shape[-1] for level in READS[name]]
        assert [neck["inner_blocks"][str(i)]["0"]["kernel"].shape[2] for i in range(4)] == widths


@pytest.mark.parametrize(
    "node",
    [
        {"name": "alexnet", "width": 0.125},
        {"name": "cifarnet", "widths": (4, 4, 4)},
        {"name": "inception", "width": 0.05},
        BACKBONES["vit"] | {"levels": (4, 8, 16, 32, 64)},
        BACKBONES["vit"] | {"levels": (64,)},
    ],
    ids=lambda node: f"{node['name']}{len(node.get('levels', ()))}",
)
def test_maps_that_are_smaller_than_their_strides_say_fit(node):
    """The anchors of the network's input, whatever the backbone's layers lose at the border, have a score each."""
    backbone = {key: value for key, value in node.items() if key != "levels"}
    model = faster_rcnn.make(**SMALL | {"backbone": backbone, "levels": node.get("levels")})
    task = two_stage.make(model=model, pre_nms_test=20, post_nms_test=5)
    shapes, size = {}, (90, 160)

    def run(image):
        batch = {"image": image, "size": jnp.full((1, 2), 9), "matrix": jnp.eye(3)[None]}
        found = task.predict(task.init(jax.random.key(0), batch), batch, None)
        shapes.update({name: value.shape[1:3] for name, value in found["features"].items()})
        return found

    found = jax.eval_shape(run, jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8))
    whole = max(32, *model.levels.values())
    whole = [-(-side // whole) * whole for side in size]
    assert {name: shapes[name] for name in model.levels} == {
        name: tuple(side // stride for side in whole) for name, stride in model.levels.items()
    }
    assert found["proposals"].shape[0] == 1 and 0 < found["proposals"].shape[1] <= 5


def test_a_map_is_filled_up_around_its_middle():
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    np.testing.assert_array_equal(body.centred(x, (6, 5)), np.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))))
    np.testing.assert_array_equal(body.centred(x, (1, 4)), x[:, 1:2])
    assert body.centred(x, (3, 4)) is x


def drawn(rng, leaf):
    """Kernels that keep the size of what they are given, and scales, biases and statistics near 1."""
    if leaf.ndim == 1:
        return rng.normal(1, 0.1, leaf.shape).astype(np.float32)
    return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)


def training_of(name):
    """The gradient of the task with a detector on a backbone, its variables, and a batch of two images with a box."""
    sizes = ((8,), (16,), (32,), (64,), (128,))
    model = faster_rcnn.make(**SMALL | {"backbone": BACKBONES[name], "anchor_sizes": sizes})
    task = two_stage.make(model=model, pre_nms_train=40, post_nms_train=20, rpn_samples=16, samples=8)
    one = np.ones((2, 1), bool)
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8),
        "boxes": np.float32([[[8, 8, 40, 44]], [[20, 4, 60, 30]]]),
        "classes": np.int32([[0], [1]]),
        "crowd": ~one,
        "valid": one,
        "mask": one[:, 0],
        "size": np.full((2, 2), 64, np.int32),
        "matrix": np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
    }
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    variables = jax.tree.map(partial(drawn, np.random.default_rng(1)), shapes)

    def gradient(variables, batch):
        def loss(params):
            return task.loss({**variables, "params": params}, batch, Context(jax.random.key(1)))

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return gradient, variables, batch


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_a_step_on_each_backbone(name):
    gradient, variables, batch = training_of(name)
    (loss, (stats, _)), found = jax.jit(gradient)(variables, batch)
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, stats)))
    still = {path for path, leaf in zip(paths.paths(found), jax.tree.leaves(found)) if not leaf.any()}
    # Boxes may be too small for the coarsest map, and no one reads the wide layer before a MobileNet's classifier.
    unread = re.compile(r"fpn/.*(3|stride32)/|features/[1-9]\d*/[01]/\w+$")
    assert not {path for path in still if not unread.search(path)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone": {"name": "tiny"}},
            r"the backbone 'tiny' has no maps of stride 4, 8, 16, 32 to build a pyramid on",
        ),
        ({"backbone": {"name": "vit", "patch": 14}}, r"over the backbone 'vit', whose maps have stride 14, must go"),
        (
            {"backbone": {"name": "vit"}, "levels": (4, 16)},
            r"levels=\(4, 16\) over the backbone 'vit'.* leave none out",
        ),
        ({"backbone": {"name": "resnet", "classes": 3}}, r"its backbone takes no 'classes'"),
        (
            {"levels": ("layer2", "layer4")},
            r"must be maps of the backbone 'resnet', which has stem \(2\), layer1 \(4\), .* and they must go from fine",
        ),
        ({"levels": ("layer4", "layer3")}, r"must go from fine to coarse by strides that are powers of 2"),
        ({"levels": ("layer5",)}, r"levels=\('layer5',\) must be maps of the backbone 'resnet'"),
        ({"levels": (64,)}, r"levels=\(64,\) must be maps of the backbone 'resnet'"),
        ({"levels": ()}, r"must be maps of the backbone"),
        ({"norm": "bach"}, r"faster_rcnn has no norm='bach'\. Did you mean 'batch'"),
        ({"rpn_depth": 0}, r"rpn_depth=0 must be 1 or more"),
        ({"box_convs": -1}, r"box_convs=-1 must be 0 or more"),
        ({"channels": 0}, r"channels=0 must be 1 or more"),
        ({"pool": 0}, r"pool=0 must be 1 or more"),
        ({"representation": 0}, r"representation=0 must be 1 or more"),
        ({"ratios": ()}, r"ratios=\(\) must be heights over widths above 0"),
        ({"ratios": (1, 0)}, r"ratios=\(1, 0\) must be heights over widths above 0"),
        ({"levels": 5}, r"levels=5 must be names or strides of maps"),
        ({"backbone": 5}, r"backbone=5 must be a node, as in dict\(name='resnet'"),
        ({"levels": (16, 32), "anchor_sizes": ((32,), (64,))}, r"needs 3 tuples of the same length, .* 2 levels"),
        ({"anchor_sizes": ((32,), (64,), (128,), (256,), (512, 600))}, r"needs 5 tuples of the same length"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        inspect.unwrap(faster_rcnn.make)(classes=2, **options)  # types are checked in tests only
