"""Segments equal to Kruskal's forest by hand; groups equal to the greedy rule over all pairs; boxes on objects."""

import itertools

import numpy as np
import pytest

from mapjax.data import graph_segments, selective_search
from mapjax.errors import UserError


def forest(image, scale):
    """Felzenszwalb and Huttenlocher's algorithm on sets of pixels, each edge in its turn."""
    height, width = image.shape[:2]
    places = list(itertools.product(range(height), range(width)))
    edges = []
    for a, b in itertools.combinations(places, 2):
        if max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1:
            edges.append((float(np.linalg.norm(image[a] - image[b])), a, b))
    owner = {place: frozenset([place]) for place in places}
    within = {frozenset([place]): 0.0 for place in places}
    for weight, a, b in sorted(edges, key=lambda edge: edge[0]):
        one, other = owner[a], owner[b]
        if one != other and all(weight <= within[part] + scale / len(part) for part in (one, other)):
            joined = one | other
            within[joined] = weight
            owner |= dict.fromkeys(joined, joined)
    return set(owner.values())


@pytest.mark.parametrize("scale", [2.0, 12.0, 60.0])
def test_segments_are_those_of_the_paper(scale):
    image = np.random.default_rng(0).normal(0, 6, (9, 8, 3))  # no two distances are the same
    image[:, 4:] += 15
    number, count = graph_segments.segments(image, scale=scale)
    groups = {frozenset(map(tuple, np.argwhere(number == one).tolist())) for one in range(count)}
    assert groups == forest(image, scale) and sum(map(len, groups)) == number.size


def test_small_segments_join_a_neighbour():
    image = np.zeros((8, 8, 1), np.float32)
    image[3, 3] = 200
    assert graph_segments.segments(image, scale=1)[1] == 2
    assert graph_segments.segments(image, scale=1, least=4)[1] == 1


def regions():
    """Six squares in two rows."""
    rng, count = np.random.default_rng(1), 6
    places = [(x, y) for y in range(2) for x in range(3)]
    box = np.array([[4 * x, 4 * y, 4 * x + 4, 4 * y + 4] for x, y in places], np.float32)
    pairs = [(a, b) for a, b in itertools.combinations(range(count), 2)]
    pairs = [(a, b) for a, b in pairs if abs(places[a][0] - places[b][0]) + abs(places[a][1] - places[b][1]) == 1]
    colour, texture = (rng.dirichlet(np.ones(5), count).astype(np.float32) for _ in range(2))
    doubled = [np.concatenate([part, np.zeros((count - 1, *part.shape[1:]), part.dtype)]) for part in (colour, texture)]
    size = np.concatenate([np.full(count, 1 / count), np.zeros(count - 1)])
    rows = np.concatenate([box, np.zeros((count - 1, 4), np.float32)])
    return selective_search._Regions(count, *doubled, size, rows, np.array(pairs))


@pytest.mark.parametrize("measures", ["ctsf", "tsf", "f", "s", "c"])
def test_the_most_alike_are_joined_first(measures):
    """As the paper's algorithm 1, which looks at all neighbours anew in each turn."""
    given = regions()
    parts = {
        one: (given.colour[one], given.texture[one], given.size[one], given.box[one]) for one in range(given.count)
    }
    touching, found = {frozenset(pair) for pair in given.pairs.tolist()}, [given.box[one] for one in range(given.count)]

    def alike(one, other):
        (c1, t1, s1, b1), (c2, t2, s2, b2) = parts[one], parts[other]
        around = np.prod(np.maximum(b1, b2)[2:] - np.minimum(b1, b2)[:2]) / 96
        each = {"c": np.minimum(c1, c2).sum(), "t": np.minimum(t1, t2).sum(), "s": 1 - s1 - s2}
        each["f"] = 1 - (around - s1 - s2)
        return sum(each[letter] for letter in measures)

    for new in range(given.count, 2 * given.count - 1):
        one, other = max(
            (sorted(pair) for pair in touching), key=lambda pair: (round(alike(*pair), 6), -pair[0], -pair[1])
        )
        (c1, t1, s1, b1), (c2, t2, s2, b2) = parts[one], parts[other]
        box = np.concatenate([np.minimum(b1, b2)[:2], np.maximum(b1, b2)[2:]])
        parts[new] = ((c1 * s1 + c2 * s2) / (s1 + s2), (t1 * s1 + t2 * s2) / (s1 + s2), s1 + s2, box)
        renamed = {frozenset(new if end in (one, other) else end for end in pair) for pair in touching}
        touching = {pair for pair in renamed if len(pair) == 2}
        found.append(box)
    boxes = selective_search.grouped(given, measures)
    if measures in "fs":  # ties: any order of equals is right, and the last is the whole
        assert boxes.shape == (11, 4) and boxes[-1].tolist() == [0, 0, 12, 8]
    else:
        np.testing.assert_array_equal(boxes, np.array(found))


def test_objects_on_a_plain_ground_are_found():
    image = np.full((60, 90, 3), 40, np.uint8)
    objects = np.array([[10, 10, 30, 30], [50, 20, 80, 50]], np.float32)
    image[10:30, 10:30], image[20:50, 50:80] = (200, 30, 30), (20, 180, 60)
    boxes = selective_search.search(image)
    assert selective_search.recall([boxes], [objects], 0.99) == 1
    np.testing.assert_array_equal(boxes, selective_search.search(image))
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes >= 0).all() and (boxes <= [90, 60, 90, 60]).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_large_image_is_searched_small_and_answered_in_its_own_pixels():
    image = np.full((400, 640, 3), 40, np.uint8)
    image[100:300, 200:500] = (200, 30, 30)
    boxes = selective_search.search(image)
    assert selective_search.recall([boxes], [np.array([[200.0, 100, 500, 300]])], 0.97) == 1
    assert boxes.max() == 640


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
def test_the_smallest_images(shape):
    assert selective_search.search(np.zeros((*shape, 3), np.uint8)).tolist() == [[0, 0, shape[1], shape[0]]]


def test_an_unknown_mode_is_told():
    with pytest.raises(UserError, match=r"--proposals 'fats' is no mode of selective search.*fast"):
        selective_search.require_mode("fats", "--proposals")
