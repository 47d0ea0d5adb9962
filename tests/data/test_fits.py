"""Images by the length of their shorter side; that the sizes are torchvision's, test_parity_recipes.py tells."""

import numpy as np
import pytest

from mapjax.data import geometry
from mapjax.data.transforms import boxes, fits, mosaic, pixelwise
from mapjax.errors import UserError


def record_of(size, **more):
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 256, (size[0] // 10, size[1] // 10, 3), np.uint8), 10, 0), 10, 1)
    return {"id": 0, "file": "x", "image": image, "size": np.array(size, np.int32), **more}


@pytest.mark.parametrize(
    ("size", "longest", "seen"),
    [
        ((480, 640), 133, (80, 106)),  # rounded down
        ((640, 480), 133, (106, 80)),
        ((200, 600), 133, (44, 133)),  # the longest side holds
        ((200, 600), 0, (80, 240)),
        ((154, 200), 133, (79, 103)),  # 154 · (80 / 154) is a little below 80
        ((154, 200), 0, (80, 103)),
    ],
)
def test_sizes(size, longest, seen):
    assert fits.resized(size, 80, longest) == seen


@pytest.mark.parametrize(
    ("size", "seen"), [((1080, 1920), (750, 1333)), ((154, 200), (800, 1038)), ((97, 801), (161, 1333))]
)
def test_sizes_of_detr(size, seen):
    """As transformers gives them (tests/models/test_parity_seen.py): 1333 · 1080 / 1920 is 749.8, so 750."""
    assert fits.resized(size, 800, 1333, nearest=True) == seen


def test_a_frame_for_each_image_or_one_for_all():
    own = fits.choose("shorter", (96, 160), shorter=80, longest=133, multiple=32)
    frame, matrix = own.place((480, 640))
    assert frame == (96, 128) and matrix.tolist() == geometry.scale(106 / 640, 80 / 480).tolist()
    assert own.place((640, 480))[0] == (128, 96)
    same = fits.choose("shorter", (96, 160), shorter=80, longest=133)
    frame, again = same.place((480, 640))
    assert frame == (96, 160) and again.tolist() == matrix.tolist()
    frame, matrix = same.place((640, 480))  # too high for it
    assert frame == (96, 160) and matrix.tolist() == geometry.letterbox((640, 480), frame).tolist()


def test_boxes_go_with_the_image():
    place = {"fit": "shorter", "shorter": 80, "longest": 133, "multiple": 32}
    transform = boxes.make(size=(96, 160), max_boxes=2, **place)
    whole = np.array([[0, 0, 640, 480]], np.float32)
    more = {"boxes": whole, "classes": np.zeros(1, np.int32), "crowd": np.zeros(1, bool)}
    example = transform(record_of((480, 640), **more), np.random.default_rng(0))
    assert example["image"].shape == (96, 128, 3)
    np.testing.assert_allclose(example["boxes"][0], [0, 0, 106, 80])
    assert (example["image"][80:] == boxes.IMAGENET_MEAN).all() and (
        example["image"][:, 106:] == example["image"][90, 120]
    ).all()


def test_label_maps_go_with_the_image():
    transform = pixelwise.make(size=(1, 1), fit="shorter", shorter=40, multiple=8, augment=None)
    labels = np.zeros((100, 150), np.uint8)
    labels[:, 75:] = 1
    example = transform(record_of((100, 150), label_map=labels), np.random.default_rng(0))
    assert example["image"].shape == (40, 64, 3) and example["label_map"].shape == (40, 64)
    assert (example["label_map"][:, :30] == 0).all() and (example["label_map"][:, 30:60] == 1).all()
    assert (example["label_map"][:, 60:] == 255).all()
    assert example["label_map"].dtype == np.uint8


def square_in(size, box):
    """A white box on black, without a label but its own."""
    image = np.zeros((*size, 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = 255
    given = {"boxes": np.array([box], np.float32), "classes": np.zeros(1, np.int32), "crowd": np.zeros(1, bool)}
    return record_of(size, **given) | {"image": image}


def seen_box(image):
    """The bounds of what is white."""
    rows, columns = (np.flatnonzero((image[..., 0] > 127).any(axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("augment", [None, {}])
@pytest.mark.parametrize("make", [boxes.make, mosaic.make])
def test_a_stretched_image_fills_the_frame_in_training_as_in_evaluation(make, augment):
    off = {"mosaic": 0.0, "mixup": 1e-9} if make is mosaic.make else {}
    transform = make(size=(60, 60), max_boxes=2, fit="stretch", augment=augment, fill=(9, 9, 9), **off)
    record = square_in((30, 120), (20, 10, 60, 20))
    others = [record] if getattr(transform, "companions", 0) else []
    example = transform(record, np.random.default_rng(0), *([others] if others else []))
    assert example["boxes"][0].tolist() == [10, 20, 30, 40] == seen_box(example["image"])
    assert not (example["image"] == 9).all(-1).any()
    letterboxed = boxes.make(size=(60, 60), max_boxes=2, augment=augment)(record, np.random.default_rng(0))
    assert letterboxed["boxes"][0].tolist() == [10, 5, 30, 10]


def test_what_moves_a_stretched_image_moves_its_boxes():
    moved = {"flip_horizontal": 0.5, "flip_vertical": 0.5, "crop": 0.5, "scale": (0.8, 1.3), "jitter": (0.6, 1.2)}
    transform = boxes.make(size=(90, 60), max_boxes=1, fit="stretch", augment=moved | {"min_visible": 0.99})
    record, kept = square_in((200, 800), (300, 60, 500, 130)), 0
    for seed in range(20):
        example = transform(record, np.random.default_rng(seed))
        across, down = np.abs(example["matrix"].diagonal()[:2])
        if example["valid"][0]:
            kept += 1
            np.testing.assert_allclose(seen_box(example["image"]), example["boxes"][0], atol=1.01)
            assert np.ptp(example["boxes"][0][::2]) == pytest.approx(200 * across, abs=0.5)
        assert down > 2 * across  # letterboxed both are equal; a crop changes their ratio, of 6, by at most 2
    assert kept > 8


def test_the_parts_of_a_mosaic_are_stretched(monkeypatch):
    monkeypatch.setattr(mosaic, "CENTRE", (0.5, 0.5))
    transform = mosaic.make(size=(80, 80), max_boxes=4, fit="stretch", augment={}, mosaic_scale=(0.5, 0.5))
    record = square_in((20, 80), (0, 0, 80, 20))
    example = transform(record, np.random.default_rng(0), [record] * 3)
    halves = [[x, y, x + 40, y + 40] for y in (0, 40) for x in (0, 40)]
    assert example["boxes"].tolist() == halves and (example["image"] == 255).all()


def test_stretched_label_maps_fill_the_frame_in_training():
    transform = pixelwise.make(size=(40, 40), fit="stretch", augment={})
    labels = np.zeros((20, 80), np.uint8)
    labels[10:] = 1
    found = transform(record_of((20, 80), label_map=labels), np.random.default_rng(0))["label_map"]
    assert (found[:20] == 0).all() and (found[20:] == 1).all()


def test_mistakes():
    for wrong, said in (({"kind": "wide"}, "transform.fit='wide' is not known"), ({"longest": 10}, "longest=10")):
        with pytest.raises(UserError, match=said):
            fits.choose(**{"kind": "shorter", "frame": (8, 8), "shorter": 20} | wrong)
