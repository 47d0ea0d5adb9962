"""The cheap ways into a frame against the warp, and against Pillow."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.data import geometry
from mapjax.data.transforms import resample

FILL = (1, 2, 3)
FEW = settings(max_examples=60)
sides = st.integers(1, 24)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height, width):
    return np.asarray(PIL.Image.fromarray(noise(3, 4)).resize((width, height), PIL.Image.Resampling.BICUBIC))


@FEW
@given(sides, sides, sides, sides, st.integers(-30, 30), st.integers(-30, 30), st.booleans(), st.booleans())
def test_whole_pixels_are_copied_as_the_warp_would(height, width, rows, columns, x, y, across, down):
    image = noise(height, width)
    matrix = geometry.compose(
        geometry.flip_horizontal(width) if across else geometry.identity(),
        geometry.flip_vertical(height) if down else geometry.identity(),
        geometry.translate(x, y),
    )
    found = resample.resample(matrix, image, (rows, columns), FILL)
    np.testing.assert_array_equal(found, geometry.map_image(matrix, image, (rows, columns), FILL))
    assert not np.shares_memory(found, image)


@FEW
@given(sides, sides, sides, sides, st.integers(-30, 30), st.integers(-30, 30), st.booleans(), st.booleans())
def test_reflected_whole_pixels_are_those_of_a_padded_image(height, width, rows, columns, x, y, across, down):
    image = noise(height, width)
    padded = np.pad(image, ((60, 60), (60, 60), (0, 0)), "reflect")
    window = padded[60 - y : 60 - y + rows, 60 - x : 60 - x + columns]
    matrix = geometry.compose(
        geometry.translate(x, y),
        geometry.flip_horizontal(columns) if across else geometry.identity(),
        geometry.flip_vertical(rows) if down else geometry.identity(),
    )
    expected = window[:: -1 if down else 1, :: -1 if across else 1]
    np.testing.assert_array_equal(resample.resample(matrix, image, (rows, columns), FILL, reflect=True), expected)


@FEW
@given(st.integers(2, 20), st.integers(2, 20), st.integers(-6, 6), st.integers(-6, 6))
def test_the_reflecting_warp_agrees_with_the_reflecting_copy(height, width, x, y):
    matrix = geometry.translate(x, y)
    barely_turned = matrix + np.array([[0, 1e-9, 0], [0, 0, 0], [0, 0, 0]])
    image = noise(height, width)
    copied, warped = (resample.resample(m, image, (12, 17), FILL, reflect=True) for m in (matrix, barely_turned))
    np.testing.assert_array_equal(copied, warped)


@FEW
@given(st.integers(20, 60), st.integers(20, 60), st.floats(0, 0.4), st.floats(0, 0.4), st.booleans(), st.booleans())
def test_an_upright_window_is_pillows(height, width, left, top, across, down):
    image, frame = noise(height, width), (16, 19)
    box = (left * width, top * height, (left + 0.6) * width, (top + 0.6) * height)
    matrix = geometry.compose(
        geometry.crop(box[0], box[1]),
        geometry.scale(frame[1] / (0.6 * width), frame[0] / (0.6 * height)),
        geometry.flip_horizontal(frame[1]) if across else geometry.identity(),
        geometry.flip_vertical(frame[0]) if down else geometry.identity(),
    )
    bilinear = PIL.Image.Resampling.BILINEAR
    expected = np.asarray(PIL.Image.fromarray(image).resize((19, 16), bilinear, box=box))
    expected = expected[:: -1 if down else 1, :: -1 if across else 1]
    for part, onward in ((image, matrix), resample.cut(matrix, image, frame)):
        found = resample.resample(onward, part, frame, FILL)
        assert np.abs(found.astype(int) - expected).max() <= 1


@FEW
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 30), st.integers(0, 30))
def test_an_enlarged_image_is_pillows_too(height, width, more_rows, more_columns):
    image, frame = noise(height, width), (height + more_rows, width + more_columns)
    found = resample.resample(geometry.scale(frame[1] / width, frame[0] / height), image, frame, FILL)
    expected = PIL.Image.fromarray(image).resize(frame[::-1], PIL.Image.Resampling.BILINEAR)
    assert np.abs(found - np.asarray(expected, np.int32)).max() <= 2


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("magnify", [0.5, 1.5])
def test_enlarged_and_letterboxed_images_agree_with_the_warp(across, magnify):
    image, frame = smooth(40, 60), (100, 100)
    matrix = geometry.compose(
        geometry.scale(magnify),
        geometry.translate(4, 7),
        geometry.flip_horizontal(100) if across else geometry.identity(),
    )
    found = resample.resample(matrix, image, frame, FILL)
    warped = geometry.map_image(matrix, image, frame, FILL)
    outside = (warped == FILL).all(axis=2)
    assert outside.sum() == 100 * 100 - 40 * 60 * magnify**2
    np.testing.assert_array_equal(found[outside], warped[outside])
    assert np.abs(found.astype(int) - warped)[~outside].max() <= 4


def test_what_lies_between_pixels_is_warped():
    image = smooth(40, 60)
    matrix = geometry.compose(geometry.scale(0.7), geometry.translate(2.3, 1.6))
    expected = geometry.map_image(matrix, image, (50, 50), FILL)
    np.testing.assert_array_equal(resample.resample(matrix, image, (50, 50), FILL), expected)


def test_a_frame_beside_the_image_is_filled():
    for matrix in (geometry.translate(500, 0), geometry.compose(geometry.scale(0.5), geometry.translate(0, 400))):
        found = resample.resample(matrix, noise(40, 60), (5, 6), FILL)
        np.testing.assert_array_equal(found, np.full((5, 6, 3), FILL))


@settings(max_examples=40)
@given(st.floats(-180, 180), st.floats(0.2, 3), st.floats(-60, 60), st.floats(-60, 60), st.floats(-40, 40))
def test_cutting_leaves_the_frame_as_it_was(turn, zoom, x, y, tilt):
    image = smooth(61, 83)
    matrix = geometry.compose(
        geometry.rotate(turn), geometry.shear(tilt), geometry.scale(zoom), geometry.translate(x, y)
    )
    part, onward = resample.cut(matrix, image, (20, 30))
    assert np.shares_memory(part, image) and min(part.shape) > 0
    corner = geometry.map_points(geometry.compose(onward, geometry.invert(matrix)), np.zeros((1, 2)))[0]
    left, top = np.rint(corner).astype(int)
    np.testing.assert_allclose(corner, [left, top], atol=1e-6)
    np.testing.assert_array_equal(part, image[top : top + part.shape[0], left : left + part.shape[1]])
    whole, seen = (geometry.map_image(m, i, (20, 30), FILL) for m, i in ((matrix, image), (onward, part)))
    np.testing.assert_array_equal((whole == FILL).all(axis=2), (seen == FILL).all(axis=2))
    assert np.abs(whole.astype(int) - seen).max() <= 8  # averaging by whole factors begins elsewhere


def test_shrinkage_counts_pixels_of_the_image():
    assert resample.shrinkage(geometry.scale(0.5, 0.25)) == (2, 4)
    turned = geometry.compose(geometry.scale(0.5, 0.25), geometry.rotate(30))
    assert resample.shrinkage(turned) == pytest.approx((2, 4))
