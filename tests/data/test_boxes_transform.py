"""Records become examples: shapes, the rules for boxes, and pixels that stay under their boxes."""

import io
import logging

import numpy as np
import PIL.Image
import pytest
from box_grids import in_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax import stages
from mapjax.data import geometry
from mapjax.data.formats import scenes
from mapjax.data.transforms import boxes as transforms
from mapjax.errors import UserError

STRONG = {
    "flip_horizontal": 0.5,
    "flip_vertical": 0.5,
    "crop": 0.5,
    "scale": (0.5, 2.0),
    "translate": 0.3,
    "rotate": 45.0,
    "shear": 10.0,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 20.0,
    "noise": 5.0,
}


def record(boxes=(), size=(40, 60), image=None, **more):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return {
        "id": 0,
        "file": "a.png",
        "image": np.full((*size, 3), 200, np.uint8) if image is None else image,
        "size": np.array(size, np.int32),
        "boxes": boxes,
        "classes": np.arange(len(boxes), dtype=np.int32),
        "crowd": np.zeros(len(boxes), bool),
        "areas": geometry.box_areas(boxes),
    } | more


def followed(matrix, record, frame, min_visible):
    """All boxes as the transform maps them, and which it keeps."""
    motion = transforms.follow(record, matrix, frame, min_visible)
    return motion.boxes, np.isin(np.arange(len(motion.boxes)), motion.rows)


def rng():
    return np.random.default_rng(0)


def test_evaluation_letterboxes_at_the_top_left():
    example = transforms.make(size=(30, 30), max_boxes=3)(record([[20, 10, 40, 30]]), rng())
    stages.check("example", example)
    np.testing.assert_allclose(example["boxes"][0], [10, 5, 20, 15])
    np.testing.assert_array_equal(example["valid"], [True, False, False])
    np.testing.assert_array_equal(example["image"][:20], 200)
    np.testing.assert_array_equal(example["image"][20:], np.tile(transforms.IMAGENET_MEAN, (10, 30, 1)))
    np.testing.assert_allclose(example["matrix"], np.diag([0.5, 0.5, 1]))
    np.testing.assert_array_equal(example["size"], [40, 60])
    assert not example["boxes"][1:].any() and not example["classes"][1:].any()


def test_augmented_padding_keeps_its_colour():
    example = transforms.make(size=(30, 30), max_boxes=3, augment={"brightness": 0.5})(record(), rng())
    np.testing.assert_array_equal(example["image"][20:], np.tile(transforms.IMAGENET_MEAN, (10, 30, 1)))
    assert example["image"][0, 0, 0] != 200


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_boxes_and_masks_follow_the_pixels(seed):
    source = scenes.make(split="train", seed=seed % 100, size=(96, 96))
    transform = transforms.make(size=(64, 80), max_boxes=8, augment=STRONG, mask_size=64)
    example = transform(source.records[seed % 20_000], np.random.default_rng(seed))
    stages.check("example", example)
    valid = example["valid"]
    boxes, masks = example["boxes"][valid], in_frame(example["box_masks"][valid], example["boxes"][valid], (64, 80))
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
    assert (boxes >= 0).all() and (boxes <= [80, 64, 80, 64]).all()
    zoom = np.linalg.svd(example["matrix"][:2, :2])[1].min()
    reach = 1 + np.abs(example["matrix"][:2, :2]).sum()
    for box, mask in zip(boxes, masks):
        if mask.any():  # a stroke thinner than a pixel may fall between the centres
            tight = geometry.mask_bounds(mask)
            assert (tight[:2] >= box[:2] - 1).all() and (tight[2:] <= box[2:] + 1).all()
            if zoom > 1:  # else the tips of strokes may be lost
                np.testing.assert_allclose(tight, box, atol=reach)
    assert not example["box_masks"][~valid].any()


def test_what_leaves_the_frame_is_clipped_or_dropped():
    moved = geometry.translate(-20, 0)
    boxes = [[0, 0, 30, 10], [0, 0, 40, 10], [0, 0, 20, 10], [50, 5, 50.5, 9]]
    clipped, keep = followed(moved, record(boxes), (40, 60), 0.4)
    np.testing.assert_array_equal(keep, [False, True, False, False])  # a third, a half, nothing; half a pixel wide
    np.testing.assert_allclose(clipped[1], [0, 0, 20, 10])


def test_a_clipped_object_with_a_mask_gets_the_box_of_what_is_left():
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 0:10, 0:30] = True
    mask[0, 10:30, 0:20] = True  # an L, whose foot leaves the frame
    item = record([[0, 0, 30, 30]], masks=mask)
    clipped, keep = followed(geometry.translate(-20, 0), item, (40, 60), 0.1)
    assert keep[0]
    np.testing.assert_allclose(clipped[0], [0, 0, 10, 10])


def test_rotation_is_tight_around_a_mask():
    yy, xx = np.mgrid[:41, :41]
    disk = ((yy - 20) ** 2 + (xx - 20) ** 2 <= 15**2)[None]
    item = record([geometry.mask_bounds(disk[0])], size=(41, 41), masks=disk)
    turned = geometry.about(geometry.rotate(45), 20.5, 20.5)
    tight, _ = followed(turned, item, (41, 41), 0.0)
    loose, _ = followed(turned, {k: v for k, v in item.items() if k != "masks"}, (41, 41), 0.0)
    assert tight[0, 2] - tight[0, 0] < 32.5 < 40 < loose[0, 2] - loose[0, 0]


def test_of_too_many_boxes_the_largest_ordinary_ones_stay(caplog):
    boxes = [[0, 0, side, side] for side in (3, 9, 5, 20, 7)]
    crowd = np.array([False, False, False, True, False])
    transform = transforms.make(size=(40, 60), max_boxes=3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            example = transform(record(boxes, crowd=crowd), rng())
    np.testing.assert_array_equal(example["classes"], [1, 2, 4])
    assert len(caplog.records) == 1 and "a.png has 5 boxes" in caplog.text
    example = transforms.make(size=(40, 60), max_boxes=5)(record(boxes, crowd=crowd), rng())
    np.testing.assert_array_equal(example["crowd"], crowd)


@pytest.mark.parametrize("size", [(1, 1), (20, 10_000)])
def test_extreme_images(size):
    transform = transforms.make(size=(32, 48), max_boxes=2, augment=STRONG | {"crop": 1.0})
    for seed in range(5):
        example = transform(record([[0, 0, size[1], size[0]]], size=size), np.random.default_rng(seed))
        stages.check("example", example)
        assert np.isfinite(example["boxes"]).all()


def test_labels_drawn_on_the_upright_or_another_image():
    pixels = np.zeros((10, 20, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", exif=exif)
    transform = transforms.make(size=(20, 20), max_boxes=1)
    stored = transform(record([[0, 0, 20, 10]], size=(10, 20), image=file.getvalue()), rng())
    np.testing.assert_array_equal(stored["size"], [10, 20])
    upright = transform(record([[0, 0, 10, 20]], size=(20, 10), image=file.getvalue()), rng())
    np.testing.assert_array_equal(upright["size"], [20, 10])
    with pytest.raises(UserError, match=r"has 20×10 pixels .* and its labels were drawn on 99×99"):
        transform(record([[0, 0, 5, 5]], size=(99, 99), image=file.getvalue()), rng())


def test_records_without_masks_have_empty_ones():
    example = transforms.make(size=(20, 20), max_boxes=2, mask_size=7)(record([[0, 0, 9, 9]]), rng())
    assert example["box_masks"].shape == (2, 7, 7) and not example["box_masks"].any() and example["valid"][0]


@pytest.mark.parametrize("options", [{"size": (0, 9), "max_boxes": 1}, {"size": (9, 9), "max_boxes": 0}])
def test_sizes_must_be_positive(options):
    with pytest.raises(UserError, match="positive"):
        transforms.make(**options)
