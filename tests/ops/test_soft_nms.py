"""Equal to the plain loop of the paper (Bodla et al. 2017), in doubles."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_nms import iou_of

from mapjax.ops import soft_nms

DECAYS = {
    "linear": (partial(soft_nms.linear, threshold=0.3), lambda iou: 1 - iou if iou > 0.3 else 1.0),
    "gaussian": (partial(soft_nms.gaussian, sigma=0.4), lambda iou: np.exp(-(iou**2) / 0.4)),
}


def plain(boxes, scores, count, decay, valid, groups):
    """(index, score) of each turn."""
    left, taken = {i: float(score) for i, score in enumerate(scores) if valid[i]}, []
    while left and len(taken) < count:
        best = max(left, key=lambda i: (left[i], -i))
        taken.append((best, left.pop(best)))
        left = {
            i: score * (decay(iou_of(boxes[i], boxes[best])) if groups[i] == groups[best] else 1)
            for i, score in left.items()
        }
    return taken


def drawn(seed, n):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 40, (n, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 24, (n, 2))], -1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.01, 1, n)).astype(np.float32)
    return boxes, scores, rng.random(n) < 0.8, rng.integers(0, 2, n).astype(np.int32)


@pytest.mark.parametrize("kind", list(DECAYS))
@pytest.mark.parametrize("count", [7, 100])
def test_equals_the_plain_loop(kind, count):
    ours, theirs = DECAYS[kind]
    boxes, scores, valid, groups = drawn(0, 60)
    run = jax.jit(lambda b, s, v, g: soft_nms.soft_nms(b, s, count, decay=ours, valid=v, groups=g))
    index, left, real = map(np.asarray, run(boxes, scores, valid, groups))
    expected = plain(boxes.astype(float), scores, count, theirs, valid, groups)
    assert index.shape == (min(count, 60),) and real.sum() == len(expected) and not real[len(expected) :].any()
    assert index[real].tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(left[real], [score for _, score in expected], rtol=1e-5)
    assert count < 60 or any(score < scores[i] * 0.9 for i, score in expected)  # some have lost score


def test_without_groups_and_of_equal_scores_the_earlier_goes_first():
    boxes, _, _, groups = drawn(1, 30)
    ours, theirs = DECAYS["gaussian"]
    index, left, real = soft_nms.soft_nms(jnp.asarray(boxes), jnp.full(30, 0.5), 30, decay=ours)
    expected = plain(boxes.astype(float), np.full(30, 0.5), 30, theirs, np.ones(30, bool), groups * 0)
    assert real.all() and index[0] == 0
    np.testing.assert_allclose(left, [score for _, score in expected], rtol=1e-5)


def test_images_of_a_batch_are_independent():
    both = [drawn(seed, 20) for seed in (2, 3)]
    one = partial(soft_nms.soft_nms, count=20, decay=DECAYS["linear"][0])
    batched = jax.vmap(lambda b, s, v, g: one(b, s, valid=v, groups=g))(*map(np.stack, zip(*both)))
    for row, (boxes, scores, valid, groups) in enumerate(both):
        alone = one(jnp.asarray(boxes), jnp.asarray(scores), valid=jnp.asarray(valid), groups=jnp.asarray(groups))
        jax.tree.map(lambda many, single, row=row: np.testing.assert_array_equal(many[row], single), batched, alone)


def test_nothing_there():
    _, _, real = soft_nms.soft_nms(
        jnp.ones((3, 4)), jnp.ones(3), 2, decay=DECAYS["linear"][0], valid=jnp.zeros(3, bool)
    )
    assert not real.any()
