"""Against a plain loop over anchors, and counts of what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops.matching import BACKGROUND, IGNORED, match, sample


def plain_match(iou, valid, high, low, low_quality):
    rows = [m for m in range(len(iou)) if valid[m]]
    matched = []
    for n in range(iou.shape[1]):
        best = None  # the first of the largest
        for m in rows:
            if best is None or iou[m, n] > iou[best, n]:
                best = m
        if best is None or iou[best, n] < low:
            answer = BACKGROUND
        elif iou[best, n] < high:
            answer = IGNORED
        else:
            answer = best
        if low_quality and any(iou[m, n] > 0 and iou[m, n] == max(iou[m]) for m in rows):
            answer = best
        matched.append(answer)
    return matched


def matched(iou, valid=None, high=0.7, low=0.3, low_quality=False):
    iou = np.asarray(iou, np.float32)
    valid = np.ones(len(iou), bool) if valid is None else np.asarray(valid)
    return match(jnp.asarray(iou), jnp.asarray(valid), high=high, low=low, low_quality=low_quality).tolist()


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_loop(seed, low_quality):
    rng = np.random.default_rng(seed)
    iou = (rng.integers(0, 9, (5, 40)) / 8 * rng.choice([0.25, 0.5, 1], (5, 1))).astype(np.float32)  # many ties
    valid = rng.random(5) < 0.7
    assert matched(iou, valid, 0.75, 0.375, low_quality) == plain_match(iou, valid, 0.75, 0.375, low_quality)


def test_thresholds_belong_to_the_upper_side():
    assert matched([[0.5, 0.499, 0.25, 0.249, 0]], high=0.5, low=0.25) == [0, IGNORED, IGNORED, BACKGROUND, BACKGROUND]
    assert matched([[0.5, 0.499]], high=0.5, low=0.5) == [0, BACKGROUND]


def test_of_equal_truths_the_first():
    assert matched([[0.8, 0.7], [0.8, 0.9]]) == [0, 1]
    assert matched([[0.8], [0.8]], valid=[False, True]) == [1]


def test_low_quality_matches():
    iou = [[0.2, 0.1, 0.2, 0.0], [0.0, 0.0, 0.0, 0.9]]
    assert matched(iou) == [BACKGROUND, BACKGROUND, BACKGROUND, 1]
    assert matched(iou, low_quality=True) == [0, BACKGROUND, 0, 1]  # both that tie


def test_a_low_quality_match_keeps_its_own_best_truth():
    iou = [[0.9, 0.0], [0.5, 0.1]]  # the second truth's best anchor answers for the first truth
    assert matched(iou, low_quality=True) == [0, BACKGROUND]


def test_an_untouched_truth_claims_nothing():
    assert matched([[0.0, 0.0], [0.0, 0.4]], low_quality=True) == [BACKGROUND, 1]


def test_an_invalid_truth_claims_nothing():
    iou = [[0.9, 0.2], [0.1, 0.1]]
    assert matched(iou, valid=[False, True]) == [BACKGROUND, BACKGROUND]
    assert matched(iou, valid=[False, True], low_quality=True) == [1, 1]


@pytest.mark.parametrize("low_quality", [False, True])
def test_no_truth_at_all(low_quality):
    assert matched(np.zeros((0, 3)), low_quality=low_quality) == [BACKGROUND] * 3
    assert matched(np.full((2, 3), 0.9), valid=[False, False], low_quality=low_quality) == [BACKGROUND] * 3


def drawn(positive, negative, count, fraction, seed=0):
    index, real = sample(jax.random.key(seed), jnp.asarray(positive), jnp.asarray(negative), count, fraction)
    assert index.shape == real.shape == (min(count, len(positive)),)
    return np.asarray(index)[np.asarray(real)]


@pytest.mark.parametrize(
    ("positives", "negatives", "count", "fraction", "expected"),
    [
        (30, 60, 16, 0.5, (8, 8)),
        (3, 60, 16, 0.5, (3, 13)),  # negatives fill up
        (30, 5, 16, 0.5, (8, 5)),  # positives do not
        (0, 60, 16, 0.25, (0, 16)),
        (40, 0, 16, 0.25, (4, 0)),
        (0, 0, 16, 0.5, (0, 0)),
        (30, 60, 16, 0.0, (0, 16)),
        (30, 60, 16, 1.0, (16, 0)),
        (30, 60, 3, 0.5, (1, 2)),  # rounded down
        (30, 60, 500, 0.5, (30, 60)),  # more than there are rows
        (80, 20, 500, 0.25, (80, 20)),
    ],
)
def test_counts(positives, negatives, count, fraction, expected):
    kind = np.zeros(100, int)
    kind[:positives], kind[positives : positives + negatives] = 1, -1
    kind = np.random.default_rng(0).permutation(kind)
    index = drawn(kind == 1, kind == -1, count, fraction)
    assert len(set(index.tolist())) == len(index)
    found = kind[index]
    assert (np.sum(found == 1), np.sum(found == -1)) == expected and not np.any(found == 0)
    assert np.all(np.diff(found) <= 0)  # positives first


def test_every_row_is_drawn_equally_often():
    positive = jnp.arange(20) < 8
    keys = jax.random.split(jax.random.key(0), 2000)
    index, real = jax.jit(jax.vmap(lambda key: sample(key, positive, ~positive, 8, 0.5)))(keys)
    assert real.all()
    times = np.bincount(np.asarray(index).ravel(), minlength=20) / 2000
    np.testing.assert_allclose(times[:8], 4 / 8, atol=0.06)  # five standard deviations
    np.testing.assert_allclose(times[8:], 4 / 12, atol=0.06)


def test_the_key_decides():
    kind = np.arange(100) % 2 == 0
    first, again, other = (drawn(kind, ~kind, 10, 0.5, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
