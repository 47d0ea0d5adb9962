"""Erased rectangles: within their ranges, repeatable, and nothing else is touched."""

import numpy as np

from mapjax.data.transforms import erase

FRAME = (40, 64)


def test_rectangles_have_the_area_and_the_ratio_asked_for():
    boxes = [erase.draw(np.random.default_rng(i), FRAME, (0.05, 0.2), (0.5, 2.0)) for i in range(300)]
    boxes = np.array([box for box in boxes if box is not None])
    assert len(boxes) == 300
    top, left, height, width = boxes.T
    assert top.min() == 0 and left.min() == 0
    assert (top + height).max() == 40 and (left + width).max() == 64
    area, ratio = height * width / (40 * 64), height / width
    assert 0.04 < area.min() < 0.06 and 0.19 < area.max() < 0.21 and abs(area.mean() - 0.125) < 0.01
    assert 0.45 < ratio.min() < 0.6 and 1.7 < ratio.max() < 2.2 and abs(np.log(ratio).mean()) < 0.07


def test_what_does_not_fit_is_left_out():
    assert erase.draw(np.random.default_rng(0), FRAME, (1.0, 1.0), (1.0, 1.0)) is None
    assert erase.draw(np.random.default_rng(0), (1, 1)) is None


def test_only_the_rectangle_changes():
    image = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), np.uint8)
    before, inside = image.copy(), np.zeros(FRAME, bool)
    inside[5:15, 20:50] = True
    flat = erase.erase(image, (5, 20, 10, 30), (1, 2, 3))
    noisy = erase.erase(image, (5, 20, 10, 30), np.random.default_rng(7))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(flat[inside], np.tile([1, 2, 3], (300, 1)))
    np.testing.assert_array_equal(flat[~inside], image[~inside])
    np.testing.assert_array_equal(noisy[~inside], image[~inside])
    assert noisy[inside].min() < 5 and noisy[inside].max() > 250 and abs(noisy[inside].mean() - 127.5) < 8
    np.testing.assert_array_equal(noisy, erase.erase(image, (5, 20, 10, 30), np.random.default_rng(7)))
