"""Each assignment against a plain loop over sites and truths, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops import assignment
from mapjax.ops.anchors import grid_anchors
from mapjax.ops.matching import BACKGROUND, IGNORED, hardest

IMAGE = (64, 96)
POINTS = [grid_anchors(IMAGE, (64 // s, 96 // s), (s,), (1,)) for s in (8, 16, 32)]
ANCHORS = [grid_anchors(IMAGE, (64 // s, 96 // s), (2 * s, 3 * s), (0.5, 1, 2)) for s in (8, 16, 32)]


def truth_of(seed, rows=6):
    """Boxes of many sizes, some of which are crowds or padding."""
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0, [96, 64], (rows, 2)), np.exp(rng.uniform(1.5, 4.2, (rows, 2)))
    return {
        "boxes": np.concatenate([centre - size / 2, centre + size / 2], 1).astype(np.float32),
        "classes": rng.integers(0, 3, rows).astype(np.int32),
        "crowd": rng.random(rows) < 0.25,
        "valid": rng.random(rows) < 0.8,
    }


def shared(a, b):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return max(width, 0) * max(height, 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a, b):
    return shared(a, b) / (area(a) + area(b) - shared(a, b))


def with_crowds(matched, site, truth):
    crowds = [box for box, crowd, valid in rows_of(truth) if crowd and valid]
    lies = any(shared(site, box) > 0.5 * area(site) for box in crowds)
    return IGNORED if matched == BACKGROUND and lies else matched


def rows_of(truth):
    return list(zip(truth["boxes"].astype(float), truth["crowd"], truth["valid"]))


def singles(truth):
    return [(number, box) for number, (box, crowd, valid) in enumerate(rows_of(truth)) if valid and not crowd]


def plain_iou(truth, site, high, low):
    best = max(((iou(site, box), -number) for number, box in singles(truth)), default=(0, 0))
    return -best[1] if best[0] >= high and best[0] > 0 else BACKGROUND if best[0] < low else IGNORED


def found_by(name, truth, sites, **options):
    every = np.concatenate(sites)  # what is predicted matters to some of them
    predicted = {"scores": jnp.full((len(every), 3), 0.5), "boxes": jnp.asarray(every)}
    run = jax.jit(lambda truth: assignment.ASSIGNMENTS[name](truth, sites, predicted, **options)["matched"])
    return np.asarray(run({key: jnp.asarray(value) for key, value in truth.items()}))


@pytest.mark.parametrize("seed", range(3))
def test_by_iou(seed):
    truth, sites = truth_of(seed), np.concatenate(ANCHORS).astype(float)
    expected = np.array([plain_iou(truth, site, 0.45, 0.3) for site in sites])
    for _, box in singles(truth):  # its best anchors keep the truth that they overlap most
        overlaps = np.array([iou(site, box) for site in sites])
        for n in np.flatnonzero((overlaps >= overlaps.max() * (1 - 1e-6)) & (overlaps > 0)):
            expected[n] = plain_iou(truth, sites[n], 0.0, 0.0)
    expected = [with_crowds(matched, site, truth) for matched, site in zip(expected, sites)]
    assert found_by("iou", truth, ANCHORS, high=0.45, low=0.3).tolist() == expected
    assert len(set(expected)) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_by_best_iou(seed):
    truth, sites = truth_of(seed), np.concatenate(ANCHORS).astype(float)
    expected = np.array([plain_iou(truth, site, 0.5, 0.5) for site in sites])
    for number, box in singles(truth):
        overlaps = [iou(site, box) for site in sites]
        expected[int(np.argmax(overlaps))] = number
    expected = [with_crowds(matched, site, truth) for matched, site in zip(expected, sites)]
    assert found_by("best_iou", truth, ANCHORS).tolist() == expected
    assert {number for number, _ in singles(truth)} <= set(expected)


@pytest.mark.parametrize("seed", range(6))
def test_by_centre(seed):
    truth, expected = truth_of(seed), []
    for level, stride in enumerate((8, 16, 32)):
        for site in POINTS[level].astype(float):
            x, y = (site[:2] + site[2:]) / 2
            fitting = []
            for number, box in singles(truth):
                edges = [x - box[0], y - box[1], box[2] - x, box[3] - y]
                near = max(abs(x - (box[0] + box[2]) / 2), abs(y - (box[1] + box[3]) / 2)) < 1.5 * stride
                low, high = (4 * stride if level else 0), (8 * stride if level < 2 else np.inf)
                if min(edges) > 0 and near and low < max(edges) < high:
                    fitting.append((area(box), number))
            expected.append(with_crowds(min(fitting)[1] if fitting else BACKGROUND, site, truth))
    assert found_by("centre", truth, POINTS).tolist() == expected
    assert max(expected) >= 0


@pytest.mark.parametrize("name", list(assignment.ASSIGNMENTS))
def test_nothing_to_find_and_only_crowds(name):
    truth, sites = truth_of(0), POINTS if name == "centre" else ANCHORS
    assert set(found_by(name, truth | {"valid": np.zeros(6, bool)}, sites).tolist()) == {BACKGROUND}
    everywhere = truth | {"boxes": np.tile(np.float32([-99, -99, 200, 200]), (6, 1)), "valid": np.ones(6, bool)}
    assert set(found_by(name, everywhere | {"crowd": np.ones(6, bool)}, sites).tolist()) == {IGNORED}


def test_a_box_in_a_corner_has_sites():
    truth = {"boxes": np.float32([[0, 0, 14, 11]]), "crowd": np.array([False]), "valid": np.array([True])}
    for name, sites in (("iou", ANCHORS), ("best_iou", ANCHORS), ("centre", POINTS)):
        assert 0 in found_by(name, truth, sites), name


@pytest.mark.parametrize("positives", [0, 1, 4])
def test_the_hardest_negatives(positives):
    rng = np.random.default_rng(positives)
    loss = rng.random(30).astype(np.float32)
    positive, ignored = np.arange(30) < positives, np.arange(30) > 25
    found = hardest(jnp.asarray(loss), jnp.asarray(positive), jnp.asarray(~positive & ~ignored), 3)
    left = sorted((n for n in range(positives, 26)), key=lambda n: -loss[n])
    assert set(np.flatnonzero(found)) == set(left[: 3 * positives])
    assert not hardest(jnp.zeros(4), jnp.ones(4, bool), jnp.zeros(4, bool), 3).any()
