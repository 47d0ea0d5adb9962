"""YOLOX and our own YOLO: published sizes, the sites, names, and what is trained by which branch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths, weights
from mapjax.errors import UserError
from mapjax.models.backbones import csp_darknet
from mapjax.models.detectors import yolo, yolox
from mapjax.models.heads import decoupled

IMAGES = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
TINY = {"depth": 0.1, "width": 0.0625}  # of our own: one block a stage, 4 channels in the stem


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
    ("size", "millions"), [("nano", 0.91), ("tiny", 5.06), ("s", 9.0), ("m", 25.3), ("l", 54.2), ("x", 99.1)]
)
def test_the_published_numbers_of_parameters(size, millions):
    count = paths.count(shapes_of(yolox.make(size=size, classes=80))["params"]) / 1e6
    assert round(count, 2 if millions < 9 else 1) == millions


def test_names_of_the_published_files():
    names = weights.shapes(shapes_of(yolox.make(size="nano", classes=80)))
    for name, shape in {
        "backbone.backbone.stem.conv.conv.weight": (16, 12, 3, 3),
        "backbone.backbone.dark2.0.dconv.conv.weight": (16, 1, 3, 3),
        "backbone.backbone.dark3.1.m.2.conv2.pconv.bn.running_var": (32,),
        "backbone.backbone.dark5.1.conv2.conv.weight": (256, 512, 1, 1),
        "backbone.lateral_conv0.conv.weight": (128, 256, 1, 1),
        "backbone.C3_p4.conv1.bn.bias": (64,),
        "backbone.bu_conv2.dconv.conv.weight": (64, 1, 3, 3),
        "head.stems.2.conv.weight": (64, 256, 1, 1),
        "head.cls_convs.0.1.pconv.conv.weight": (64, 64, 1, 1),
        "head.cls_preds.2.bias": (80,),
        "head.reg_preds.0.weight": (4, 64, 1, 1),
        "head.obj_preds.1.weight": (1, 64, 1, 1),
    }.items():
        assert names[name] == shape, name
    assert "backbone.backbone.dark3.0.conv.weight" in weights.shapes(shapes_of(yolox.make(size="s", classes=80)))


def test_answers_of_all_points():
    """By level, row and column; YOLOX' points are the corners of cells, ours their middles."""
    for model, shift in ((yolox.make(size="nano", classes=3), 0), (yolo.make(classes=3, **TINY), 0.5)):
        outputs, _ = jax.eval_shape(
            lambda v, x, apply=model.apply: apply(v, x, train=False, key=None), shapes_of(model), IMAGES
        )
        assert outputs["site_logits"].shape == (1, 96 + 24 + 6, 3) and outputs["site_deltas"].shape == (1, 126, 4)
        assert {outputs[name].dtype.name for name in outputs if name != "features"} == {"float32"}
        sites = model.calls["sites"](64, 96)
        assert [len(level) for level in sites] == [96, 24, 6]
        for level, stride in zip(sites, (8, 16, 32), strict=True):
            np.testing.assert_array_equal(level[:, 2:] - level[:, :2], np.full((len(level), 2), stride))
            x, y = (np.array([1, 0]) + shift) * stride  # of the second cell
            np.testing.assert_array_equal((level[1, :2] + level[1, 2:]) / 2, [x, y])


class Maps(nn.Module):
    """Stands for a backbone with a neck."""

    @nn.compact
    def __call__(self, images, train):
        scale = self.param("scale", nn.initializers.ones, ())
        return {name: scale * images[:, ::stride, ::stride] for name, stride in decoupled.STRIDES.items()}


def test_the_branch_that_answers_once_teaches_nothing_below_it():
    head, single = (decoupled.YoloHead(2, (4, 4), "none", jnp.float32) for _ in range(2))
    model = yolo.Detector(Maps(), head, single)
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]

    def total(params, branch):
        outputs = model.apply({"params": params}, images)
        return outputs[f"{branch}_logits"].sum() + outputs[f"{branch}_deltas"].sum()

    found = jax.jit(lambda params: [jax.grad(total)(params, branch) for branch in ("site", "single")])(params)
    moved = [{top for top, tree in one.items() if any(leaf.any() for leaf in jax.tree.leaves(tree))} for one in found]
    assert moved == [{"backbone", "head"}, {"single_head"}]
    assert (params["head"]["cls_preds"]["0"]["bias"] < -4).all(), "a class is rare before anything is learned"


def test_without_the_second_branch_and_on_another_backbone():
    model = yolo.make(classes=2, single=False, width=0.25, backbone={"name": "resnet", "depth": 18, "width": 0.125})
    outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=None), shapes_of(model), IMAGES)
    assert set(outputs) == {"features", "site_logits", "site_deltas"}
    assert {"layer4", "p3", "p4", "p5"} <= set(outputs["features"])


def test_features_of_the_backbone():
    model = csp_darknet.make(size="nano", classes=5)
    outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), shapes_of(model), IMAGES)
    assert {name: value.shape[1:] for name, value in outputs.items()} == {
        "stem": (32, 48, 16),
        "dark2": (16, 24, 32),
        "dark3": (8, 12, 64),
        "dark4": (4, 6, 128),
        "dark5": (2, 3, 256),
        "pool": (256,),
        "logits": (5,),
    }


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: yolox.make(classes=2, size="n"), r"yolox has no size='n'\. Known: l, m"),
        (lambda: yolo.make(classes=2, size="nano"), r"yolo has no size='nano'\."),
        (lambda: yolox.make(classes=2, norm="bach"), r"no norm='bach'\. Did you mean 'batch'"),
        (lambda: yolox.make(classes=2, backbone={"name": "resnet9"}), r"'resnet9' has no map of stride 16; choose"),
        (lambda: csp_darknet.make(size="S"), r"csp_darknet has no size='S'"),
        (lambda: csp_darknet.make(width=0.01), r"width=0\.01 0\.04 or more"),
        (lambda: shapes_of(csp_darknet.make(size="nano")), None),
    ],
)
def test_mistakes(make, match):
    if match is None:
        small = jax.ShapeDtypeStruct((1, 33, 64, 3), jnp.float32)
        with pytest.raises(UserError, match=r"needs sides that 2 divides, not 33×64"):
            jax.eval_shape(csp_darknet.make(size="nano").init, jax.random.key(0), small)
        return
    with pytest.raises(UserError, match=match):
        make()
