"""Against a plain loop over truths and sites, as the paper tells it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops.matching import BACKGROUND, IGNORED
from mapjax.ops.sim_ota import by_sim_ota


@functools.cache
def program(count, options):
    """A jit of the assignment to so many sites."""
    sites = {36: squares((8,)), 45: squares()}[count]
    return jax.jit(lambda truth, predicted: by_sim_ota(truth, sites, predicted, **dict(options)))


def run(truth, sites, predicted, **options):
    return program(sum(map(len, sites)), tuple(options.items()))(truth, predicted)


def iou_of(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def squares(sides=(8, 16), image=48):
    """Squares of a side around the corners of cells of that side, as YOLOX has its sites."""
    levels = []
    for side in sides:
        corners = [(x * side, y * side) for y in range(image // side) for x in range(image // side)]
        levels.append(
            np.float32([[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y in corners]).reshape(-1, 4)
        )
    return levels


def drawn(seed, sites, truths=6, classes=3):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-4, 36, (truths, 2)), rng.uniform(2, 30, (truths, 2))
    truth = {
        "boxes": np.concatenate([corner, corner + size], 1).astype(np.float32),
        "classes": rng.integers(0, classes, truths).astype(np.int32),
        "crowd": np.arange(truths) == 2,
        "valid": np.arange(truths) != truths - 1,
    }
    every = np.concatenate(sites)
    near = truth["boxes"][rng.integers(0, truths, len(every))] + rng.normal(0, 3, (len(every), 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    scores = rng.uniform(0.01, 0.99, (len(every), classes))
    return truth, {"scores": scores.astype(np.float32), "boxes": near.astype(np.float32)}


def plain(truth, sites, predicted, radius=2.5, count=10, factor=3.0):
    """(matched without the ignored, quality)."""
    every = np.concatenate(sites).astype(np.float64)
    boxes, truths = truth["boxes"].astype(np.float64), range(len(truth["boxes"]))
    real = [m for m in truths if truth["valid"][m] and not truth["crowd"][m]]
    side = every[:, 2] - every[:, 0]
    points = (every[:, :2] + every[:, 2:]) / 2 + side[:, None] / 2  # the middle of the cell

    def where(m, r):
        x, y = points[r]
        left, top, right, bottom = boxes[m]
        middle = (left + right) / 2, (top + bottom) / 2
        return left < x < right and top < y < bottom, max(abs(x - middle[0]), abs(y - middle[1])) < radius * side[r]

    candidates = [r for r in range(len(every)) if any(any(where(m, r)) for m in real)]
    iou, cost = {}, {}
    for m in real:
        for r in candidates:
            chance = np.sqrt(predicted["scores"][r].astype(np.float64))
            wanted = np.arange(len(chance)) == truth["classes"][m]
            entropy = -np.where(wanted, np.log(chance), np.log(1 - chance)).sum()
            iou[m, r] = iou_of(boxes[m], predicted["boxes"][r].astype(np.float64))
            cost[m, r] = entropy - factor * np.log(iou[m, r] + 1e-8) + (0 if all(where(m, r)) else 1e5)
    takers = {r: [] for r in range(len(every))}
    for m in real:
        best = sorted((iou[m, r] for r in candidates), reverse=True)[:count]
        wanted = max(int(sum(best)), 1)
        for r in sorted(candidates, key=lambda r: cost[m, r])[:wanted]:
            takers[r].append(m)
    matched, quality = [], []
    for r, takes in takers.items():
        owner = min(real, key=lambda m: cost[m, r]) if len(takes) > 1 else (takes or [BACKGROUND])[0]
        matched.append(owner)
        quality.append(iou[owner, r] if takes else 0)
    return matched, quality


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_plain_loop(seed):
    sites = squares()
    truth, predicted = drawn(seed, sites)
    found = run(truth, sites, predicted)
    matched, quality = plain(truth, sites, predicted)
    got = np.where(found["matched"] == IGNORED, BACKGROUND, found["matched"])
    assert got.tolist() == matched
    np.testing.assert_allclose(found["quality"], quality, rtol=1e-4, atol=1e-6)
    assert len(set(matched)) > 3


def test_good_answers_are_many():
    """A truth of which every site answers exactly has ten of them; one that nothing overlaps has one."""
    sites = squares((8,))
    box = np.float32([[4, 4, 44, 44]])
    truth = {"boxes": box, "classes": np.int32([0]), "crowd": np.array([False]), "valid": np.array([True])}
    exact = {"scores": np.full((36, 1), 0.5, np.float32), "boxes": np.repeat(box, 36, 0)}
    assert (run(truth, sites, exact)["matched"] == 0).sum() == 10
    assert (run(truth, sites, exact, count=4)["matched"] == 0).sum() == 4
    apart = exact | {"boxes": np.repeat(np.float32([[100, 100, 110, 110]]), 36, 0)}
    found = run(truth, sites, apart)
    assert (found["matched"] == 0).sum() == 1 and float(jnp.abs(found["quality"]).max()) == 0


def test_no_truth_and_only_crowds():
    sites = squares((8,))
    _, predicted = drawn(0, sites)
    box = np.float32([[0, 0, 48, 48], [8, 8, 16, 16]])
    truth = {"boxes": box, "classes": np.int32([0, 1]), "crowd": np.array([True, True])}
    none = run(truth | {"valid": np.array([False, False])}, sites, predicted)
    assert set(none["matched"].tolist()) == {BACKGROUND} and not none["quality"].any()
    crowd = run(truth | {"valid": np.array([True, True])}, sites, predicted)
    assert set(crowd["matched"].tolist()) <= {BACKGROUND, IGNORED} and (crowd["matched"] == IGNORED).sum() > 20
