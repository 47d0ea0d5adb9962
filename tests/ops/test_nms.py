"""Equal to the plain greedy loop, index by index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import nms as nms_ops
from mapjax.ops.nms import keep_sorted, nms


def iou_of(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def greedy(boxes, scores, threshold, count, valid=None, groups=None):
    """Indices that greedy suppression keeps, one box after the other, in whole numbers and doubles."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if valid is not None and not valid[i]:
            continue
        rivals = [j for j in kept if groups is None or groups[j] == groups[i]]
        if all(iou_of(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept[:count]


def random_boxes(rng, n, extent=60, largest=24):
    """Whole corners, so that areas are exact; some boxes are equal, some are empty."""
    low = rng.integers(0, extent, (n, 2))
    return np.concatenate([low, low + rng.integers(0, largest, (n, 2))], -1)


def found(boxes, scores, threshold, count, **options):
    options = {name: jnp.asarray(value) for name, value in options.items()}
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    index, real = jax.jit(lambda b, s, o: nms(b, s, threshold, count, **o))(boxes, scores, options)
    assert index.shape == real.shape == (min(count, len(boxes)),)
    real = np.asarray(real)
    assert not np.any(real[1:] & ~real[:-1])  # the real ones come first
    return np.asarray(index)[real].tolist()


@pytest.mark.parametrize("n", [1, 40, 256, 257, 600])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_equals_the_greedy_loop(n, threshold):
    rng = np.random.default_rng(n)
    boxes, scores = random_boxes(rng, n), rng.permutation(n)
    assert found(boxes, scores, threshold, n) == greedy(boxes, scores, threshold, n)


def test_of_equal_scores_the_earlier_goes_first():
    rng = np.random.default_rng(0)
    boxes, scores = random_boxes(rng, 300), rng.integers(0, 4, 300)
    assert found(boxes, scores, 0.4, 300) == greedy(boxes, scores, 0.4, 300)
    assert found(boxes, np.zeros(300), 0.4, 300) == greedy(boxes, np.zeros(300), 0.4, 300)


def test_groups_never_suppress_each_other():
    rng = np.random.default_rng(1)
    boxes, scores, groups = random_boxes(rng, 300), rng.permutation(300), rng.integers(0, 3, 300)
    expected = greedy(boxes, scores, 0.3, 300, groups=groups)
    assert found(boxes, scores, 0.3, 300, groups=groups) == expected
    assert expected != greedy(boxes, scores, 0.3, 300)
    same = np.tile(boxes[:1], (3, 1))
    assert found(same, np.arange(3), 0.3, 3, groups=np.arange(3)) == [2, 1, 0]


def test_invalid_rows_neither_stay_nor_suppress():
    rng = np.random.default_rng(2)
    boxes, scores, valid = random_boxes(rng, 300), rng.permutation(300), rng.random(300) < 0.5
    groups = rng.integers(0, 2, 300)
    expected = greedy(boxes, scores, 0.3, 300, valid, groups)
    assert found(boxes, scores, 0.3, 300, valid=valid, groups=groups) == expected
    assert found(boxes, scores, 0.3, 300, valid=np.zeros(300, bool)) == []


def test_the_first_so_many():
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 300), rng.permutation(300)
    assert found(boxes, scores, 0.5, 7) == greedy(boxes, scores, 0.5, 7)
    assert len(found(boxes, scores, 0.5, 1000)) == len(greedy(boxes, scores, 0.5, 300)) < 300


def test_suppression_needs_more_than_the_threshold():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 6]]  # IoU with the first: 0.5 and 0.6
    assert found(boxes, [3, 2, 1], 0.5, 3) == [0, 1]
    assert found(boxes[::2], [3, 2], 0.61, 2) == [0, 1]


def test_a_fallen_box_suppresses_nothing():
    boxes = [[0, 0, 10, 10], [0, 3, 10, 13], [0, 6, 10, 16]]  # neighbours overlap by 7/13, the ends by 1/4
    assert found(boxes, [3, 2, 1], 0.5, 3) == [0, 2]


def test_the_size_of_a_tile_does_not_matter(monkeypatch):
    rng = np.random.default_rng(4)
    boxes, valid = random_boxes(rng, 20, extent=20), rng.random(20) < 0.8
    monkeypatch.setattr(nms_ops, "TILE", 8)
    keep = jax.jit(lambda b, v: keep_sorted(b, 0.3, valid=v))(jnp.asarray(boxes, jnp.float32), jnp.asarray(valid))
    assert np.flatnonzero(keep).tolist() == greedy(boxes, -np.arange(20), 0.3, 20, valid)


def test_images_of_a_batch_are_independent():
    rng = np.random.default_rng(5)
    boxes, scores = np.stack([random_boxes(rng, 40) for _ in range(3)]), np.stack([rng.permutation(40)] * 3)
    batched = jax.jit(jax.vmap(lambda b, s: nms(b, s, 0.3, 40)))
    index, real = batched(jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32))
    for i in range(3):
        assert np.asarray(index[i])[np.asarray(real[i])].tolist() == greedy(boxes[i], scores[i], 0.3, 40)
