"""RetinaNet, FCOS, SSD: sizes, order and options; values are compared with torchvision's in test_parity_dense.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import stages, weights
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.heads.sites import SiteHead
from mapjax.models.necks.falling import VGGMaps
from mapjax.models.necks.fpn import FPN
from mapjax.weights import transfer

KEY = jax.random.key(0)
SMALL = {"name": "resnet", "depth": 18, "width": 0.0625}
VIT = {"name": "vit", "width": 8, "depth": 2, "heads": 2, "mlp": 8, "image_size": 32, "patch": 16}
VGG = {"name": "vgg", "depth": 11, "width": 0.0625}
BACKBONES = [
    SMALL,
    VGG,
    {"name": "mobilenet", "version": 3, "size": "small", "width": 0.25},
    {"name": "efficientnet", "variant": "lite0", "depth": 0.3, "width": 0.25},
    {"name": "convnext", "depths": (1, 1, 1, 1), "widths": (4, 4, 8, 8)},
    {"name": "alexnet", "width": 0.0625},
    VIT,
]
CASES = [
    ({"name": "retinanet", "backbone": SMALL, "channels": 8, "top": "backbone", "norm": "group", "depth": 2}, (65, 97)),
    ({"name": "fcos", "backbone": VIT, "channels": 8, "depth": 1}, (96, 160)),
    ({"name": "ssd", "backbone": VGG, "extras": (8, 8)}, (70, 160)),
    ({"name": "ssd", "width": 0.0625}, (333, 370)),
    ({"name": "ssdlite", "width": 0.25}, (240, 330)),
]


def said_by(node, size, classes=3):
    model = parts.make("models", node, classes=classes)
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=KEY), variables, images)
    return model, variables, outputs


@pytest.mark.parametrize(("node", "size"), CASES, ids=lambda one: repr(one)[:70])
def test_there_is_an_answer_for_each_site(node, size):
    model, _, outputs = said_by(node, size)
    stages.check("output", outputs)
    sites = model.calls["sites"](*size)
    channels = 3 + ("ssd" in node["name"])
    assert outputs["site_logits"].shape == (2, sum(map(len, sites)), channels)
    assert outputs["site_deltas"].shape[1:] == (sum(map(len, sites)), 4)
    assert ("site_quality" in outputs) == (node["name"] == "fcos")
    maps = [x for name, x in sorted(outputs["features"].items()) if re.fullmatch(r"(p|map)\d", name)]
    assert len(maps) == len(sites)
    assert all(len(level) % (x.shape[1] * x.shape[2]) == 0 for level, x in zip(sites, maps))
    assert all(np.isfinite(level).all() and level.dtype == np.float32 for level in sites)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda node: node["name"])
def test_any_backbone_with_levels(backbone):
    for name in ("retinanet", "fcos"):
        model = parts.make("models", {"name": name, "backbone": backbone}, classes=2)
        assert list(model.levels.items())[-2:] == [("p4", 16), ("p5", 32)]
        assert len(model.calls["sites"](64, 96)) == len(model.levels) + 2
    if len(set(model.levels)) == 3 and backbone != VIT:
        model = parts.make("models", {"name": "ssd", "backbone": backbone}, classes=2)
        assert model.levels == {"map0": 8, "map1": 16, "map2": 32}


def test_lower_precision_keeps_parameters_and_answers_in_float32():
    for name in ("fcos", "ssd"):
        _, variables, outputs = said_by({"name": name, "backbone": VGG, "dtype": "bfloat16"}, (64, 64))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
        assert outputs["site_logits"].dtype == outputs["site_deltas"].dtype == jnp.float32
        assert outputs["features"]["map0" if name == "ssd" else "p3"].dtype == jnp.bfloat16


@pytest.mark.parametrize("prior", [0.01, 0.2])
def test_scores_begin_at_the_prior(prior):
    module = SiteHead(3, 2, 1, "none", prior)
    maps = [jnp.zeros((1, 4, 4, 8))]
    outputs, _ = jax.jit(lambda: module.init_with_output(KEY, maps))()
    np.testing.assert_allclose(jax.nn.sigmoid(outputs["site_logits"]), prior, rtol=1e-5)


def test_distances_begin_above_0():
    module = SiteHead(3, 1, 1, "group", 0.01, flat=True, quality=True)
    outputs, _ = jax.jit(lambda: module.init_with_output(KEY, [jnp.ones((1, 4, 4, 8))]))()
    assert outputs["site_deltas"].min() > 1 and outputs["site_quality"].shape == (1, 16)


def test_answers_are_in_the_order_of_sites():
    """A head that passes its input on, given each place its own number, says it in the order of the sites."""
    y, x = np.mgrid[0:3, 0:5]
    maps = [jnp.asarray((10 * y + x)[None, :, :, None], jnp.float32)]
    module = SiteHead(1, 2, 0, "none", 0.5)
    shapes = jax.eval_shape(module.init, KEY, maps)["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["classification_head"]["cls_logits"]["kernel"][1, 1, 0] = [1, 1]
    params["regression_head"]["bbox_reg"]["bias"][:] = np.arange(8)
    outputs = jax.jit(lambda p: module.apply({"params": p}, maps))(params)
    expected = [10 * row + column for row in range(3) for column in range(5) for _ in range(2)]
    assert outputs["site_logits"][0, :, 0].tolist() == expected
    assert outputs["site_deltas"][0, :4].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


@pytest.mark.parametrize("top", ["pyramid", "backbone"])
def test_coarser_maps_are_made_of_the_last(top):
    maps = [jnp.ones((1, 8, 12, 4)), jnp.ones((1, 4, 6, 8))]
    module = FPN(6, top=top)
    found, variables = jax.eval_shape(lambda: module.init_with_output(KEY, maps))
    assert [x.shape[1:3] for x in found] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    extra = variables["params"]["extra_blocks"]
    assert extra["p6"]["kernel"].shape[2] == (6 if top == "pyramid" else 8) and extra["p7"]["kernel"].shape[2] == 6


def test_the_first_map_of_ssd_has_one_length_everywhere():
    module, images = VGGMaps(0.0625), np.random.default_rng(0).normal(size=(1, 300, 300, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: module.init(KEY, images, False))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.2, shapes)
    params["scale_weight"] = np.full(32, 20, np.float32)
    first = jax.jit(lambda p: module.apply({"params": p}, images, False)[0])(params)
    length = np.linalg.norm(first, axis=-1)
    np.testing.assert_allclose(length[length > 0], 20, rtol=1e-4)


@pytest.mark.parametrize(
    "node", [{"name": "retinanet", "backbone": VGG, "channels": 8, "depth": 1}, {"name": "ssd", "backbone": VGG}]
)
def test_weights_of_other_classes_leave_the_last_layers_as_drawn(node):
    rng = np.random.default_rng(0)
    drawn = {}
    for classes in (5, 6, 91):
        _, shapes, _ = said_by(node, (64, 64), classes)
        drawn[classes] = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found = transfer.fit_in(
        weights.to_torchvision(drawn[91]),
        drawn[5],
        "file",
        heads=parts.make("models", node, classes=5).heads,
        sized=transfer.sized_by_classes(drawn[5], drawn[6]),
    )
    assert found.resized and all("classification_head" in name for name in found.resized)
    assert not found.fresh and not found.unused
    kept = found.variables["params"]["head"]["regression_head"]
    jax.tree.map(np.testing.assert_array_equal, kept, drawn[91]["params"]["head"]["regression_head"])


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (
            {"name": "retinanet", "anchor_sizes": ((32,), (64,), (128,))},
            "anchor_sizes needs 5 tuples of the same length, one for each of 3 levels and two for the coarser ones",
        ),
        ({"name": "retinanet", "anchor_sizes": ((32,),) * 4 + ((32, 64),)}, "anchor_sizes needs 5 tuples of the same"),
        ({"name": "retinanet", "ratios": ()}, "ratios=.* must be heights over widths"),
        ({"name": "retinanet", "norm": "batch"}, "retinanet has no norm='batch'"),
        ({"name": "retinanet", "prior": 1.0}, r"prior=1\.0 must be between 0 and 1"),
        ({"name": "retinanet", "top": "pool"}, "top='pool' must be 'pyramid' or 'backbone'"),
        ({"name": "retinanet", "top": "backbone", "backbone": VIT}, "top='backbone' needs maps of several strides"),
        ({"name": "fcos", "depth": -1}, "fcos: depth=-1 must be 0 or more"),
        ({"name": "fcos", "channels": 0}, "fcos: channels=0 must be 1 or more"),
        ({"name": "ssd", "ratios": ((2,),) * 5}, "ssd: ratios needs 6 values, one for each of 6 maps; found"),
        ({"name": "ssd", "scales": (0.1,) * 6}, "ssd: scales needs 7 values, one for each of 6 maps and one more"),
        ({"name": "ssd", "steps": (8, 16)}, "ssd: steps needs 6 values"),
        ({"name": "ssd", "backbone": SMALL, "levels": (32, 16)}, "from fine to coarse; it has stem"),
        ({"name": "ssd", "backbone": SMALL, "levels": (64,)}, "must be maps of the backbone 'resnet'"),
        ({"name": "ssd", "backbone": SMALL, "norm": "frozen"}, "ssd has no norm='frozen'"),
        ({"name": "ssdlite", "ratios": ((2,),)}, "ssdlite: ratios needs 6 values"),
    ],
)
def test_mistakes(node, said):
    with pytest.raises(UserError, match=said):
        parts.make("models", node, classes=2)


def test_images_that_leave_nothing_for_a_map():
    model = parts.make("models", {"name": "ssd"}, classes=2)
    for ask in (lambda: model.calls["sites"](240, 320), lambda: model.init(KEY, jnp.zeros((1, 240, 320, 3)))):
        with pytest.raises(UserError, match="images of 240×320 leave nothing for the last of 6 maps"):
            ask()
