"""Losses of IoUs against their formulas in float64, and YOLOX' code against the one that its paper gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import box_codes, box_losses


def pairs(count=40):
    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 20, (2, count, 2)), rng.uniform(0.5, 30, (2, count, 2))
    return np.concatenate([corner, corner + size], -1).astype(np.float32)


def ciou(a, b):
    """Zheng et al. 2020, equations 7 to 11."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    (w, h), (v, g) = ((box[2] - box[0], box[3] - box[1]) for box in (a, b))
    iou = shared / (w * h + v * g - shared)
    centres = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    unlike = 4 / np.pi**2 * (np.arctan(v / g) - np.arctan(w / h)) ** 2
    return iou, 1 - iou + centres / diagonal + unlike * unlike / (1 - iou + unlike)


def test_are_their_formulas():
    a, b = pairs()
    iou, expected = np.transpose([ciou(one, other) for one, other in zip(a.astype(float), b.astype(float))])
    assert (iou == 0).any() and (iou > 0.3).any()
    np.testing.assert_allclose(jax.jit(box_losses.ciou)(a, b), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(box_losses.iou_squared)(a, b), 1 - iou**2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ciou", "iou_squared"])
def test_slopes_are_finite_for_boxes_without_area(name):
    loss = getattr(box_losses, name)
    boxes = jnp.array([[3.0, 3, 3, 3], [5.0, 5, 2, 2], [1.0, 1, 4, 1], [0.0, 0, 4, 4]])
    truth = jnp.array([[0.0, 0, 4, 4]] * 4)
    value, slope = jax.jit(jax.value_and_grad(lambda one: loss(one, truth).sum()))(boxes)
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_a_step_down_brings_boxes_together():
    """Those that do not touch too: the loss of the complete IoU has a slope for them."""
    boxes, truth = jnp.array([[0.0, 0, 2, 2]]), jnp.array([[10.0, 8, 14, 11]])
    slope = jax.jit(jax.grad(lambda one: box_losses.ciou(one, truth).sum()))(boxes)
    assert box_losses.ciou(boxes - 0.5 * slope, truth) < box_losses.ciou(boxes, truth)


def test_the_code_of_yolox():
    """(d + cell)·stride and exp(d)·stride, of cells counted from 0."""
    rng = np.random.default_rng(0)
    stride, cell = 16, rng.integers(0, 20, (30, 2))
    deltas = rng.normal(0, 1.5, (30, 4)).astype(np.float32)
    centre, size = (deltas[:, :2] + cell) * stride, np.exp(deltas[:, 2:]) * stride
    sites = np.concatenate([(cell - 0.5) * stride, (cell + 0.5) * stride], 1).astype(np.float32)
    encode, decode = box_codes.CODES["corner"]
    boxes = jax.jit(decode)(deltas, sites)
    np.testing.assert_allclose(boxes, np.concatenate([centre - size / 2, centre + size / 2], 1), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(jax.jit(encode)(boxes, sites), deltas, rtol=1e-3, atol=1e-4)
    assert np.isfinite(decode(jnp.full((1, 4), 1e4), jnp.array([[0.0, 0, 8, 8]]))).all()
