"""CifarNet: shapes, the stem that whitens, the blocks that start as the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from mapjax.models.backbones import cifarnet


@pytest.mark.parametrize("side", [10, 32, 33])
def test_features_by_name(side):
    model = cifarnet.make(widths=(8, 12, 16), classes=7)
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    outputs, _ = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, key=None), variables, images)
    first = (side - 1) // 2
    assert {name: value.shape for name, value in outputs.items()} == {
        "stem": (2, side - 1, side - 1, 24),
        "layer1": (2, first, first, 8),
        "layer2": (2, first // 2, first // 2, 12),
        "layer3": (2, first // 4, first // 4, 16),
        "pool": (2, 16),
        "logits": (2, 7),
    }


def test_parameters():
    model = cifarnet.make(classes=10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 256 * 256 + 256 * 256 + 256 * 256)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == convolutions + 24 + 2 * 576 + 2560


def test_the_filters_are_orthonormal_and_all_but_whiten_photos():
    filters = cifarnet.whitening_kernel().reshape(12, 12)
    np.testing.assert_allclose(filters.T @ filters, np.eye(12), atol=1e-6)
    for photo in load_sample_images().images:  # pyright: ignore
        x = np.asarray(photo, np.float32) / 255
        responses = _responses(x)
        correlation = np.corrcoef(responses.T)
        plain = np.corrcoef(_patches(x).T)
        off = ~np.eye(12, dtype=bool)
        assert np.abs(correlation[off]).mean() < 0.25 * np.abs(plain[off]).mean()


def _patches(x):
    return np.stack([x[i : x.shape[0] - 1 + i, j : x.shape[1] - 1 + j] for i in (0, 1) for j in (0, 1)], 2).reshape(
        -1, 12
    )


def _responses(x):
    return _patches(x) @ cifarnet.whitening_kernel().reshape(12, 12)


def test_blocks_start_as_the_identity():
    kernel = cifarnet.partial_identity(jax.random.key(0), (3, 3, 4, 6))
    np.testing.assert_array_equal(
        kernel[:, :, :, :4], np.eye(4) * np.eye(3)[:, 1, None, None, None] * np.eye(3)[1, :, None, None]
    )
    assert (kernel[..., 4:] != 0).all()
