"""The transform of classification: where the image lands, what it looks like, and what it costs to be wrong."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax import stages
from mapjax.config import parts
from mapjax.data import geometry, images
from mapjax.data.transforms import crops, resample
from mapjax.data.transforms.augment import COLOURS
from mapjax.data.transforms.boxes import IMAGENET_MEAN
from mapjax.errors import UserError

FEW = settings(max_examples=40)
sides = st.integers(1, 300)


def smooth(height, width):
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))


def encode(image, form="JPEG", **options):
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


def record(image, **more):
    return {"id": 1, "file": "cat/1.jpg", "image": image, "label": np.int32(3)} | more


def shown(image, seed=0, **options):
    return crops.make(**options)(record(image), np.random.default_rng(seed))


def corners(matrix, left, top, height, width):
    box = np.array([[left, top], [left + width, top + height]], np.float64)
    return geometry.map_points(np.asarray(matrix, np.float64), box)


def test_an_example_has_the_keys_of_the_table():
    transform = parts.make("data.transforms", {"name": "crops", "fit": "stretch"}, size=(20, 30))
    example = transform(record(smooth(40, 50)), np.random.default_rng(0))
    stages.check("example", example)
    assert example["image"].shape == (20, 30, 3) and example["label"] == 3
    np.testing.assert_array_equal(example["size"], [40, 50])
    several = record(smooth(40, 50), labels=np.array([True, False, True]))
    del several["label"]
    example = transform(several, np.random.default_rng(0))
    stages.check("example", example)
    np.testing.assert_array_equal(example["labels"], [True, False, True])


@FEW
@given(sides, sides, st.integers(1, 64), st.integers(1, 64), st.floats(0.2, 1))
def test_cover_centres_the_frame_on_the_image(height, width, rows, columns, share):
    left, top, right, bottom = geometry.map_boxes(
        geometry.invert(crops.cover((height, width), (rows, columns), share)), np.array([[0.0, 0, columns, rows]])
    )[0]
    assert left >= -1e-6 and top >= -1e-6 and right <= width + 1e-6 and bottom <= height + 1e-6
    pixel = max((right - left) / columns, (bottom - top) / rows)
    assert abs(left + right - width) <= pixel + 1e-6 and abs(top + bottom - height) <= pixel + 1e-6
    seen = max((right - left) / width, (bottom - top) / height)
    assert seen <= 1 + 1e-6 and seen >= share - 1e-6


@FEW
@given(sides, sides, st.integers(1, 64), st.integers(1, 64))
def test_stretch_and_letterbox_show_the_whole_image(height, width, rows, columns):
    np.testing.assert_allclose(
        corners(geometry.stretch((height, width), (rows, columns)), 0, 0, height, width), [[0, 0], [columns, rows]]
    )
    (left, top), (right, bottom) = corners(crops.letterbox((height, width), (rows, columns)), 0, 0, height, width)
    np.testing.assert_allclose([left, top, right, bottom], np.rint([left, top, right, bottom]), atol=1e-6)
    assert right - left == pytest.approx(columns) or bottom - top == pytest.approx(rows)
    assert abs(left + right - columns) <= 1 + 1e-6 and abs(top + bottom - rows) <= 1 + 1e-6
    assert left >= -1e-6 and right <= columns + 1e-6 and top >= -1e-6 and bottom <= rows + 1e-6


def test_letterbox_fills_what_is_left():
    image = shown(np.full((10, 20, 3), 200, np.uint8), size=(40, 40), fit="letterbox")["image"]
    expected = np.full((40, 40, 3), IMAGENET_MEAN)
    expected[10:30] = 200
    np.testing.assert_array_equal(image, expected)
    assert (
        shown(np.zeros((10, 20, 3), np.uint8), size=(40, 40), fit="letterbox", fill=(9, 8, 7))["image"][0] == (9, 8, 7)
    ).all()


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(8, 90), st.integers(8, 90), st.sampled_from([0.0, 1.0]))
def test_the_window_drawn_fills_the_frame(seed, height, width, mirrored):
    window = crops.draw_window(np.random.default_rng(seed), (height, width), (0.08, 1.0), (3 / 4, 4 / 3))
    top, left, *extent = window
    assert 0 <= top <= height - extent[0] and 0 <= left <= width - extent[1] and min(extent) > 0
    augment = {"random_resized_crop": (0.08, 1.0), "flip_horizontal": mirrored}
    example = shown(smooth(height, width), seed, size=(24, 36), augment=augment)
    found = corners(example["matrix"], left, top, *extent)
    np.testing.assert_allclose(found, [[36, 0], [0, 24]] if mirrored else [[0, 0], [36, 24]], atol=1e-3)
    part = PIL.Image.fromarray(smooth(height, width)[top : top + extent[0], left : left + extent[1]])
    expected = np.asarray(part.resize((36, 24), PIL.Image.Resampling.BILINEAR))[:, :: -1 if mirrored else 1]
    assert np.abs(example["image"].astype(int) - expected).max() <= 2


def test_windows_have_the_area_and_the_ratio_asked_for():
    drawn = [crops.draw_window(np.random.default_rng(i), (300, 400), (0.1, 0.5), (0.5, 2.0)) for i in range(400)]
    top, left, height, width = np.array(drawn).T
    area, ratio = height * width / (300 * 400), width / height
    assert 0.09 < area.min() < 0.12 and 0.47 < area.max() < 0.51 and abs(area.mean() - 0.3) < 0.02
    assert 0.49 < ratio.min() < 0.55 and 1.8 < ratio.max() < 2.03 and abs(np.log(ratio).mean()) < 0.07
    slack = np.stack([top / np.maximum(300 - height, 1), left / np.maximum(400 - width, 1)])
    assert slack.min() < 0.01 and slack.max() > 0.98 and np.abs(slack.mean(axis=1) - 0.5).max() < 0.06


@pytest.mark.parametrize(
    ("whole", "window"), [((10, 400), (0, 193, 10, 13)), ((400, 10), (193, 0, 13, 10)), ((20, 22), (0, 0, 20, 22))]
)
def test_where_no_window_fits_it_is_the_centre(whole, window):
    area = (1.0, 1.0) if whole == (20, 22) else (0.9, 1.0)
    ratio = (0.8, 0.81) if whole == (20, 22) else (3 / 4, 4 / 3)
    found = crops.draw_window(np.random.default_rng(0), whole, area, ratio)
    assert found == (window if whole != (20, 22) else (0, 3, 20, 16))


def test_pad_crop_is_a_window_of_the_reflected_image():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect")
    windows = {padded[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(9)}
    found, mirrored = set(), 0
    for seed in range(120):
        example = shown(image, seed, size=(32, 32), fit="stretch", augment={"pad_crop": 4, "flip_horizontal": 0.5})
        flips = example["matrix"][0, 0] < 0
        mirrored += flips
        upright = example["image"][:, ::-1] if flips else example["image"]
        top, left = windows[upright.tobytes()]
        shift = example["matrix"][:2, 2].tolist()
        assert shift == [32 - (4 - left) if flips else 4 - left, 4 - top]
        found.add((top, left))
    assert len(found) > 50 and 42 < mirrored < 78


def test_the_source_keeps_its_pixels():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    before = image.copy()
    for augment in (None, {}, {"erase": 1.0}, {"pad_crop": 2, "erase": 1.0}, {"trivial_augment": 1.0, "noise": 9.0}):
        for seed in range(8):
            example = shown(image, seed, size=(16, 16), fit="stretch", augment=augment)
            example["image"][:] = 0
    np.testing.assert_array_equal(image, before)


EVERYTHING = {
    "random_resized_crop": (0.2, 1.0),
    "flip_horizontal": 0.5,
    "flip_vertical": 0.5,
    "rotate": 10.0,
    "scale": (0.9, 1.1),
    "brightness": 0.2,
    "saturation": 0.2,
    "noise": 5.0,
    "rand_augment": (2, 9),
    "trivial_augment": 0.5,
    "erase": 0.5,
}


def test_everything_at_once_depends_on_the_generator_alone():
    data = encode(smooth(90, 120))
    first, again, other = (shown(data, seed, size=(32, 40), augment=EVERYTHING) for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["image"], other["image"])


def test_the_image_follows_the_matrix():
    """A bright patch is where the matrix takes it, whatever was drawn and however small the JPEG was decoded."""
    image = np.zeros((400, 560, 3), np.uint8)
    image[180:260, 240:320] = 255
    augment = {"random_resized_crop": (0.5, 1.0), "flip_horizontal": 0.5, "rotate": 20.0, "shear": 10.0}
    for seed in range(12):
        example = shown(encode(image, quality=95), seed, size=(64, 64), augment=augment)
        lit = example["image"][..., 0] > 127
        patch = np.array([[240.0, 180], [320, 180], [240, 260], [320, 260]])
        mapped = geometry.map_points(example["matrix"].astype(np.float64), patch)
        if mapped.min() < 1 or mapped.max() > 63:
            continue
        np.testing.assert_allclose(geometry.mask_bounds(lit), geometry.bounds(mapped), atol=1.3)


def test_changed_colours_are_those_of_what_is_seen():
    """The mean of the window decides, not that of the whole image."""
    image = np.full((64, 64, 3), 250, np.uint8)
    image[16:48, 16:48] = 100
    image[30:34, 30:34] = 110
    augment = {"policy": ("autocontrast",), "rand_augment": (1, 0)}
    example = shown(image, size=(24, 24), crop_share=0.375, augment=augment)  # pixels 20 to 44
    assert example["image"].min() == 0 and example["image"].max() == 255


def test_erasing_with_the_mean_uses_the_fill():
    image = np.zeros((40, 40, 3), np.uint8)
    augment = {"erase": 1.0, "erase_fill": "mean", "erase_area": (0.1, 0.1), "erase_ratio": (1.0, 1.0)}
    found = shown(image, size=(40, 40), crop_share=1.0, augment=augment, fill=(5, 6, 7))["image"]
    assert (found == (5, 6, 7)).all(axis=2).sum() == 169 and (found == 0).all(axis=2).sum() == 1600 - 169


def test_photos_are_turned_upright():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = smooth(60, 80)
    example = shown(encode(image, exif=exif, quality=95), size=(40, 30), fit="stretch")
    np.testing.assert_array_equal(example["size"], [80, 60])
    upright = PIL.Image.fromarray(np.rot90(image, -1)).resize((30, 40), PIL.Image.Resampling.BILINEAR)
    assert np.abs(example["image"] - np.asarray(upright, np.int32)).mean() < 3


@pytest.mark.parametrize(("whole", "size"), [((803, 1001), (64, 64)), ((61, 83), (7, 10)), ((33, 41), (8, 10))])
def test_a_smaller_decoding_hardly_shows(whole, size):
    """Odd sizes: the last pixel reaches beyond the border, and a matrix by the ratio of the sizes would be far off."""
    few = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8))
    data = encode(np.asarray(few.resize(whole[::-1], PIL.Image.Resampling.BICUBIC)), quality=98, subsampling=0)
    for augment in (None, {"flip_horizontal": 1.0}):
        options = {"size": size, "fit": "stretch", "augment": augment}
        difference = np.abs(shown(data, **options)["image"].astype(int) - shown(images.read(data), **options)["image"])
        assert difference.max() <= 5 and difference.mean() < 1.5


def test_a_blank_row_of_one_pixel_is_accepted():
    for fit in ("crop", "stretch", "letterbox"):
        assert shown(np.zeros((1, 1, 3), np.uint8), size=(32, 48), fit=fit)["image"].shape == (32, 48, 3)


@pytest.mark.parametrize(
    "image", [b"\xff\xd8 broken", encode(smooth(60, 80))[:900], b"", encode(smooth(9, 9), "PNG")[:90]]
)
def test_an_unreadable_image_is_named(image):
    with pytest.raises(UserError, match=r"cat/1\.jpg"):
        shown(image, size=(8, 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (0, 8)}, "must be positive"),
        ({"size": (8, 8), "crop_share": 0}, r"crop_share=0 in \(0, 1\]"),
        ({"size": (8, 8), "fill": (1, 2)}, "three levels"),
        ({"size": (8, 8), "fit": "crops"}, "'crop'"),
        ({"size": (8, 8), "augment": {"random_resized": (0.1, 1)}}, "'random_resized_crop'"),
        ({"size": (8, 8), "augment": {"pad_crop": 4, "random_resized_crop": (0.1, 1.0)}}, "choose one"),
    ],
)
def test_a_bad_option_is_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        crops.make(**options)


@pytest.mark.parametrize("seed", range(3))
def test_whole_pixels_take_the_cheap_way(seed, monkeypatch):
    """CIFAR's augmentation never warps: that would be several times as slow."""
    monkeypatch.setattr(resample.geometry, "map_image", None)
    image = np.random.default_rng(9).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    augment = {"pad_crop": 4, "flip_horizontal": 0.5}
    found = shown(image, seed, size=(32, 32), fit="stretch", augment=augment)["image"]
    around = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = [around[y : y + 32, x : x + 32] for y, x in np.ndindex(9, 9)]
    assert sum(np.array_equal(found, one) or np.array_equal(found[:, ::-1], one) for one in windows) == 1


@pytest.mark.parametrize("key", COLOURS)
def test_a_change_of_colours_by_itself_is_made(key):
    """Whichever of them is given alone, so one that is added to augment.py too."""
    image = np.full((12, 12, 3), (200, 90, 30), np.uint8)
    image[4:8] = (20, 120, 220)
    strength = {"hue": 120.0, "noise": 40.0}.get(key, 0.6)
    transform = crops.make(size=(12, 12), fit="stretch", augment={key: strength})
    found = [transform({"file": "x", "image": image, "label": np.int32(0)}, np.random.default_rng(k)) for k in range(3)]
    assert all(np.abs(one["image"].astype(int) - image).max() > 2 for one in found)
