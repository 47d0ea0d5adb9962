"""Equal to a plain loop over boxes and bins; both forms the same; the gradient goes to the largest cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import roi_pool as ops
from mapjax.ops.roi_pool import roi_pool, roi_pool_batch

STRIDE = 8


def pooled(features, boxes, pool):
    """The largest of the cells of each bin, of boxes within the map."""
    out = np.zeros((len(boxes), pool, pool, features.shape[-1]), np.float32)
    for n, box in enumerate(boxes):
        x1, y1, x2, y2 = (int(np.floor(side / STRIDE + 0.5)) for side in box)
        x1, x2 = (min(x, features.shape[1] - 1) for x in (x1, x2))
        y1, y2 = (min(y, features.shape[0] - 1) for y in (y1, y2))
        rows, columns = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i in range(pool):
            for j in range(pool):
                ys = range(y1 + i * rows // pool, y1 + -(-(i + 1) * rows // pool))
                xs = range(x1 + j * columns // pool, x1 + -(-(j + 1) * columns // pool))
                cells = [features[y, x] for y in ys for x in xs if y < features.shape[0] and x < features.shape[1]]
                out[n, i, j] = np.max(cells, axis=0)
    return out


def drawn(height, width, count=30):
    rng = np.random.default_rng(height)
    features = rng.normal(size=(height, width, 3)).astype(np.float32)
    ends = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width * STRIDE, height * STRIDE]
    boxes = ends.reshape(count, 4).astype(np.float32)
    boxes = np.concatenate([boxes, [[0, 0, width * STRIDE, height * STRIDE], [3, 3, 3, 3]]]).astype(np.float32)
    return jnp.asarray(features), jnp.asarray(boxes)


@pytest.mark.parametrize(("height", "width", "pool"), [(15, 20, 7), (5, 9, 3), (33, 4, 2), (1, 1, 4)])
def test_both_forms_are_the_loop(height, width, pool):
    features, boxes = drawn(height, width)
    expected = pooled(features, boxes, pool)
    np.testing.assert_array_equal(roi_pool(features, STRIDE, boxes, pool=pool), expected)
    bins = [
        ops._bins(boxes[:, axis] / STRIDE, boxes[:, axis + 2] / STRIDE, length, pool)
        for axis, length in ((1, height), (0, width))
    ]
    np.testing.assert_array_equal(ops._by_reductions(features, *bins), expected)


def test_a_batch_is_each_image_by_itself():
    features, boxes = drawn(6, 7)
    both = jnp.stack([features, -features]), jnp.stack([boxes, boxes])
    found = roi_pool_batch(both[0], STRIDE, both[1], pool=2)
    np.testing.assert_array_equal(found[0], pooled(features, boxes, 2))
    np.testing.assert_array_equal(found[1], pooled(-features, boxes, 2))


def test_boxes_beyond_the_map_are_cut_off():
    features, _ = drawn(6, 7)
    beyond, within = jnp.array([[-90.0, 8, 70, 900]]), jnp.array([[0.0, 8, 48, 40]])
    np.testing.assert_array_equal(roi_pool(features, STRIDE, beyond), roi_pool(features, STRIDE, within))


def test_the_gradient_goes_to_the_largest_cell_of_each_bin():
    features, boxes = drawn(9, 11, 6)
    weight = np.random.default_rng(0).normal(size=(len(boxes), 3, 3, 3)).astype(np.float32)
    found = jax.grad(lambda maps: (roi_pool(maps, STRIDE, boxes, pool=3) * weight).sum())(features)
    expected, values = np.zeros_like(features), pooled(features, boxes, 3)
    for place, share in np.ndenumerate(weight):  # all values of a map differ
        y, x = np.argwhere(features[..., place[-1]] == values[place])[0]
        expected[y, x, place[-1]] += share
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
