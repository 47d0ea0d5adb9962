"""SSD's windows against its rules, computed one by one."""

import numpy as np
import pytest

from mapjax.data import geometry
from mapjax.data.transforms import augment, boxes, iou_crops

SIZE = (60, 90)
BOXES = np.array([[5.0, 5, 50, 40], [60, 30, 80, 58], [10, 45, 20, 55]])


def iou(one, other):
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    area = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return across * down / (area - across * down)


@pytest.mark.parametrize("least", [0.0, 0.1, 0.3, 0.5, 0.7])
def test_windows_overlap_some_box_by_the_least_that_was_drawn(least, monkeypatch):
    monkeypatch.setattr(iou_crops, "LEAST", (least,))
    found = 0
    for seed in range(60):
        window = iou_crops.draw(np.random.default_rng(seed), SIZE, BOXES)
        if window.tolist() == [0, 0, 90, 60]:
            continue
        found += 1
        x1, y1, x2, y2 = window
        assert 0 <= x1 < x2 <= 90 and 0 <= y1 < y2 <= 60
        assert x2 - x1 >= 0.3 * 90 and y2 - y1 >= 0.3 * 60 and 0.5 <= (x2 - x1) / (y2 - y1) <= 2
        centred = [box for box in BOXES if x1 < (box[0] + box[2]) / 2 < x2 and y1 < (box[1] + box[3]) / 2 < y2]
        assert centred and max(iou(window, box) for box in centred) > least
    assert found >= (1 if least == 0.7 else 30)


def test_where_no_window_can_be_it_is_the_whole_image(monkeypatch):
    monkeypatch.setattr(iou_crops, "LEAST", (0.9,))
    assert iou_crops.draw(np.random.default_rng(0), SIZE, BOXES[2:]).tolist() == [0, 0, 90, 60]


def test_all_that_may_be_drawn_is_drawn():
    whole = sum(
        iou_crops.draw(np.random.default_rng(seed), SIZE, np.array([[0.0, 0, 88, 59]])).tolist() == [0, 0, 90, 60]
        for seed in range(200)
    )
    assert 200 / 7 / 2 < whole < 200 / 2


def test_the_window_fills_the_frame_and_boxes_go_along():
    config = augment.complete({"iou_crop": 1.0})
    for seed in range(20):
        window = iou_crops.draw(_after(seed), SIZE, BOXES)
        matrix = augment.draw_matrix(config, np.random.default_rng(seed), SIZE, (64, 64), BOXES)
        mapped = geometry.map_boxes(matrix, window[None])[0]
        assert np.abs(mapped[:2]).max() < 1e-9 and mapped[2:].max() == pytest.approx(64)


def _after(seed):
    """The generator as draw_matrix has it when it draws the window."""
    rng = np.random.default_rng(seed)
    rng.random(2)
    return rng


def test_it_is_a_key_of_the_transform():
    image = np.zeros((60, 90, 3), np.uint8)
    image[5:40, 5:50] = 255
    record = {
        "id": 0, "file": "a", "image": image, "size": np.array(SIZE, np.int32), "boxes": BOXES[:1].astype(np.float32),
        "classes": np.zeros(1, np.int32), "crowd": np.zeros(1, bool), "areas": np.full(1, 9, np.float32),
    }  # fmt: skip
    transform = boxes.make(size=(64, 64), max_boxes=1, augment={"iou_crop": 1.0, "min_visible": 0.0})
    shown = [transform(record, np.random.default_rng(seed)) for seed in range(20)]
    for example in shown:
        bounds = geometry.mask_bounds((example["image"] > 190).all(axis=-1))
        assert np.abs(bounds - example["boxes"][0]).max() <= 1.5
    assert len({example["matrix"].tobytes() for example in shown}) > 10
