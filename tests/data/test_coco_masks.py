"""COCO's segmentations against pycocotools."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle

from mapjax.data import run_lengths
from mapjax.data.formats import coco_masks


def drawn(segmentation, size):
    return run_lengths.bits(coco_masks.draw(coco_masks.pack(segmentation, size), size), size)


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_run_lengths_agree_with_pycocotools(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    packed = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(drawn(packed, (height, width)), mask)
    as_json = {"size": [height, width], "counts": packed["counts"].decode()}
    np.testing.assert_array_equal(drawn(as_json, (height, width)), mask)
    pixels = mask.T.ravel().tolist()
    counts = [len(list(run)) for _, run in itertools.groupby(pixels)]
    plain = {"size": [height, width], "counts": [0, *counts] if pixels[0] else counts}
    np.testing.assert_array_equal(drawn(plain, (height, width)), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_polygons_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(10):
        angles, reach = np.sort(rng.uniform(0, 2 * np.pi, 12)), rng.uniform(15, 30, 12)
        x, y = 40 + reach * np.cos(angles), 35 + reach * np.sin(angles)
        polygon = np.stack([x, y], axis=1).ravel().tolist()
        expected = oracle.decode(oracle.merge(oracle.frPyObjects([polygon], 70, 80))).astype(bool)
        np.testing.assert_array_equal(drawn([polygon], (70, 80)), expected)


def test_odd_segmentations():
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    both = drawn([square, [10, 10, 12, 10, 12, 12]], (16, 16))
    assert both[4, 4] and both[10, 11] and not both[8, 8]
    for nothing in (None, [], [[1, 2]], "x"):
        assert not drawn(nothing, (4, 5)).any()
    with pytest.raises(ValueError, match="add up to 3"):
        coco_masks.pack({"counts": [1, 2]}, (4, 5))
    with pytest.raises(ValueError, match="not finite"):
        coco_masks.pack([[2, 2, float("nan"), 2, 6, 6]], (9, 9))


SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        ([SQUARE], ""),
        ([SQUARE, [1, 2, 3, 4]], ""),
        ([[1, 2, 3, 4]], "polygon of fewer than three corners"),
        ([[30, 2, 36, 2, 36, 6]], "polygon outside the image"),
        ([[2, -9, 6, -9, 6, 0]], "polygon outside the image"),
        ({"counts": [320]}, "mask without a pixel"),
        ({"counts": [319, 1]}, ""),
        ([], "object without a segmentation"),
        (None, "object without a segmentation"),
    ],
    ids=str,
)
def test_what_a_mask_lacks_is_said(segmentation, fault):
    assert coco_masks.lack(segmentation, coco_masks.pack(segmentation, (16, 20)), (16, 20)) == fault


def test_run_lengths_that_do_not_fit_say_why():
    with pytest.raises(coco_masks.Misfit, match=r"of \[20, 16\] and not of 16×20") as told:
        coco_masks.pack({"counts": [320], "size": [20, 16]}, (16, 20))
    assert told.value.reason == coco_masks.OTHER_SIZE
    whole = run_lengths.encode(np.eye(16, 20, dtype=bool))
    for text in (whole[:-3], whole + b"1"):
        with pytest.raises(coco_masks.Misfit) as told:
            coco_masks.pack({"counts": text.decode()}, (16, 20))
        assert told.value.reason == coco_masks.CUT_SHORT
