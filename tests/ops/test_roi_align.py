"""Equal to a plain loop over boxes, bins and samples; both forms the same; the gradient a true derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import roi_align as roi_ops
from mapjax.ops.roi_align import assign_levels, roi_align, roi_align_batch


def bilinear(feature, y, x):
    """One sample as torchvision takes it: nothing beyond one cell outside, else clamped into the map."""
    height, width = feature.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(feature.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    upper = feature[top, left] * (1 - u) + feature[top, right] * u
    lower = feature[down, left] * (1 - u) + feature[down, right] * u
    return upper * (1 - v) + lower * v


def level_of(box, strides):
    size = np.sqrt(max((box[2] - box[0]) * (box[3] - box[1]), 0))
    level = 0
    # Level 4 (stride 16) holds sizes from 224 to 448, and each other level the half or the double of it.
    while level + 1 < len(strides) and size >= 224 * strides[level + 1] / 16:
        level += 1
    return level


def pooled(features, strides, boxes, pool, samples):
    out = np.zeros((len(boxes), pool, pool, features[0].shape[-1]))
    for n, box in enumerate(boxes):
        level = level_of(box, strides)
        x1, y1, x2, y2 = (float(side) / strides[level] for side in box)
        bin_y, bin_x = max(y2 - y1, 1) / pool, max(x2 - x1, 1) / pool
        for i in range(pool):
            for j in range(pool):
                for a in range(samples):
                    for b in range(samples):
                        y, x = y1 + bin_y * (i + (a + 0.5) / samples), x1 + bin_x * (j + (b + 0.5) / samples)
                        out[n, i, j] += bilinear(features[level].astype(float), y, x) / samples**2
    return out


def pyramid(image, strides, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    sides = [[-(-side // stride) for side in image] for stride in strides]
    return [rng.normal(size=(*side, channels)).astype(np.float32) for side in sides]


BOXES = np.array(
    [
        [10, 20, 50, 70],  # level 2
        [100.5, 30.25, 260, 150],  # level 3
        [0, 0, 300, 260],  # level 4
        [-15, -9, 480, 470],  # level 5, and out of the image
        [260, 200, 420, 330],  # ends far out of the image
        [60, 60, 60, 60],  # empty
        [200, 10, 203, 120],  # narrower than a cell
        [90, 90, 50, 40],  # corners crossed
    ],
    np.float32,
)
STRIDES = (4, 8, 16, 32)


@pytest.mark.parametrize("pool", [2, 7])
def test_equals_the_plain_loop(pool):
    features = pyramid((250, 310), STRIDES)
    found = jax.jit(lambda f, b: roi_align(f, STRIDES, b, pool=pool))([jnp.asarray(f) for f in features], BOXES)
    expected = pooled(features, STRIDES, BOXES, pool, 2)
    np.testing.assert_allclose(found, expected, atol=2e-4)  # a place in the map is a float32 number
    assert expected[:4].any() and not expected[4, -1].any()  # half of box 4 lies outside


def test_one_level_and_other_counts_of_samples():
    features = pyramid((60, 90), (8,))
    boxes = np.array([[3, 5, 66, 41], [40, 10, 95, 70]], np.float32)
    found = jax.jit(lambda f, b: roi_align([f], (8,), b, pool=3, samples=3))(features[0], boxes)
    np.testing.assert_allclose(found, pooled(features, (8,), boxes, 3, 3), atol=1e-4)


def test_on_a_slope_a_bin_is_the_value_at_its_centre():
    y, x = np.meshgrid(np.arange(20.0), np.arange(30.0), indexing="ij")
    feature = jnp.asarray(np.stack([y, x], -1), jnp.float32)
    box = jnp.asarray([[8, 16, 72, 56]], jnp.float32)  # cells: x 2 to 18, y 4 to 14
    found = jax.jit(lambda f, b: roi_align([f], (4,), b, pool=4))(feature, box)[0]
    np.testing.assert_allclose(found[:, 0, 0], 4 + 10 * (np.arange(4) + 0.5) / 4, rtol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], 2 + 16 * (np.arange(4) + 0.5) / 4, rtol=1e-6)


def test_levels():
    sizes = np.array([0, 1, 55, 56, 111, 112, 223, 224, 447, 448, 895, 896, 5000], np.float32)
    boxes = np.stack([np.full_like(sizes, 7), np.full_like(sizes, 9), 7 + sizes, 9 + sizes], -1)
    found = assign_levels(jnp.asarray(boxes), 2, 5)
    assert found.tolist() == [2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    assert assign_levels(jnp.asarray(boxes), 3, 4).tolist() == np.clip(found, 3, 4).tolist()
    assert assign_levels(jnp.asarray(boxes), 1, 7).tolist() == [1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7]
    long = jnp.asarray([[0, 0, 896, 56], [10, 0, 0, 500]], jnp.float32)  # √area is 224; crossed corners
    assert assign_levels(long, 2, 5).tolist() == [4, 2]


def both_forms(features, boxes, monkeypatch):
    """The two forms of the same sum, as functions of the features, for the taps that `roi_align` makes."""
    caught = {}

    def catch(features, *arguments, tpu, cuda, default):
        caught.update(arguments=arguments, forms=(default, cuda, tpu), features=features)
        return default(features, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(roi_ops.jax.lax, "platform_dependent", catch)
        roi_align([jnp.asarray(f) for f in features], STRIDES[: len(features)], jnp.asarray(boxes), pool=3)
    assert [getattr(form, "func", form).__name__ for form in caught["forms"]] == [
        "_by_gather",
        "_by_gather",
        "_by_products",
    ]
    return caught["features"], [lambda features, f=f: f(features, *caught["arguments"]) for f in caught["forms"]]


SIZES = {
    "usual": [(63, 78), (32, 39), (16, 20), (8, 10)],
    "one level": [(63, 78)],
    "others wider than the first": [(30, 5), (31, 9), (7, 20), (40, 10)],
    "a cell each": [(1, 1)] * 4,
}


@pytest.mark.parametrize("name", SIZES)
def test_gather_equals_products(name, monkeypatch):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(*size, 3)).astype(np.float32) for size in SIZES[name]]
    features, forms = both_forms(maps, BOXES, monkeypatch)
    gradient = jnp.asarray(np.random.default_rng(1).normal(size=(len(BOXES), 3, 3, 3)).astype(np.float32))
    results = []
    for form in forms:
        value, pull = jax.vjp(jax.jit(form), features)
        results.append((value, pull(gradient)[0]))
    for value, pulled in results[1:]:
        np.testing.assert_allclose(value, results[0][0], atol=1e-5)
        for one, wanted in zip(pulled, results[0][1]):
            np.testing.assert_allclose(one, wanted, atol=1e-5)


def test_the_gradient_is_the_derivative():
    """The output is linear in the features, so a finite difference is exact, whatever the step."""
    features = [jnp.asarray(f) for f in pyramid((64, 96), (4, 8))]
    boxes = jnp.asarray([[5, 6, 60, 50], [-6, 20, 130, 70], [70, 3, 75, 9]], jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 2, 3)).astype(np.float32))

    @jax.jit
    def value(features):
        return jnp.sum(roi_align(features, (4, 8), boxes, pool=2) * weight)

    found = jax.grad(value)(features)
    rng = np.random.default_rng(2)
    for _ in range(3):
        step = [jnp.asarray(rng.normal(size=f.shape).astype(np.float32)) for f in features]
        ahead, behind = (value([f + sign * s for f, s in zip(features, step)]) for sign in (1, -1))
        along = sum(jnp.vdot(g, s) for g, s in zip(found, step))
        np.testing.assert_allclose((ahead - behind) / 2, along, rtol=1e-3, atol=1e-3)
    # One feature at a time, where a box looks and where none does.
    for place in [(0, 3, 3, 0), (1, 4, 5, 1), (1, 0, 11, 2)]:
        level, at = place[0], place[1:]
        moved = list(features)
        moved[level] = features[level].at[at].add(1.0)
        np.testing.assert_allclose(value(moved) - value(features), found[level][at], atol=1e-4)


def test_a_batch_is_one_image_after_the_other():
    features = [np.stack([f, -2 * f[::-1]]) for f in pyramid((64, 96), (4, 8))]
    boxes = np.array([[[5, 6, 60, 50], [1, 1, 90, 60]], [[30, 30, 40, 60], [0, 0, 9, 9]]], np.float32)
    found = jax.jit(lambda f, b: roi_align_batch(f, (4, 8), b, pool=2))(features, boxes)
    for i in range(2):
        np.testing.assert_allclose(found[i], pooled([f[i] for f in features], (4, 8), boxes[i], 2, 2), atol=1e-4)
