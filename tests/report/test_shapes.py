"""Masks and skeletons: drawn pixels, SVG, and values of answers."""

import io
import json

import cv2
import numpy as np
import PIL.Image

from mapjax.data import run_lengths
from mapjax.report import detections, draw, shapes
from mapjax.report.draw import Mark

GREY = np.full((20, 30, 3), 100, np.uint8)
MASK = np.zeros((20, 30), bool)
MASK[4:14, 5:21] = True
MASK[8:10, 10:13] = False  # a hole


def test_a_mask_is_tinted_inside_and_outlined_and_nothing_else():
    drawn = shapes.fill(GREY, [MASK], [(200, 0, 0)], 1)
    np.testing.assert_array_equal(drawn[~MASK], GREY[~MASK])
    inside = np.array(
        [[MASK[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].all() for x in range(30)] for y in range(20)]
    )
    assert (drawn[MASK & ~inside] == (200, 0, 0)).all()
    assert (drawn[inside] == (145, 55, 55)).all()  # 45 % of the colour
    assert (GREY == 100).all()  # a copy is drawn on
    large = shapes.fill(np.repeat(np.repeat(GREY, 4, 0), 4, 1), [MASK], [(200, 0, 0)], 2)
    changed = (large != 100).any(axis=2)
    np.testing.assert_array_equal(changed, np.kron(MASK, np.ones((4, 4))).astype(bool))  # crisp: whole pixels
    at_border = shapes.fill(GREY, [np.ones((20, 30), bool)], [(1, 2, 3)], 1)
    assert (at_border[0] == (1, 2, 3)).all() and (at_border[1, 1:-1] != (1, 2, 3)).any()


def test_the_path_of_a_mask_encloses_it():
    path = shapes.path(MASK)
    rings = [np.array([pair.split() for pair in ring[:-1].split("L")], float) for ring in path.split("M")[1:]]
    assert len(rings) == 2  # the hole is one
    again = np.zeros((200, 300), np.uint8)
    for ring in rings:
        cv2.fillPoly(again, [np.rint(ring * 10).astype(np.int32)], int(ring is rings[0]))
    near = again[5::10, 5::10].astype(bool)  # the centres of pixels
    np.testing.assert_array_equal(near, MASK)
    assert shapes.path(np.zeros((3, 3), bool)) == ""


def test_keypoints_are_drawn_where_they_are_seen():
    points = np.array([[5, 5, 2], [25, 5, 1], [15, 15, 0]], np.float32)
    mark = Mark(np.array([0.0, 0, 30, 20]), "", (0, 0, 250), points=points, lines=((0, 1), (1, 2)))
    drawn = draw.detections(GREY, [mark._replace(box=np.array([0.0, 0, 1, 1]))])
    blue = (drawn == (0, 0, 250)).all(axis=2)
    assert blue[5, 5] and blue[5, 25] and not blue[12:18, 10:20].any()  # neither the unseen nor a line to it
    assert blue[4:6, 15].any() or (drawn[4:6, 15] == 255).any()
    svg = draw.layer([mark], np.array([0, 0, 30, 20], np.float32))
    assert svg.count("<circle") == 2 and svg.count("<line") == 1 and 'x1="5.0" y1="5.0" x2="25.0" y2="5.0"' in svg


def test_keypoints_that_no_line_joins_have_colours_of_their_own():
    points = np.array([[5, 5, 2], [25, 5, 1]], np.float32)
    mark = Mark(np.array([0.0, 0, 1, 1]), "", (0, 0, 250), points=points)
    drawn = draw.detections(GREY, [mark])
    assert tuple(drawn[5, 5]) == draw.colour(0) != draw.colour(1) == tuple(drawn[5, 25])
    svg = draw.layer([mark], np.array([0, 0, 30, 20], np.float32))
    assert [f"--tone:{draw.css(draw.colour(k))}" in svg.split("<circle")[k + 1] for k in range(2)] == [True, True]


def test_of_many_masks_boxes_and_labels_are_left_out():
    marks = [Mark(np.array([5.0, 4, 21, 14]), "cell", (0, 0, 250), shape=MASK)] * (draw.MOST_BOXES + 1)
    few, many = (draw.layer(some, np.array([0, 0, 30, 20], np.float32)) for some in (marks[:2], marks))
    assert few.count("<rect") == few.count("<path") == 2
    assert many.count("<path") == len(marks) and "<rect" not in many and 'fill-rule="evenodd"' in many
    drawn = draw.detections(GREY, marks)
    assert (drawn[~MASK] == 100).all() and (draw.detections(GREY, marks[:1])[~MASK] != 100).any()


def answer():
    other = np.zeros((20, 30), bool)
    other[10:20, 15:30] = True
    masks = [{"size": [20, 30], "counts": run_lengths.encode(mask)} for mask in (MASK, other, other)]
    boxes = np.array([[5, 4, 21, 14], [15, 10, 30, 20], [0, 0, 9, 9]], np.float32)
    points = np.array([[[6.123, 5, 0.5], [7, 8, -1]]] * 3, np.float32)
    result = {"boxes": boxes, "scores": np.array([0.6, 0.9, 0.2]), "classes": np.array([0, 1, 1])}
    return result | {"valid": np.ones(3, bool), "masks": masks, "keypoints": points}, other


def test_answers_are_shown_with_masks_and_keypoints():
    result, other = answer()
    shown = detections.show(result, GREY, classes=("cat", "dog"), score=0.5, enlarge=False, skeleton=((0, 1),))
    values = json.loads(json.dumps(shown.values))
    assert values["names"] == ["dog", "cat"] and values["keypoints"][0] == [[6.12, 5, 0.5], [7, 8, -1]]
    drawn = [run_lengths.decode(one["counts"].encode(), tuple(one["size"])) for one in values["masks"]]
    np.testing.assert_array_equal(drawn, [other, MASK])
    ids = np.array(PIL.Image.open(io.BytesIO(shown.objects)))
    smaller, larger = (2, 1) if MASK.sum() < other.sum() else (1, 2)  # the smaller is on top
    above, below = (MASK, other) if smaller == 2 else (other, MASK)
    np.testing.assert_array_equal(ids, np.where(above, smaller, np.where(below, larger, 0)))
    plain = {key: value for key, value in result.items() if key not in ("masks", "keypoints")}
    assert detections.show(plain, GREY, classes=("cat", "dog"), score=0.5, enlarge=False).objects is None
    nothing = detections.show(result, GREY, classes=("cat", "dog"), score=0.99, enlarge=True)
    assert nothing.values["masks"] == [] and nothing.findings == 0
