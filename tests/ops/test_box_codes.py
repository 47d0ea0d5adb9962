"""Codes of boxes against their definitions in float64, and back; losses of boxes against counted pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import box_codes, box_losses


def boxes_of(seed, count=40):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-20, 100, (count, 2))
    return np.concatenate([low, low + rng.uniform(1, 60, (count, 2))], -1).astype(np.float32)


def test_distances_are_from_the_centre_in_sides():
    boxes, sites = boxes_of(0).astype(float), boxes_of(1).astype(float)
    expected = [
        [
            ((s[0] + s[2]) / 2 - b[0]) / (s[2] - s[0]),
            ((s[1] + s[3]) / 2 - b[1]) / (s[3] - s[1]),
            (b[2] - (s[0] + s[2]) / 2) / (s[2] - s[0]),
            (b[3] - (s[1] + s[3]) / 2) / (s[3] - s[1]),
        ]
        for b, s in zip(boxes, sites)
    ]
    found = box_codes.encode_distances(jnp.asarray(boxes, jnp.float32), jnp.asarray(sites, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"), [("offsets", {}), ("offsets", {"weights": (10, 10, 5, 5)}), ("distances", {})]
)
def test_there_and_back(name, options):
    boxes, sites = jnp.asarray(boxes_of(2)), jnp.asarray(boxes_of(3))
    encode, decode = box_codes.CODES[name]
    np.testing.assert_allclose(decode(encode(boxes, sites, **options), sites, **options), boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", list(box_codes.CODES))
def test_empty_boxes_and_sites_have_finite_codes(name):
    empty, whole = jnp.zeros((3, 4)), jnp.asarray([[0.0, 0, 8, 8]] * 3)
    encode, _ = box_codes.CODES[name]
    for boxes, sites in ((empty, whole), (whole, empty), (empty, empty)):
        assert np.isfinite(encode(boxes, sites)).all()


def test_giou_is_what_its_pixels_say():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = (np.concatenate([low, low + rng.integers(1, 9, 2)]) for low in rng.integers(0, 12, (2, 2)))
        one, other = np.zeros((2, 24, 24), bool)
        one[a[1] : a[3], a[0] : a[2]] = other[b[1] : b[3], b[0] : b[2]] = True
        around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        union = (one | other).sum()
        expected = 1 - (one & other).sum() / union + (around - union) / around
        found = box_losses.giou(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_giou_of_boxes_apart_and_of_empty_ones_has_a_finite_slope():
    boxes = jnp.asarray([[0.0, 0, 4, 4], [5, 5, 5, 5], [3, 3, 3, 3]])
    truth = jnp.asarray([[10.0, 10, 14, 12], [5, 5, 5, 5], [0, 0, 8, 8]])
    value, slope = jax.value_and_grad(lambda x: box_losses.giou(x, truth).sum())(boxes)
    assert np.isfinite(value) and np.isfinite(slope).all()
    assert slope[0, 2] < 0 and slope[0, 3] < 0  # towards the other
