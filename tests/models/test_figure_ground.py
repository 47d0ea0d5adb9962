"""The mean of the figure in windows, against loops; scores that are probabilities; what trains what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gradients import assert_finite_and_everywhere

from mapjax.errors import UserError
from mapjax.models.segmenters import figure_ground

KEY = jax.random.key(0)
RESNET = {"name": "resnet", "depth": 18, "width": 0.0625, "stages": 2}


@pytest.fixture(scope="module")
def small():
    model = figure_ground.make(classes=4, backbone=RESNET, windows=(3,), width=2)
    images = jax.random.normal(KEY, (2, 37, 51, 3))
    return model, jax.jit(model.init)(KEY, images), images


def by_loops(features, weights, stride, window):
    rows, columns, _ = features.shape
    height, width = rows * stride, columns * stride
    padded = np.zeros((height, width))
    padded[: weights.shape[0], : weights.shape[1]] = weights
    shares = padded.reshape(rows, stride, columns, stride).mean((1, 3))
    reach, found = window // 2, np.zeros_like(features)
    for i in range(rows):
        for j in range(columns):
            near = [
                (p, q)
                for p in range(max(0, i - reach), min(rows, i + reach + 1))
                for q in range(max(0, j - reach), min(columns, j + reach + 1))
            ]
            total = sum(shares[place] for place in near)
            if total > 0:
                found[i, j] = sum(shares[place] * features[place] for place in near) / total
    return found


@pytest.mark.parametrize("window", [1, 3, 5])
def test_the_mean_is_that_of_the_figure_in_the_window(window):
    rng = np.random.default_rng(window)
    features = rng.normal(size=(4, 6, 3))
    weights = rng.uniform(0.5, 1, (16, 24)) * (rng.random((16, 24)) < 0.5)
    given = (jnp.asarray(one, jnp.float32)[None] for one in (features, weights[..., None]))
    found = figure_ground.mean_around(*given, 4, window)[0]
    np.testing.assert_allclose(found, by_loops(features, weights, 4, window), rtol=0.02, atol=0.02)


def test_without_a_figure_the_mean_is_zero():
    found = figure_ground.mean_around(jnp.ones((1, 4, 4, 2)), jnp.zeros((1, 32, 32, 1)), 8, 3)
    np.testing.assert_array_equal(found, 0)


def test_the_background_does_not_count():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1, 4, 4, 2)).astype(np.float32)
    weights = jnp.zeros((1, 32, 32, 1)).at[:, :16, :16].set(1)
    changed = features.copy()
    changed[:, 2:] = changed[:, :, 2:] = 100
    first, second = (figure_ground.mean_around(jnp.asarray(one), weights, 8, 3) for one in (features, changed))
    np.testing.assert_array_equal(first, second)


def test_scores_are_log_probabilities_of_the_image_s_pixels(small):
    model, variables, images = small
    outputs, _ = jax.jit(model.apply)(variables, images)
    assert outputs["map_logits"].shape == (2, 37, 51, 4) and outputs["map_logits"].dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(outputs["map_logits"]).sum(-1), 1, rtol=1e-5)
    assert "aux_map_logits" not in outputs and "layer2" in outputs


def test_auxiliary_scores_are_the_same_and_do_not_train_the_figure(small):
    model, variables, images = small

    def loss(params, name):
        outputs, _ = model.apply({**variables, "params": params}, images, train=True, key=KEY)
        return outputs[name][..., 1].mean(), outputs

    slopes = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, outputs), slope = slopes(variables["params"], "aux_map_logits")
    np.testing.assert_array_equal(outputs["map_logits"], outputs["aux_map_logits"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope["figure"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(slope["backbone"]))
    assert_finite_and_everywhere(model, variables, images, KEY)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": 1}, "one more"),
        ({"windows": (3, 4)}, "must be odd"),
        ({"norm": "bach"}, "norm='bach'"),
        ({"stride": 12}, "stride=12 must be that of a map .* 2, 4, 8"),
        ({"stride": 2}, "but of the finest"),
    ],
)
def test_what_cannot_be_is_said(options, said):
    with pytest.raises(UserError, match=said):
        figure_ground.make(**{"classes": 4, "backbone": RESNET, **options})
