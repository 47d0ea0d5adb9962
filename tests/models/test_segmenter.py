"""Sizes and options of Segmenters; the mask transformer's products by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import paths, weights
from mapjax.errors import UserError
from mapjax.models.backbones import vit
from mapjax.models.segmenters import segmenter
from mapjax.weights import transfer

KEY = jax.random.key(0)
TINY = {"variant": "small", "patch": 4, "image_size": 8, "width": 8, "depth": 2, "heads": 2, "mlp": 12}
VIT = {"name": "vit", **TINY}


def shapes_of(model, size, train=False):
    images = jax.ShapeDtypeStruct((2, *size, 3), "float32")
    variables = jax.eval_shape(model.init, KEY, images)
    outputs, stats = jax.eval_shape(lambda v, x: model.apply(v, x, train=train, key=KEY), variables, images)
    return variables, outputs, stats


@pytest.mark.parametrize("decoder", ["linear", "mask"])
@pytest.mark.parametrize(("size", "grid"), [((8, 12), (2, 3)), ((9, 15), (3, 4)), ((1, 2), (1, 1))])
def test_a_logit_for_each_patch(decoder, size, grid):
    variables, outputs, stats = shapes_of(segmenter.make(classes=5, backbone=VIT, decoder=decoder), size, train=True)
    assert outputs["map_logits"].shape == (2, *grid, 5) and outputs["map_logits"].dtype == jnp.float32
    assert outputs["map"].shape == (2, *grid, 8) and stats == variables["stats"] == {}


def test_parameters_of_the_decoders():
    count = {}
    for decoder in ("linear", "mask"):
        variables, _, _ = shapes_of(segmenter.make(classes=150, decoder=decoder), (64, 64))
        head = {name: leaf for name, leaf in variables["params"].items() if name != "backbone"}
        assert set(head) == {"head"}
        count[decoder] = sum(leaf.size for leaf in jax.tree.leaves(head))
    width = 384
    layer = 4 * width**2 + 4 * width + 8 * width**2 + 5 * width + 4 * width
    norms, projections = 2 * width + 2 * 150, width**2 + width + 2 * width**2
    assert count == {"linear": 150 * 385, "mask": 150 * width + 2 * layer + norms + projections}


def test_an_agreement_is_the_cosine_of_two_projections():
    head = segmenter.MaskTransformer(classes=3, layers=0, dropout=0.0, dtype=jnp.float32)
    x = np.random.default_rng(0).normal(size=(2, 2, 3, 8)).astype(np.float32)
    params = jax.tree.map(np.asarray, jax.jit(lambda x: head.init(KEY, x, False))(x)["params"])
    tokens = x.reshape(2, 6, 8) @ params["proj_dec"]["kernel"]
    tokens = np.concatenate([tokens, np.broadcast_to(params["cls_emb"], (2, 3, 8))], 1)
    centred = tokens - tokens.mean(-1, keepdims=True)
    tokens = centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    patches, classes = tokens[:, :6] @ params["proj_patch"]["kernel"], tokens[:, 6:] @ params["proj_classes"]["kernel"]
    lengths = np.linalg.norm(patches, axis=-1)[:, :, None] * np.linalg.norm(classes, axis=-1)[:, None]
    cosine = patches @ classes.swapaxes(1, 2) / lengths
    expected = (cosine - cosine.mean(-1, keepdims=True)) / np.sqrt(cosine.var(-1, keepdims=True) + 1e-5)
    found = jax.jit(lambda x: head.apply({"params": params}, x, False))(x)
    np.testing.assert_allclose(found, expected.reshape(2, 2, 3, 3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("decoder", ["linear", "mask"])
def test_gradients_of_segmenters(decoder):
    model = segmenter.make(classes=3, decoder=decoder, backbone=VIT | {"depth": 1}, layers=1)
    images = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype(np.float32)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, KEY, images)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.3, shapes)["params"]

    def loss(params):
        outputs, _ = model.apply({"params": params, "stats": {}}, images, train=True, key=KEY)
        return jnp.square(outputs["map_logits"] - jnp.arange(3.0)).mean()

    gradient = jax.jit(jax.grad(loss))(params)
    for path, leaf in zip(paths.paths(gradient), jax.tree.leaves(gradient)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_weights_of_a_vit_fit_in():
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
    given = jax.eval_shape(vit.make(classes=10, **TINY).init, KEY, images)
    model = segmenter.make(classes=3, backbone=VIT)
    ours, known = jax.eval_shape(model.init, KEY, images), {"heads": model.heads}
    given, ours = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), (given, ours))
    found = transfer.fit_in(weights.to_torchvision(given), ours, "file", **known)
    assert found.unused == ["backbone.heads.head.bias", "backbone.heads.head.weight"]
    assert found.fresh and all(name.startswith("head.") for name in found.fresh)
    other = jax.eval_shape(segmenter.make(classes=5, backbone=VIT).init, KEY, images)
    other = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), other)
    resized = transfer.fit_in(weights.to_torchvision(ours), other, "run", **known).resized
    assert resized == ["head.cls_emb", "head.mask_norm.bias", "head.mask_norm.weight"]


def test_mistakes_of_segmenters():
    for options, match in [
        ({"decoder": "masks"}, r"no decoder='masks'\. Did you mean 'mask'"),
        ({"backbone": {"name": "resnet"}}, r"stands on the backbone 'vit', not on 'resnet'"),
        ({"classes": 1}, r"needs 2 or more; take decoder='linear'"),
        ({"backbone": {"name": "vit", "classes": 3}}, r"takes no 'classes'"),
    ]:
        with pytest.raises(UserError, match=match):
            segmenter.make(**{"classes": 2, **options})
