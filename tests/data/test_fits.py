"""Images by the length of their shorter side; that the sizes are torchvision's, test_parity_recipes.py tells."""

import numpy as np
import pytest

from mapjax.data import geometry
from mapjax.data.transforms import boxes, fits, pixelwise
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


def test_mistakes():
    for wrong, said in (({"kind": "wide"}, "transform.fit='wide' is not known"), ({"longest": 10}, "longest=10")):
        with pytest.raises(UserError, match=said):
            fits.choose(**{"kind": "shorter", "frame": (8, 8), "shorter": 20} | wrong)
