"""Against a plain loop over truths and sites, as the paper tells it."""

import functools

import jax
import numpy as np
import pytest

from mapjax.ops.matching import BACKGROUND, IGNORED
from mapjax.ops.task_aligned import by_task_alignment


@functools.cache
def program(sites, count):
    """A jit of the assignment to so many sites."""
    levels = {36: cells((8,)), 45: cells()}[sites]
    return jax.jit(lambda truth, predicted: by_task_alignment(truth, levels, predicted, count=count))


def run(truth, sites, predicted, count=10):
    return program(sum(map(len, sites)), count)(truth, predicted)


def cells(sides=(8, 16), image=48):
    levels = []
    for side in sides:
        corners = [(x * side, y * side) for y in range(image // side) for x in range(image // side)]
        levels.append(np.float32([[x, y, x + side, y + side] for x, y in corners]))
    return levels


def iou_of(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def drawn(seed, sites, truths=6, classes=3):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 30, (truths, 2)), rng.uniform(1, 30, (truths, 2))
    truth = {
        "boxes": np.concatenate([corner, corner + size], 1).astype(np.float32),
        "classes": rng.integers(0, classes, truths).astype(np.int32),
        "crowd": np.arange(truths) == 2,
        "valid": np.arange(truths) != truths - 1,
    }
    count = sum(map(len, sites))
    near = truth["boxes"][rng.integers(0, truths, count)] + rng.normal(0, 3, (count, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    scores = rng.uniform(0.01, 0.99, (count, classes)).astype(np.float32)
    return truth, {"scores": scores, "boxes": near.astype(np.float32)}


def plain(truth, sites, predicted, count, alpha=0.5, beta=6.0):
    every, boxes = np.concatenate(sites).astype(np.float64), truth["boxes"].astype(np.float64)
    real = [m for m in range(len(boxes)) if truth["valid"][m] and not truth["crowd"][m]]
    points = (every[:, :2] + every[:, 2:]) / 2
    iou, aligned, takers = {}, {}, {r: [] for r in range(len(every))}
    for m in real:
        left, top, right, bottom = boxes[m]
        inside = [r for r, (x, y) in enumerate(points) if left < x < right and top < y < bottom]
        if not inside:
            x, y = (left + right) / 2, (top + bottom) / 2
            inside = [r for r, (a, b, c, d) in enumerate(every) if a <= x < c and b <= y < d]
        for r in inside:
            iou[m, r] = iou_of(boxes[m], predicted["boxes"][r].astype(np.float64))
            aligned[m, r] = predicted["scores"][r][truth["classes"][m]] ** alpha * iou[m, r] ** beta
        for r in sorted(inside, key=lambda r: -aligned[m, r])[:count]:
            takers[r].append(m)
    matched = [max(takes, key=lambda m, r=r: iou[m, r]) if takes else BACKGROUND for r, takes in takers.items()]
    quality = np.zeros(len(every))
    for m in real:
        own = [r for r, owner in enumerate(matched) if owner == m]
        most, best = (max((values[m, r] for r in own), default=0) for values in (aligned, iou))
        for r in own:
            quality[r] = aligned[m, r] / (most + 1e-9) * best
    return matched, quality


@pytest.mark.parametrize("count", [1, 4, 10])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_plain_loop(seed, count):
    sites = cells()
    truth, predicted = drawn(seed, sites)
    truth["boxes"][0] = 9.0, 9.0, 10.0, 10.0  # no centre lies in it
    predicted["boxes"][7] = 8.0, 8.0, 12.0, 12.0  # of the cell around it
    found = run(truth, sites, predicted, count=count)
    matched, quality = plain(truth, sites, predicted, count)
    got = np.where(found["matched"] == IGNORED, BACKGROUND, found["matched"])
    assert got.tolist() == matched
    np.testing.assert_allclose(found["quality"], quality, rtol=1e-4, atol=1e-5)
    assert matched[7] == 0


def test_one_site_an_object():
    sites = cells()
    truth, predicted = drawn(0, sites)
    matched = run(truth, sites, predicted, count=1)["matched"]
    owners = matched[matched >= 0].tolist()
    assert owners and len(owners) == len(set(owners)) <= 4


def test_the_quality_of_the_best_is_its_iou():
    sites = cells((8,))
    truth = {"boxes": np.float32([[0, 0, 16, 16]]), "classes": np.int32([0])}
    truth |= {"crowd": np.array([False]), "valid": np.array([True])}
    boxes = np.repeat(np.float32([[0, 0, 16, 8]]), 36, 0)
    boxes[1] = 0, 0, 16, 12
    found = run(truth, sites, {"scores": np.full((36, 1), 0.3, np.float32), "boxes": boxes})
    assert np.flatnonzero(found["matched"] == 0).tolist() == [0, 1, 6, 7]
    expected = 0.75 * np.array([(0.5 / 0.75) ** 6, 1, (0.5 / 0.75) ** 6, (0.5 / 0.75) ** 6])
    np.testing.assert_allclose(found["quality"][np.array([0, 1, 6, 7])], expected, rtol=1e-5)


def test_no_truth_and_only_crowds():
    sites = cells((8,))
    _, predicted = drawn(0, sites)
    truth = {"boxes": np.float32([[0, 0, 48, 48]]), "classes": np.int32([0]), "crowd": np.array([True])}
    none = run(truth | {"valid": np.array([False])}, sites, predicted)
    assert set(none["matched"].tolist()) == {BACKGROUND} and not none["quality"].any()
    crowd = run(truth | {"valid": np.array([True])}, sites, predicted)
    assert set(crowd["matched"].tolist()) == {IGNORED} and not crowd["quality"].any()
