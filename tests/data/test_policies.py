"""Every colour operation against Pillow's on random images; the draws against the papers' ranges."""

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.data import geometry
from mapjax.data.transforms import augment, policies
from mapjax.errors import UserError

FRAME = (40, 60)


def images():
    """Noise, a dim narrow range, a smooth image, one colour, and images of hardly a pixel."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(33) * 3, np.arange(47))[..., None] + [0, 20, 60]
    return [
        rng.integers(0, 256, (33, 47, 3), np.uint8),
        rng.integers(90, 140, (20, 21, 3), np.uint8),
        (ramp % 256).astype(np.uint8),
        np.full((9, 9, 3), (10, 200, 90), np.uint8),
        rng.integers(0, 256, (2, 2, 3), np.uint8),
        rng.integers(0, 256, (1, 1, 3), np.uint8),
    ]


def by_pillow(change, image):
    return np.asarray(change(PIL.Image.fromarray(image)), np.int32)


@pytest.mark.parametrize("factor", [0.0, 0.01, 0.37, 0.9, 1.0, 1.27, 1.99])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (policies.brightness, PIL.ImageEnhance.Brightness),
        (policies.contrast, PIL.ImageEnhance.Contrast),
        (policies.color, PIL.ImageEnhance.Color),
        (policies.sharpness, PIL.ImageEnhance.Sharpness),
    ],
)
def test_enhancements_are_pillows_to_one_level(ours, theirs, factor):
    for image in images():
        expected = by_pillow(lambda photo: theirs(photo).enhance(factor), image)
        found = ours(image, factor)
        assert found.dtype == np.uint8 and np.abs(found - expected).max() <= 1
        assert abs(found.mean() - expected.mean()) <= 0.34  # no level is missing throughout


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (policies.autocontrast, PIL.ImageOps.autocontrast),
        (policies.equalize, PIL.ImageOps.equalize),
        (policies.invert, PIL.ImageOps.invert),
        (lambda image: policies.posterize(image, 3), lambda photo: PIL.ImageOps.posterize(photo, 3)),
        (lambda image: policies.posterize(image, 8), lambda photo: PIL.ImageOps.posterize(photo, 8)),
        (lambda image: policies.solarize(image, 100), lambda photo: PIL.ImageOps.solarize(photo, 100)),
        (lambda image: policies.solarize(image, 255), lambda photo: PIL.ImageOps.solarize(photo, 255)),
        (lambda image: policies.solarize(image, 0), lambda photo: PIL.ImageOps.solarize(photo, 0)),
    ],
)
def test_operations_on_levels_are_pillows(ours, theirs):
    for image in images():
        before = image.copy()
        np.testing.assert_array_equal(ours(image), by_pillow(theirs, image))
        np.testing.assert_array_equal(image, before)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24), st.integers(1, 255))
def test_statistics_of_any_image_are_pillows(seed, height, width, spread):
    image = np.random.default_rng(seed).integers(0, spread, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(policies.equalize(image), by_pillow(PIL.ImageOps.equalize, image))
    np.testing.assert_array_equal(policies.autocontrast(image), by_pillow(PIL.ImageOps.autocontrast, image))


def test_part_of_a_larger_image_is_changed_like_a_copy():
    whole = images()[0]
    for name in policies.OPERATIONS:
        steps = [policies.Step(name, 3.0 if name == "posterize" else 0.5)]
        part = whole[3:20, 5:31]
        np.testing.assert_array_equal(policies.change(steps, part), policies.change(steps, part.copy()))


def drawn(count, draw):
    return [step for seed in range(count) for step in draw(np.random.default_rng(seed))]


def test_rand_augment_draws_every_operation_of_one_magnitude():
    steps = drawn(500, lambda rng: policies.draw_rand_augment(rng, 2, 9, FRAME))
    assert len(steps) == 1000
    counts = {name: sum(step.name == name for step in steps) for name in policies.STANDARD}
    assert sum(counts.values()) == 1000 and min(counts.values()) > 40 and len(counts) == 14
    values = {name: {round(step.value, 9) for step in steps if step.name == name} for name in counts}
    assert values["rotate"] == {-9, 9} and values["brightness"] == {-0.27, 0.27}
    assert values["translate_x"] == {round(s * 0.3 * 60 * 150 / 331, 9) for s in (-1, 1)}
    assert values["translate_y"] == {round(s * 0.3 * 40 * 150 / 331, 9) for s in (-1, 1)}
    assert values["solarize"] == {76.5} and values["posterize"] == {1.2} and values["equalize"] == {0}
    strongest = drawn(50, lambda rng: policies.draw_rand_augment(rng, 1, 30, FRAME, ["shear_x"]))
    assert {step.value for step in strongest} == {-0.3, 0.3}


def test_trivial_augment_draws_one_operation_of_any_magnitude():
    steps = drawn(2000, lambda rng: policies.draw_trivial_augment(rng))
    assert len(steps) == 2000 and {step.name for step in steps} == set(policies.STANDARD)
    turns = {step.value for step in steps if step.name == "rotate"}
    assert max(turns) == 135 and min(turns) == -135 and len(turns) > 30
    shifts = {abs(step.value) for step in drawn(400, lambda rng: policies.draw_trivial_augment(rng, ("translate_x",)))}
    np.testing.assert_allclose(sorted(shifts), np.linspace(0, 32, 31))


def test_steps_that_move_become_one_matrix_in_their_order():
    steps = [policies.Step("rotate", 90.0), policies.Step("color", 0.3), policies.Step("translate_x", 7.9)]
    found = geometry.map_points(policies.matrix(steps, (40, 40)), np.array([[20.0, 20], [40, 20]]))
    np.testing.assert_allclose(found, [[27, 20], [27, 0]], atol=1e-9)  # 90° anticlockwise, and 7 whole pixels right
    tilts = [policies.Step("shear_x", 0.5), policies.Step("shear_y", -0.25)]
    np.testing.assert_allclose(policies.matrix(tilts, FRAME), [[1, -0.5, 0], [0.25, 0.875, 0], [0, 0, 1]])
    np.testing.assert_array_equal(policies.matrix([policies.Step("invert", 0.0)], FRAME), np.eye(3))
    image = images()[0]
    assert policies.change(steps[:1], image) is image
    both = [policies.Step("posterize", 3.6), policies.Step("solarize", 200.0)]
    np.testing.assert_array_equal(policies.change(both, image), policies.solarize(policies.posterize(image, 4), 55))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rand_augment": (2, 31)}, "magnitude from 0 to 30"),
        ({"rand_augment": 9}, "pair of whole numbers"),
        ({"rand_augment": (2.0, 9)}, "pair of whole numbers"),
        ({"policy": ("rotat",)}, "out of identity, shear_x"),
        ({"policy": "rotate"}, "tuple"),
        ({"random_resized_crop": (0.0, 1.0)}, "0 < low <= high <= 1"),
        ({"crop_ratio": ()}, "pair"),
        ({"crop_ratio": ("a", "b")}, "pair"),
        ({"pad_crop": 4.5}, "whole number"),
        ({"erase_fill": "black"}, "'random' or 'mean'"),
        ({"crop": 0.5}, "'pad_crop'"),
    ],
)
def test_a_bad_config_is_one_sentence(config, words):
    with pytest.raises(UserError, match=words):
        augment.complete(config, augment.WHOLE)


def test_boxes_know_nothing_of_crops_that_cut_them():
    with pytest.raises(UserError, match="no augmentation 'random_resized_crop'"):
        augment.complete({"random_resized_crop": (0.1, 1.0)})
    assert augment.complete({"random_resized_crop": ()}, augment.WHOLE) == augment.WHOLE
