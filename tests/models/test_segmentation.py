"""Sizes, names and transfer of FCN, DeepLabV3 and LR-ASPP; values in test_parity_segmentation.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths, weights
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.segmenters import deeplab, fcn
from mapjax.weights import transfer

KEY = jax.random.key(0)
RESNET = {"name": "resnet", "depth": 50, "width": 0.0625}
VGG = {"name": "vgg", "depth": 16, "width": 0.0625}
MOBILENET = {"name": "mobilenet", "width": 0.125}


def variables_of(node, classes=21):
    model = parts.make("models", node, classes=classes)
    return jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((2, 33, 32, 3), "float32"))


def shapes_of(node, size=(65, 96), classes=21, train=False, dtype="float32"):
    model = parts.make("models", node, classes=classes, dtype=dtype)
    images = jax.ShapeDtypeStruct((2, *size, 3), "float32")
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=KEY), variables, images)
    return variables, outputs, stats


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("node", "parameters"),
    [
        ({"name": "fcn", "backbone": {"name": "resnet", "depth": 50}, "aux": True}, 35_322_218),
        ({"name": "fcn", "backbone": {"name": "resnet", "depth": 101}, "aux": True}, 54_314_346),
        ({"name": "deeplab", "aux": True}, 42_004_074),
        ({"name": "deeplab", "backbone": {"name": "resnet", "depth": 101}, "aux": True}, 60_996_202),
        ({"name": "deeplab", "backbone": {"name": "mobilenet"}, "aux": True}, 11_029_328),
        ({"name": "lraspp"}, 3_221_538),
        # VGG-16 without its last layer, and a score of fc7, pool4 and pool3.
        ({"name": "fcn", "variant": "32s"}, 138_357_544 - 4_097_000 + 21 * 4097),
        ({"name": "fcn", "variant": "16s"}, 138_357_544 - 4_097_000 + 21 * (4097 + 513)),
        ({"name": "fcn"}, 138_357_544 - 4_097_000 + 21 * (4097 + 513 + 257)),
    ],
)
def test_parameter_counts_of_segmentation(node, parameters):
    assert count(variables_of(node)) == parameters


@pytest.mark.parametrize(
    ("node", "size", "expected", "auxiliary"),
    [
        ({"name": "fcn", "variant": "32s", "backbone": VGG}, (65, 98), (65, 98), None),
        ({"name": "fcn", "variant": "16s", "backbone": VGG}, (65, 98), (65, 98), None),
        ({"name": "fcn", "variant": "8s", "backbone": VGG}, (65, 98), (65, 98), None),
        ({"name": "fcn", "backbone": RESNET, "aux": True}, (65, 98), (9, 13), (9, 13)),
        ({"name": "fcn", "backbone": RESNET | {"output_stride": 16}}, (65, 98), (5, 7), None),
        ({"name": "fcn", "backbone": RESNET}, (1, 5), (1, 1), None),
        ({"name": "deeplab", "backbone": RESNET, "aux": True}, (65, 98), (9, 13), (9, 13)),
        ({"name": "deeplab", "backbone": RESNET}, (3, 17), (1, 3), None),
        ({"name": "deeplab", "backbone": MOBILENET, "aux": True}, (65, 98), (5, 7), (9, 13)),
        ({"name": "lraspp", "width": 0.125}, (65, 98), (9, 13), None),
        ({"name": "lraspp", "width": 0.125}, (1, 2), (1, 1), None),
    ],
)
def test_sizes_of_segmentation(node, size, expected, auxiliary):
    variables, outputs, stats = shapes_of(node, size, classes=5, train=True)
    assert outputs["map_logits"].shape == (2, *expected, 5) and outputs["map_logits"].dtype == jnp.float32
    assert ("aux_map_logits" in outputs) == (auxiliary is not None)
    if auxiliary is not None:
        assert outputs["aux_map_logits"].shape == (2, *auxiliary, 5)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["stats"])


@pytest.mark.parametrize("node", [{"name": "fcn", "backbone": VGG}, {"name": "deeplab", "backbone": RESNET}])
def test_lower_precision_of_segmentation(node):
    variables, outputs, _ = shapes_of(node, dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    assert {value.dtype.name for name, value in outputs.items() if name.endswith("map_logits")} == {"float32"}
    assert outputs["fc7" if "fc7" in outputs else "layer4"].dtype == jnp.bfloat16


HEADS = {
    "fcn": (
        {"name": "fcn", "backbone": RESNET, "aux": True},
        {"classifier.0.weight", "classifier.1.running_var", "classifier.4.bias", "aux_classifier.4.weight"},
    ),
    "deeplab": (
        {"name": "deeplab", "backbone": RESNET, "aux": True},
        {
            "classifier.0.convs.0.0.weight",
            "classifier.0.convs.3.1.running_mean",
            "classifier.0.convs.4.1.weight",
            "classifier.0.convs.4.2.bias",
            "classifier.0.project.1.weight",
            "classifier.1.weight",
            "classifier.2.running_var",
            "classifier.4.bias",
            "aux_classifier.0.weight",
        },
    ),
    "lraspp": (
        {"name": "lraspp", "width": 0.125},
        {
            "backbone.features.16.1.running_var",
            "classifier.cbr.0.weight",
            "classifier.cbr.1.running_mean",
            "classifier.scale.1.weight",
            "classifier.low_classifier.bias",
            "classifier.high_classifier.weight",
        },
    ),
}


def heads_of(node):
    return parts.make("models", node, classes=4).heads


def filled(variables, value):
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, np.float32), variables)


@pytest.mark.parametrize(("node", "names"), HEADS.values(), ids=HEADS)
def test_names_there_and_back_and_heads_for_other_classes(node, names):
    theirs, ours = (variables_of(node, classes) for classes in (21, 4))
    tensors = weights.to_torchvision(filled(theirs, 1))
    assert names <= set(tensors)
    jax.tree.map(np.testing.assert_array_equal, weights.from_torchvision(tensors, theirs), filled(theirs, 1))
    found = transfer.fit_in(tensors, filled(ours, 0), "file", heads=heads_of(node))
    last = {name.rpartition(".")[0].rpartition(".")[2] for name in found.resized}
    assert last == ({"low_classifier", "high_classifier"} if node["name"] == "lraspp" else {"4"})
    assert not found.fresh and not found.unused
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(found.variables["params"]["backbone"]))


def test_torchvisions_names_of_a_mobilenet_below():
    node = {"name": "lraspp", "width": 0.125}
    variables = filled(variables_of(node), 1)
    tensors = {
        name.replace("backbone.features.", "backbone."): tensor
        for name, tensor in weights.to_torchvision(variables).items()
    }
    assert "backbone.0.0.weight" in tensors
    found = weights.from_torchvision(tensors, variables)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.parametrize(
    ("node", "classifier", "unused"),
    [
        ({"name": "fcn", "backbone": VGG}, VGG, "backbone.classifier.6"),
        ({"name": "fcn", "backbone": RESNET}, RESNET, "backbone.fc"),
        ({"name": "deeplab", "backbone": RESNET}, RESNET, "backbone.fc"),
        ({"name": "lraspp", "width": 0.125}, MOBILENET | {"version": 3}, "backbone.classifier.3"),
    ],
)
def test_weights_of_classifiers_fit_in_the_backbones(node, classifier, unused):
    given, ours = filled(variables_of(classifier), 1), filled(variables_of(node), 0)
    found = transfer.fit_in(weights.to_torchvision(given), ours, "file", heads=heads_of(node))
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(found.variables["params"]["backbone"]))
    assert f"{unused}.weight" in found.unused and not found.resized


def check_gradients(gradient):
    for path, leaf in zip(paths.paths(gradient), jax.tree.leaves(gradient)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_gradients_of_an_fcn():
    model = parts.make("models", {"name": "fcn", "backbone": VGG | {"depth": 11}}, classes=3)
    images = np.random.default_rng(0).normal(size=(1, 33, 35, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, KEY, images)
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.3, 0.6, leaf.shape).astype(np.float32) ** 2, shapes)

    def loss(params):
        outputs, _ = model.apply({**variables, "params": params}, images, train=True, key=KEY)
        return jnp.square(outputs["map_logits"] - 1).mean()

    check_gradients(jax.jit(jax.grad(loss))(variables["params"]))


def test_gradients_of_a_pyramid():
    features = {name: jax.random.normal(KEY, (3, 4, 5, 8)) for name in ("late", "early")}
    heads = fcn.Heads(deeplab.DeepLabHead, "late", "early", 3, "batch", {"rates": (1, 2)}, jnp.float32)
    variables = jax.jit(lambda features: heads.init(KEY, features, False))(features)

    def loss(params, features):
        rngs = {"dropout": KEY}
        outputs, _ = heads.apply({**variables, "params": params}, features, True, mutable=["stats"], rngs=rngs)
        return sum(jnp.square(value - 1).mean() for value in outputs.values())

    check_gradients(jax.jit(jax.grad(loss, (0, 1)))(variables["params"], features))


@pytest.mark.parametrize("variant", ["32s", "8s"])
def test_the_map_of_a_vgg_lies_over_the_image_whatever_its_size(variant):
    model = parts.make("models", {"name": "fcn", "variant": variant, "backbone": VGG | {"depth": 11}}, classes=3)
    images = np.random.default_rng(0).normal(size=(1, 40, 70, 3)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (0, 24), (0, 26), (0, 0)))
    variables = model.init(KEY, padded)
    found, expected = (model.apply(variables, x, train=False, key=None)[0]["map_logits"] for x in (images, padded))
    np.testing.assert_array_equal(found, expected[:, :40, :70])
    assert np.asarray(found).std() > 0


def test_scores_of_a_vgg_begin_with_those_of_fc7():
    features = {name: jnp.ones((1, side, side, 2)) for name, side in (("fc7", 1), ("pool4", 2), ("pool3", 4))}
    head = fcn.Scores(3, fcn.VARIANTS["8s"], 0.5)
    params = head.init(KEY, features, False)["params"]
    assert not params["pool4"]["kernel"].any() and not params["pool3"]["kernel"].any()
    found = head.apply({"params": params}, features, False)
    alone = features["fc7"] @ params["fc7"]["kernel"][0, 0]
    np.testing.assert_allclose(found, np.broadcast_to(alone, (1, 4, 4, 3)), rtol=1e-5)
    params["pool4"]["bias"] = jnp.arange(3.0)
    found = head.apply({"params": params}, features, False)
    np.testing.assert_allclose(found, np.broadcast_to(alone + np.arange(3.0), (1, 4, 4, 3)), rtol=1e-5)


def test_mistakes_of_segmentation():
    for node, match in [
        ({"name": "fcn", "variant": "4s"}, r"fcn has no variant='4s'\. Did you mean"),
        ({"name": "fcn", "variant": "8s", "backbone": RESNET}, r"variant='8s' is of the backbone 'vgg'"),
        ({"name": "fcn", "aux": True}, r"aux is of the backbone 'resnet'"),
        ({"name": "fcn", "backbone": {"name": "vit"}}, r"backbone 'vgg' or 'resnet', not on 'vit'"),
        ({"name": "deeplab", "backbone": {"name": "vgg"}}, r"backbone 'resnet' or 'mobilenet', not on 'vgg'"),
        ({"name": "vgg", "convolutional": True}, r"take the network 'fcn'"),
    ]:
        with pytest.raises(UserError, match=match):
            parts.make("models", node, classes=2)
