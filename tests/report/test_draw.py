"""mapjax.report.draw: where pixels change, and that pages stay well-formed."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import PIL.Image
import pytest

from mapjax.report import draw
from mapjax.report.draw import Mark


def photo(height=100, width=140):
    return np.full((height, width, 3), 90, np.uint8)


def box(*corners):
    return np.array(corners, np.float32)


def test_draws_the_outline_in_colour_and_leaves_the_rest():
    image = photo()
    drawn = draw.detections(image, [Mark(box(20, 30, 60, 80), "", (255, 0, 0))])
    assert drawn.shape == image.shape and (image == 90).all()
    for x, y in ((20, 30), (60, 80), (40, 30), (20, 50), (60, 55), (33, 80)):
        assert drawn[y, x].tolist() == [255, 0, 0]
    assert (drawn[32:79, 22:59] == 90).all() and (drawn[82:] == 90).all()


def test_label_is_drawn_above_or_inside_at_the_top():
    for top, rows in ((40, slice(26, 40)), (0, slice(1, 14))):
        drawn = draw.detections(photo(), [Mark(box(20, top, 90, 90), "cat 0.9", (200, 0, 0))])
        assert (drawn[rows, 22:50] != 90).any()


def test_small_images_are_enlarged():
    scale = draw.enlargement(100, 140)
    drawn = draw.detections(photo(), [Mark(box(20, 30, 60, 80), "", (0, 255, 0))], scale=scale)
    assert drawn.shape == (400, 560, 3)
    assert drawn[120, 80].tolist() == drawn[320, 240].tolist() == [0, 255, 0]
    assert [draw.enlargement(n, n) for n in (160, 161, 400, 401)] == [4, 2, 2, 1]


@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (500, 3), (20, 10_000)])
@pytest.mark.parametrize("dashed", [False, True])
def test_any_shape_and_box(shape, dashed):
    marks = [
        Mark(box(*b), "näme 0.50", draw.colour(3), dashed=dashed)
        for b in ((0, 0, 1, 1), (-50, -9, 9e4, 9e4), (3, 3, 3, 3))
    ]
    assert draw.detections(photo(*shape), marks).shape == (*shape, 3)


def test_colours_differ_and_are_in_range():
    colours = [draw.colour(k) for k in range(80)]
    assert len(set(colours)) == 80
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
    assert draw.css((1, 160, 255)) == "#01a0ff"


def test_layer_escapes_and_hides_low_scores():
    marks = [
        Mark(box(1, 2, 30, 40), "<b>&\"'", draw.colour(0), score=0.9),
        Mark(box(1, 2, 30, 40), "x", draw.colour(1), "the title", dashed=True, score=0.1),
    ]
    layer = draw.layer(marks, box(0, 0, 100, 100), least=0.5)
    first, second = ElementTree.fromstring(f"<svg>{layer}</svg>")
    assert first.findtext("text") == "<b>&\"'" == first.findtext("title")
    assert second.findtext("title") == "the title"
    assert "low" in second.get("class", "").split() and "low" not in first.get("class", "").split()
    assert "<text" not in draw.layer(marks, box(0, 0, 100, 100), letters=0)


def test_jpeg_is_shrunk_and_true():
    image = np.zeros((50, 200, 3), np.uint8)
    image[:, :100] = (250, 20, 20)
    address = draw.jpeg(image, longest=100)
    head, _, data = address.partition(",")
    back = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64" and back.size == (100, 25)
    assert np.abs(np.array(back.getpixel((20, 12))) - (250, 20, 20)).max() < 20
