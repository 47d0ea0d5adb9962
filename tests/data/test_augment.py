"""Random mappings and colours: within their ranges, repeatable, and refused when misspelt."""

import cv2
import numpy as np
import pytest

from mapjax.data import geometry
from mapjax.data.transforms import augment
from mapjax.errors import UserError

IMAGE = np.random.default_rng(0).integers(60, 190, (24, 32, 3), np.uint8)


def matrices(count=50, **config):
    full = augment.complete(config)
    return [augment.draw_matrix(full, np.random.default_rng(i), (24, 32), (48, 48)) for i in range(count)]


def colours(seed, **config):
    return augment.draw_colours(augment.complete(config), np.random.default_rng(seed))(IMAGE)


@pytest.mark.parametrize("config", [None, {}])
def test_nothing_asked_for_changes_nothing(config):
    full = augment.complete(config)
    matrix = augment.draw_matrix(full, np.random.default_rng(0), (24, 32), (48, 48))
    np.testing.assert_allclose(matrix, geometry.letterbox((24, 32), (48, 48)), atol=1e-9)
    np.testing.assert_array_equal(colours(0), IMAGE)


def test_flips_come_as_often_as_asked():
    mirrored = [m[0, 0] < 0 for m in matrices(400, flip_horizontal=0.3)]
    assert 0.22 < np.mean(mirrored) < 0.38
    assert all(m[1, 1] > 0 for m in matrices(flip_horizontal=1.0))
    upside_down = geometry.compose(geometry.flip_vertical(24), geometry.letterbox((24, 32), (48, 48)))
    np.testing.assert_allclose(matrices(1, flip_vertical=1.0)[0], upside_down, atol=1e-9)


def test_ranges_are_kept_and_used():
    zooms = np.array([m[0, 0] / 1.5 for m in matrices(200, scale=(0.5, 2.0))])
    assert 0.5 <= zooms.min() < 0.6 and 1.7 < zooms.max() <= 2.0
    assert abs(np.log(zooms).mean()) < 0.1  # as often smaller as larger
    angles = [np.rad2deg(np.arctan2(m[1, 0], m[0, 0])) for m in matrices(200, rotate=30)]
    assert -30 <= min(angles) < -25 and 25 < max(angles) <= 30
    shifts = np.array([m[:2, 2] for m in matrices(200, translate=0.25)])
    assert np.abs(shifts[:, 0]).max() <= 0.25 * 48 and np.abs(shifts[:, 1]).max() <= 0.25 * 36
    areas = [np.linalg.det(m) / 1.5**2 for m in matrices(shear=20)]
    assert min(areas) > 0.8 and max(areas) < 1.2


def test_a_crop_fills_the_frame_with_a_window_of_the_image():
    for matrix in matrices(crop=1.0, crop_size=(0.4, 0.8)):
        window = geometry.map_boxes(geometry.invert(matrix), np.array([[0.0, 0, 48, 48]]))[0]
        assert window[:2].min() >= -1e-9  # the frame's top left lies on the image
        assert min(window[2] - window[0], window[3] - window[1]) <= 0.8 * 32 + 1e-9
        assert matrix[0, 0] == pytest.approx(matrix[1, 1])


def test_brightness_contrast_and_saturation_by_hand():
    mean = IMAGE.reshape(-1, 3).mean(axis=0)
    brighter = colours(0, brightness=0.3).astype(float)
    gain = brighter.mean() / IMAGE.mean()
    assert 0.7 <= gain <= 1.3 and abs(gain - 1) > 0.01
    np.testing.assert_allclose(brighter, IMAGE * gain, atol=1)
    flatter = colours(2, contrast=0.4).astype(float)
    np.testing.assert_allclose(flatter.reshape(-1, 3).mean(axis=0) @ augment._YIQ[0], mean @ augment._YIQ[0], atol=1)
    assert abs(flatter.std() / IMAGE.std() - 1) > 0.02
    grey = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2GRAY)
    for change in ("saturation", "hue"):  # neither touches the brightness of a pixel
        changed = colours(3, **{change: 0.5 if change == "saturation" else 40})
        assert np.abs(changed.astype(int) - IMAGE).max() > 3
        np.testing.assert_allclose(cv2.cvtColor(changed, cv2.COLOR_RGB2GRAY), grey, atol=2)


def test_noise_has_the_deviation_that_was_drawn():
    flat = np.full((100, 100, 3), 128, np.uint8)
    config = augment.complete({"noise": 20})
    deviations = [augment.draw_colours(config, np.random.default_rng(i))(flat).std() for i in range(20)]
    assert max(deviations) <= 20.5 and max(deviations) > 10 and min(deviations) < 10
    again = augment.draw_colours(config, np.random.default_rng(7))
    np.testing.assert_array_equal(again(flat), again(flat))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"flip_horisontal": 0.5}, "'flip_horizontal'"),
        ({"flip_horizontal": 2}, "from 0 to 1"),
        ({"scale": 2.0}, "pair"),
        ({"scale": (2.0, 0.5)}, "low <= high"),
        ({"crop_size": (0.5, 1.5)}, "<= 1"),
        ({"rotate": "much"}, "from 0 to 180"),
        ({"noise": float("nan")}, "from 0 to 255"),
    ],
)
def test_a_bad_config_is_one_sentence(config, words):
    with pytest.raises(UserError, match=words):
        augment.complete(config)
