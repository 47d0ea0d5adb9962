"""Geometry against closed forms, and its properties on random mappings."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.data import geometry as g

FEW = settings(max_examples=30)
small = st.floats(-20, 20)


@st.composite
def matrices(draw):
    """Products of every kind of mapping, in a random order."""
    parts = [
        g.translate(draw(small), draw(small)),
        g.scale(draw(st.floats(0.3, 3)), draw(st.floats(0.3, 3))),
        g.about(g.rotate(draw(st.floats(-180, 180))), draw(small), draw(small)),
        g.shear(draw(st.floats(-30, 30)), draw(st.floats(-10, 10))),
        g.flip_horizontal(draw(st.floats(1, 40))) if draw(st.booleans()) else g.identity(),
        g.flip_vertical(draw(st.floats(1, 40))) if draw(st.booleans()) else g.crop(draw(small), draw(small)),
    ]
    return g.compose(*draw(st.permutations(parts)))


points = st.lists(st.tuples(small, small), min_size=1, max_size=6).map(lambda rows: np.array(rows, np.float64))


@FEW
@given(matrices(), points)
def test_there_and_back_is_the_identity(matrix, where):
    back = g.map_points(g.invert(matrix), g.map_points(matrix, where))
    np.testing.assert_allclose(back, where, atol=1e-6)
    np.testing.assert_allclose(g.compose(matrix, g.invert(matrix)), np.eye(3), atol=1e-6)


@FEW
@given(matrices(), matrices(), points)
def test_a_product_is_one_after_the_other(first, then, where):
    both = g.map_points(g.compose(first, then), where)
    np.testing.assert_allclose(both, g.map_points(then, g.map_points(first, where)), rtol=1e-9, atol=1e-6)


@FEW
@given(matrices(), st.integers(0, 2**32 - 1))
def test_a_box_always_encloses_its_mask(matrix, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((24, 32), bool)
    x, y = np.sort(rng.choice(33, 2, replace=False)), np.sort(rng.choice(25, 2, replace=False))
    mask[y[0] : y[1], x[0] : x[1]] = rng.random((y[1] - y[0], x[1] - x[0])) < 0.5
    matrix = g.compose(matrix, g.translate(20, 20))
    box = g.map_boxes(matrix, np.array([[x[0], y[0], x[1], y[1]]], np.float64))[0]
    tight = g.bounds(g.map_points(matrix, g.mask_outline(mask)))
    rows, columns = np.nonzero(g.map_masks(matrix, mask[None], (60, 70))[0])
    for x1, y1, x2, y2 in (box, tight):
        # Pixels are set by their centres. OpenCV rounds where it samples to 1/32 of a pixel or finer.
        slack = 1 / 16 * max(np.abs(matrix[:2, :2]).sum(), 1)
        assert np.all((columns + 0.5 >= x1 - slack) & (columns + 0.5 <= x2 + slack))
        assert np.all((rows + 0.5 >= y1 - slack) & (rows + 0.5 <= y2 + slack))
    if mask.any():
        assert np.all(tight[:2] >= box[:2] - 1e-9) and np.all(tight[2:] <= box[2:] + 1e-9)


def test_boxes_by_hand():
    box = np.array([[1.0, 2, 4, 8]])
    np.testing.assert_allclose(g.map_boxes(g.flip_horizontal(10), box), [[6, 2, 9, 8]])
    np.testing.assert_allclose(g.map_boxes(g.flip_vertical(10), box), [[1, 2, 4, 8]])
    np.testing.assert_allclose(g.map_boxes(g.rotate(90), box), [[-8, 1, -2, 4]], atol=1e-12)
    np.testing.assert_allclose(g.map_boxes(g.letterbox((20, 40), (10, 10)), box), box / 4)
    np.testing.assert_allclose(g.map_points(g.shear(45), np.array([[0.0, 2.0]])), [[2, 2]])
    np.testing.assert_allclose(g.clip_boxes(np.array([[-1.0, 2, 40, 8]]), (5, 9)), [[0, 2, 9, 5]])
    np.testing.assert_allclose(g.box_areas(np.array([[0.0, 0, 2, 3], [2, 2, 1, 5]])), [6, 0])
    assert g.map_boxes(g.rotate(10), np.zeros((0, 4), np.float32)).dtype == np.float32


@pytest.mark.parametrize("turn", range(4))
def test_quarter_turns_and_flips_move_pixels_exactly(turn):
    image = np.random.default_rng(turn).integers(0, 256, (6, 9, 3), np.uint8)
    matrix = g.identity()
    size = image.shape[:2]
    for _ in range(turn):  # a clockwise turn takes (x, y) to (height - y, x)
        matrix, size = g.compose(matrix, g.rotate(90), g.translate(size[0], 0)), size[::-1]
    np.testing.assert_array_equal(g.map_image(matrix, image, size), np.rot90(image, -turn))
    mask = image[None, ..., 0] > 127
    np.testing.assert_array_equal(g.map_masks(matrix, mask, size)[0], np.rot90(mask[0], -turn))
    mirrored = g.map_image(g.flip_horizontal(9), image, image.shape[:2])
    np.testing.assert_array_equal(mirrored, image[:, ::-1])
    np.testing.assert_array_equal(g.map_image(g.flip_vertical(6), image, image.shape[:2]), image[::-1])


def test_the_image_and_its_boxes_move_together():
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:30, 10:50] = 255
    matrix = g.compose(g.about(g.rotate(25), 40, 30), g.scale(0.8, 1.1), g.translate(5, -3))
    lit = g.map_image(matrix, image, (70, 80))[..., 0] > 127
    expected = g.map_boxes(matrix, np.array([[10.0, 20, 50, 30]]))[0]
    np.testing.assert_allclose(g.mask_bounds(lit), expected, atol=1)
    np.testing.assert_allclose(g.bounds(g.mask_outline(lit)), g.mask_bounds(lit))


def test_shrinking_averages_instead_of_aliasing():
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 200  # an image of 200, 0, 200, 0 is grey 100 from afar
    small = g.map_image(g.letterbox((64, 96), (16, 24)), stripes, (16, 24))
    np.testing.assert_allclose(small, 100, atol=1)
    shrunk, onward = g.shrink(stripes, g.scale(1 / 5))
    assert shrunk.shape == (13, 19, 3)
    corners = np.array([[0.0, 0], [19, 13]])
    np.testing.assert_allclose(g.map_points(onward, corners), [[0, 0], [96 / 5, 64 / 5]])


@pytest.mark.parametrize("size", [(1, 1), (20, 10_000), (10_000, 20), (480, 640), (3, 7)])
def test_letterbox_fits_any_image(size):
    frame = (48, 64)
    matrix = g.letterbox(size, frame)
    corner = g.map_points(matrix, np.array([[size[1], size[0]]], np.float64))[0]
    assert np.isclose(corner, (64, 48)).any() and (corner <= np.array([64, 48]) + 1e-9).all()
    photo = g.map_image(matrix, np.full((*size, 3), 255, np.uint8), frame, (10, 20, 30))
    assert photo.shape == (48, 64, 3) and photo.max() > 100
    if corner[0] < 62:
        np.testing.assert_array_equal(photo[:, -1], np.tile([10, 20, 30], (48, 1)))


def test_an_empty_mask_has_no_extent():
    empty = np.zeros((5, 6), bool)
    assert len(g.mask_outline(empty)) == 0
    np.testing.assert_array_equal(g.bounds(g.mask_outline(empty)), 0)
    np.testing.assert_array_equal(g.mask_bounds(empty), 0)
    assert g.map_masks(g.identity(), np.zeros((0, 5, 6), bool), (3, 4)).shape == (0, 3, 4)
