"""Masks inside their boxes against sampling by SciPy; windows of run lengths; what is empty; what room they take."""

import logging
import tracemalloc
from unittest import mock

import cv2
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax import stages
from mapjax.data import box_masks, geometry, run_lengths
from mapjax.data.transforms import augment, boxes, mosaic


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_a_window_is_the_part_that_is_set(height, width, density, margin, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density**4
    for given_mask in (mask, run_lengths.encode(mask)):
        window = run_lengths.cut(given_mask, (height, width), margin)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not mask.any():
            assert window.bits.size == 0
            continue
        top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
        assert (window.top, window.left) == (top, left)
        np.testing.assert_array_equal(window.bits, mask[top : rows[-1] + margin + 1, left : columns[-1] + margin + 1])


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 4), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_run_lengths_of_a_part(height, width, left, right, seed):
    part = np.random.default_rng(seed).random((height, width)) < 0.5
    whole = np.pad(part, ((0, 0), (left, right)))
    assert run_lengths.encode(part, left, right) == run_lengths.encode(whole)


def test_run_lengths_of_another_image_are_refused():
    with pytest.raises(ValueError, match="add up to 12 pixels, not to 4×5"):
        run_lengths.cut(run_lengths.encode(np.ones((3, 4), bool)), (4, 5))


@pytest.mark.parametrize("cells", [8, 32])
@pytest.mark.parametrize("degrees", [0, 30])
def test_cells_are_samples_of_the_mask(cells, degrees):
    """Where the mask is magnified: SciPy samples it at the centres of the cells."""
    mask = np.zeros((30, 40), bool)
    mask[8:20, 10:25] = scipy.ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(12, 15)), 2) > 0
    matrix = geometry.compose(geometry.about(geometry.rotate(degrees), 17, 14), geometry.scale(3))
    box = geometry.map_boxes(matrix, geometry.mask_bounds(mask)[None])
    found = box_masks.draw([mask], mask.shape, matrix, box, cells)[0] / 255
    if cells == 8:  # each cell is several pixels: averages
        assert found[(found > 0.02) & (found < 0.98)].size > 5 and abs(found.mean() - mask.sum() * 9 / np.prod(
            box[0, 2:] - box[0, :2])) < 0.03  # fmt: skip
        return
    x1, y1, x2, y2 = box[0]
    centres = (np.arange(cells) + 0.5) / cells
    x, y = np.meshgrid(x1 + (x2 - x1) * centres, y1 + (y2 - y1) * centres)
    back = geometry.map_points(geometry.invert(matrix), np.stack([x, y], -1))
    expected = scipy.ndimage.map_coordinates(mask * 1.0, [back[..., 1] - 0.5, back[..., 0] - 0.5], order=1)
    assert np.abs(found - expected).max() < 0.1  # OpenCV rounds places to 1/32 of a pixel


def record(masks, **more):
    bounds = np.array([geometry.mask_bounds(mask) for mask in masks], np.float32)
    size = masks.shape[1:]
    return {
        "id": 0, "file": "a.png", "image": np.zeros((*size, 3), np.uint8), "size": np.array(size, np.int32),
        "boxes": bounds, "classes": np.arange(len(masks), dtype=np.int32), "crowd": np.zeros(len(masks), bool),
        "areas": geometry.box_areas(bounds), "masks": [run_lengths.encode(mask) for mask in masks], **more,
    }  # fmt: skip


def test_an_object_without_a_pixel_of_its_mask_is_dropped_and_told(caplog):
    masks = np.zeros((4, 32, 32), bool)
    masks[0, 2:9, 3:12] = masks[1, 20:30, 20:30] = True
    given_record = record(masks, crowd=np.array([False, False, False, True]))
    given_record["boxes"][2:] = [[1, 1, 9, 9], [2, 2, 8, 8]]
    transform = boxes.make(size=(32, 32), max_boxes=5, mask_size=9)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            example = transform(given_record, np.random.default_rng(0))
    assert example["classes"][example["valid"]].tolist() == [0, 1, 3] and example["masks_left_out"] == 1
    assert [line.message for line in caplog.records] == [
        "a.png has 1 objects without a pixel of their masks in view: they are left out."
    ]
    assert boxes.make(size=(32, 32), max_boxes=5)(given_record, np.random.default_rng(0))["valid"].sum() == 4


def test_an_object_whose_mask_a_crop_leaves_empty_is_dropped_and_counted():
    """Of four masks in the corners of their boxes a shift to the left leaves two, one box, and nothing."""
    masks = np.zeros((4, 32, 32), bool)
    masks[0, 2:9, 20:30] = masks[1, 12:16, 1:4] = masks[2, 22:26, 1:30] = masks[3, 28:31, 0:3] = True
    given_record = record(masks)
    given_record["boxes"][1] = [1, 12, 20, 18]  # its mask ends at 4
    shifts = mosaic.make(size=(32, 32), max_boxes=5, mask_size=9, augment={}, mosaic=0.0, mixup=0.001)
    for transform in (boxes.make(size=(32, 32), max_boxes=5, mask_size=9, augment={}), shifts):
        with mock.patch.object(augment, "draw_matrix", return_value=geometry.translate(-8, 0)):
            example = transform(given_record, np.random.default_rng(0), *((transform is shifts) * [[given_record]]))
        assert example["classes"][example["valid"]].tolist() == [0, 2]
        assert example["masks_left_out"] == 1 and example["masks_left_out"].dtype == np.int32
    stages.check("example", example)


def filled(corners):
    mask = np.zeros((1024, 1024), np.uint8)
    cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
    return mask.astype(bool)


def test_what_a_hundred_objects_of_a_large_image_take():
    """Of 8 such images, 60 MB are allowed: in the batch, and beside it while they are drawn."""
    rng = np.random.default_rng(0)
    corners = [rng.uniform(0, 900, 2) + rng.uniform(0, 120, (6, 2)) for _ in range(100)]
    given_record = record(np.ones((1, 2, 2), bool)) | {
        "image": np.zeros((1024, 1024, 3), np.uint8), "size": np.array([1024, 1024], np.int32),
        "boxes": np.array([geometry.bounds(one) for one in corners], np.float32),
        "classes": np.zeros(100, np.int32), "crowd": np.zeros(100, bool), "areas": np.ones(100, np.float32),
        "masks": [run_lengths.encode(filled(one)) for one in corners],
    }  # fmt: skip
    room = {}
    for cells in (0, 64):
        transform = boxes.make(size=(1024, 1024), max_boxes=100, augment={"rotate": 10.0}, mask_size=cells)
        tracemalloc.start()
        example = transform(given_record, np.random.default_rng(0))
        room[cells] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert example["box_masks"].nbytes * 8 < 4e6
    assert 8 * (room[64] - room[0]) < 60e6
