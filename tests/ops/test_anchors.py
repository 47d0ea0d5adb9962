"""Against numbers worked out by hand and published ones."""

import numpy as np

from mapjax.ops.anchors import cell_anchors, grid_anchors


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
