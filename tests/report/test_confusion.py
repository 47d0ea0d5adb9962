"""mapjax.report.confusion against a plain reading of the matrix."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mapjax.report import confusion


def matrix_of(classes, seed=0, right=40):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, (classes, classes)) + right * np.eye(classes, dtype=int)


def test_pairs_by_brute_force():
    matrix = matrix_of(7, seed=3)
    matrix[2, 2] = 400  # the same numbers are a smaller share here
    wanted = sorted(
        (-int(matrix[a, b]), -matrix[a, b] / matrix[a].sum(), a, b)
        for a in range(7)
        for b in range(7)
        if a != b and matrix[a, b]
    )
    found = confusion.pairs(matrix, 12)
    for pair, (number, share, truth, predicted) in zip(found, wanted[:12], strict=True):
        assert (pair.number, pair.truth, pair.predicted) == (-number, truth, predicted)
        assert pair.share == pytest.approx(-share)
    assert confusion.pairs(np.eye(4, dtype=int), 5) == []
    assert confusion.pairs(np.zeros((2, 2), int), 5) == []


@pytest.mark.parametrize("classes", [1, 2, 10, 30])
def test_heat_map_shows_every_number(classes):
    matrix = matrix_of(classes)
    names = [f"<{k}> & a name that is long" if k % 2 else str(k) for k in range(classes)]
    chart = ElementTree.fromstring(confusion.heat_map(matrix, names))
    cells = {}
    for rect in chart.iter("rect"):
        title = rect.find("title")
        if title is not None:
            truth, predicted, number = re.fullmatch(r"(.+) → (.+): ([\d,]+) \(.*\)", title.text).groups()
            cells[names.index(truth), names.index(predicted)] = (rect, int(number.replace(",", "")))
    assert {place: number for place, (_, number) in cells.items()} == {
        (a, b): matrix[a, b] for a, b in np.argwhere(matrix > 0).tolist()
    }
    corner = cells[0, 0][0]
    for (a, b), (rect, _) in cells.items():
        side = float(rect.get("width")) + 1
        assert float(rect.get("y")) - float(corner.get("y")) == a * side
        assert float(rect.get("x")) - float(corner.get("x")) == b * side
        assert rect.get("class") == ("right" if a == b else "wrong")
    if classes > 2:
        (_, strong), (_, weak) = max((n, a) for a, (_, n) in cells.items()), min((n, a) for a, (_, n) in cells.items())
        assert float(cells[strong][0].get("fill-opacity")) > float(cells[weak][0].get("fill-opacity"))
    numbered = sum(text.get("class", "").startswith("number") for text in chart.iter("text"))
    assert numbered == len(cells)
    crowded = ElementTree.fromstring(confusion.heat_map(1000 * matrix, names))
    fits = any(text.get("class", "").startswith("number") for text in crowded.iter("text"))
    assert fits == (classes <= 10)  # five digits


def test_heat_map_without_images():
    chart = ElementTree.fromstring(confusion.heat_map(np.zeros((3, 3), int), ["a", "b", "c"]))
    assert [rect.get("class") for rect in chart.iter("rect")] == ["empty"]
    shown = sorted([*text.itertext()][-1] for text in chart.iter("text"))
    assert shown == ["a", "a", "b", "b", "c", "c", "predicted", "truth"]
