"""Against numbers worked out by hand and published ones."""

import numpy as np

from mapjax.ops.anchors import cell_anchors, default_boxes, grid_anchors


def test_a_cell_of_torchvision():
    """The anchors of size 32 that torchvision's fasterrcnn_resnet50_fpn makes."""
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    np.testing.assert_array_equal(cell_anchors((32,), (0.5, 1.0, 2.0)), expected)


def test_ratios_are_the_outer_order_and_halves_round_to_even():
    found = cell_anchors((10, 7, 5), (1, 4))
    expected = [[5, 5], [4, 4], [2, 2], [2, 10], [2, 7], [1, 5]]  # 3.5 → 4, 2.5 → 2, 1.75 → 2, 1.25 → 1
    np.testing.assert_array_equal(found[:, 2:], expected)
    np.testing.assert_array_equal(found[:, :2], -found[:, 2:])
    assert found.dtype == np.float32


def test_area_and_ratio():
    found = cell_anchors((128, 512), (0.5, 2.0)).astype(float)
    width, height = (found[:, 2:] - found[:, :2]).T
    np.testing.assert_allclose(height / width, [0.5, 0.5, 2, 2], rtol=0.02)
    np.testing.assert_allclose(np.sqrt(height * width), [128, 512, 128, 512], rtol=0.01)


def test_grid_goes_by_row_column_anchor():
    found = grid_anchors((64, 96), (4, 3), (8, 16), (1,))
    assert found.shape == (4 * 3 * 2, 4) and found.dtype == np.float32
    expected = []
    for row in range(4):
        for column in range(3):
            for half in (4, 8):
                x, y = column * 32, row * 16  # the strides are the quotients 96 / 3 and 64 / 4
                expected.append([x - half, y - half, x + half, y + half])
    np.testing.assert_array_equal(found, expected)


def test_the_stride_of_an_odd_input_is_rounded_down():
    found = grid_anchors((50, 99), (4, 7), (2,), (1,))
    centres = (found[:, :2] + found[:, 2:]) / 2
    np.testing.assert_array_equal(np.unique(centres[:, 0]), np.arange(7) * 14)
    np.testing.assert_array_equal(np.unique(centres[:, 1]), np.arange(4) * 12)


def test_default_boxes_by_their_definition():
    """Squares of a scale and between two, then wide and high ones; sides are at most the image's."""
    expected = []
    for row in range(2):
        for column in range(3):
            x, y = (column + 0.5) / 3 * 120, (row + 0.5) / 2 * 80
            for w, h in ((0.4, 0.4), (0.6, 0.6), (0.8, 0.2), (0.2, 0.8), (1.0, 0.4 / 3), (0.4 / 3, 1.0)):
                expected.append([x - w * 60, y - h * 40, x + w * 60, y + h * 40])
    found = default_boxes((80, 120), (2, 3), (0.4, 0.9), (4, 9))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    centres = default_boxes((300, 300), (3, 3), (0.69, 0.87), (2,), 100)
    np.testing.assert_allclose((centres[:, 0] + centres[:, 2]).reshape(9, 4)[:3, 0] / 2, [50, 150, 250])
