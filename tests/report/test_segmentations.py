"""Maps of scores brought back to original pixels, and the sections that show them."""

import numpy as np
import pytest

from mapjax.data import geometry
from mapjax.data.source import Records, Source
from mapjax.report import segmentations
from mapjax.stages import VOID


def by_hand(logits, matrix, size):
    """Sample the scores at each original pixel's centre, bilinearly, beyond the border as on it."""
    p, q, _ = logits.shape
    found = np.zeros((*size, logits.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            x, y, _ = matrix @ (j + 0.5, i + 0.5, 1)
            x, y = np.clip(x - 0.5, 0, q - 1), np.clip(y - 0.5, 0, p - 1)
            left, top = min(int(x), q - 2), min(int(y), p - 2)
            a, b = x - left, y - top
            found[i, j] = (1 - b) * ((1 - a) * logits[top, left] + a * logits[top, left + 1]) + b * (
                (1 - a) * logits[top + 1, left] + a * logits[top + 1, left + 1]
            )
    return found


@pytest.mark.parametrize("matrix", [np.eye(3), geometry.scale(0.5, 0.4), geometry.translate(1.25, 0.5)])
def test_map_back_takes_the_best_class_at_each_original_pixel(matrix):
    logits = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    size = (10, 11)
    expected = by_hand(logits, np.asarray(matrix, np.float64), size)
    found = segmentations.map_back(logits, np.asarray(matrix, np.float32), size)
    ordered = np.sort(expected, -1)
    clear = ordered[..., -1] - ordered[..., -2] > 0.05  # cv2 rounds places to 1/32 of a pixel
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(found[clear], expected.argmax(-1)[clear])


def source_of(label_map, image):
    record = {"id": 0, "file": "a<b>.png", "image": image, "size": np.array(image.shape[:2], np.int32)}
    records = Records(1, lambda _: {**record, "label_map": label_map})
    return Source("masks", "val", ("road", "sky", "never"), (0, 1, 2), records, {}, "")


def counts_of(truth, predicted):
    matrix = np.zeros((3, 3), np.int64)
    np.add.at(matrix, (truth[truth != VOID], predicted[truth != VOID]), 1)
    return matrix, np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)])


def test_classes_and_confusions_are_listed_with_those_that_never_occur():
    truth = np.array([[0, 0, 1], [1, 1, VOID]], np.uint8)
    matrix, _ = counts_of(truth, np.array([[0, 1, 1], [1, 1, 0]], np.uint8))
    source = source_of(truth, np.zeros((2, 3, 3), np.uint8))
    metrics = {"IoU/road": 0.5, "IoU/sky": 0.75}
    table = segmentations.classes(source, {"confusion": matrix}, metrics)
    assert "No pixel here has the class never" in table.note and "0.750" in table.body
    pairs = segmentations.confused(source, {"confusion": matrix})
    assert "road" in pairs.body and "50.0 %" in pairs.body
    nothing = segmentations.confused(source, {"confusion": np.diag([2, 3, 0])})
    assert "No pixel was taken for another class" in nothing.body


def test_maps_show_four_panels_with_the_name_escaped_and_the_score():
    truth = np.array([[0, 0, 1], [1, 1, VOID]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 1, 0]], np.uint8)
    source = source_of(truth, np.zeros((2, 3, 3), np.uint8))
    _, parts = counts_of(truth, predicted)
    counts = {"maps": {0: predicted}, "images": {0: parts}}
    section = segmentations.maps(source, counts, [0], "Images", "")
    assert section.body.count("<img") == 4 and "a&lt;b&gt;.png" in section.body
    assert "mean IoU 0.625" in section.body  # 1 of 2 pixels of road, 3 of the 4 of sky
    assert "No image to show" in segmentations.maps(source, counts, [], "Images", "").body


def test_shares_and_mask_of_a_image():
    logits = np.zeros((4, 4, 3), np.float32)
    logits[:, :3, 1] = 1
    logits[:, 3:, 0] = 1
    result = {"map_logits": logits, "matrix": np.eye(3, dtype=np.float32)}
    image = np.full((4, 4, 3), 90, np.uint8)
    shown = segmentations.show(result, image, classes=("road", "sky", "never"), score=0.5, enlarge=False)
    assert shown.values == {"shares": {"sky": 0.75, "road": 0.25}}
    assert shown.label_map is not None
    np.testing.assert_array_equal(shown.label_map, np.repeat([[1, 1, 1, 0]], 4, 0))
