"""Label maps as images: colours, edges, errors, and masks that are read back to the same classes."""

import base64
import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from mapjax.report import draw, overlay
from mapjax.stages import VOID

MAPS = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9))


def halves():
    """Left half class 1, right half class 2, the last row without a class."""
    labels = np.repeat(np.array([[1, 1, 2, 2]], np.uint8), 4, axis=0)
    labels[-1] = VOID
    return labels


def test_over_paints_classes_draws_their_border_and_leaves_void():
    image = np.full((4, 4, 3), 100, np.uint8)
    painted = overlay.over(image, halves(), strength=0.5)
    assert (painted[:2, 1] == 255).all() and (painted[2] == 255).all()
    expected = (100 + np.array(draw.colour(1))) / 2
    np.testing.assert_allclose(painted[0, 0], expected, atol=1)
    assert (painted[3] == 100).all() and (image == 100).all()


def test_errors_are_red_what_is_right_blue_and_void_dark():
    image = np.full((4, 4, 3), 100, np.uint8)
    truth = halves()
    predicted = np.full_like(truth, 1)
    shown = overlay.errors(image, truth, predicted).astype(int)
    right, wrong, void = shown[0, 0], shown[0, 3], shown[3, 0]
    assert right[2] > right[0] and wrong[0] > wrong[2] + 50
    assert (void == 35).all()


@given(MAPS)
def test_a_mask_is_read_back_to_its_classes(labels):
    with PIL.Image.open(io.BytesIO(overlay.png(labels))) as photo:
        assert photo.mode == "P"
        np.testing.assert_array_equal(np.asarray(photo), labels)
        np.testing.assert_array_equal(np.asarray(photo.convert("RGB")), overlay.coloured(labels))


@pytest.mark.parametrize(("longest", "size"), [(3, (3, 2)), (100, (6, 4))])
def test_url_shrinks_without_new_classes(longest, size):
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3 * 100
    head, _, data = overlay.url(labels, longest=longest).partition(",")
    assert head == "data:image/png;base64"
    with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as photo:
        assert photo.size == size
        assert set(np.unique(np.asarray(photo))) <= {0, 100, 200}
