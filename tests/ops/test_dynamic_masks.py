"""Masks by an object's own filters against SciPy's samples and a loop over cells."""

import jax
import numpy as np
import pytest
import scipy.ndimage

from mapjax.ops import dynamic_masks


@pytest.mark.parametrize(("stride", "hidden"), [(4, (3, 2)), (2, ())])
def test_each_cell_by_itself(stride, hidden):
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(12, 16, 2)).astype(np.float32)
    layers = dynamic_masks.shapes(2, hidden)
    assert layers == list(zip((4, *hidden), (*hidden, 1)))
    filters = rng.normal(size=(3, dynamic_masks.count(2, hidden))).astype(np.float32)
    low = rng.uniform(1, 4, (3, 2)) * stride
    boxes = np.concatenate([low, low + rng.uniform(2, 7, (3, 2)) * stride], 1).astype(np.float32)
    draw = jax.jit(lambda *given: dynamic_masks.draw(*given, stride=stride, hidden=hidden, size=5))
    found = np.asarray(draw(prototypes, filters, boxes))
    for box, weights, mask in zip(boxes, filters, found):
        for row, column in np.ndindex(5, 5):
            x, y = (
                (box[k] + (box[k + 2] - box[k]) * (at + 0.5) / 5) / stride - 0.5 for k, at in ((0, column), (1, row))
            )
            sampled = [scipy.ndimage.map_coordinates(prototypes[..., c], [[y], [x]], order=1)[0] for c in range(2)]
            value, start = np.array([*sampled, 2 * (column + 0.5) / 5 - 1, 2 * (row + 0.5) / 5 - 1]), 0
            for number, (inner, outer) in enumerate(layers):
                kernel = weights[start : start + inner * outer].reshape(inner, outer)
                start += inner * outer
                value = value @ kernel + weights[start : start + outer]
                start += outer
                value = np.maximum(value, 0) if number < len(layers) - 1 else value
            np.testing.assert_allclose(mask[row, column], value[0], rtol=1e-3, atol=1e-4)
        assert start == len(weights)
