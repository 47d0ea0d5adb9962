"""Images and label maps through one matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax import stages
from mapjax.data import geometry
from mapjax.data.transforms import pixelwise
from mapjax.errors import UserError
from mapjax.stages import VOID

COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)


def record_of(size=(40, 60), seed=0):
    """An image whose colours are its classes, in patches."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (-(-size[0] // 10), -(-size[1] // 10))).astype(np.uint8)
    labels = np.kron(coarse, np.ones((10, 10), np.uint8))[: size[0], : size[1]]
    return {"id": 0, "file": "a.png", "image": COLOURS[labels], "size": np.array(size, np.int32), "label_map": labels}


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_pixels_and_classes_stay_together_under_any_augmentation(seed):
    augment = {"flip_horizontal": 0.5, "flip_vertical": 0.5, "scale": (0.6, 1.8), "translate": 0.2, "rotate": 30.0}
    augment |= {"shear": 10.0, "crop": 0.5}
    example = pixelwise.make(size=(48, 64), augment=augment)(record_of(), np.random.default_rng(seed))
    stages.check("example", {**example, "index": np.int32(0)})
    labels, image = example["label_map"], example["image"].astype(int)
    known = labels != VOID
    nearest = np.abs(image[:, :, None] - COLOURS.astype(int)).sum(-1).argmin(-1)
    pure = known & (np.abs(image - COLOURS[np.where(known, labels, 0)].astype(int)).sum(-1) < 30)
    if known.sum() > 200:
        assert (nearest == labels)[known].mean() > 0.9  # they differ at the seams only
    assert pure.sum() >= 0.5 * known.sum()


def test_what_comes_from_outside_has_no_class():
    example = pixelwise.make(size=(50, 50))(record_of((20, 40)), np.random.default_rng(0))
    assert (example["label_map"][25:] == VOID).all()
    assert (example["label_map"][:25] != VOID).all()


def test_to_be_scored_a_label_map_stays_as_it_is():
    record = record_of()
    example = pixelwise.make(size=(16, 16), canvas=lambda: (70, 80))(record, np.random.default_rng(0))
    stages.check("example", {**example, "index": np.int32(0)})
    assert "label_map" not in example
    np.testing.assert_array_equal(example["truth_map"][:40, :60], record["label_map"])
    assert (example["truth_map"] == VOID).sum() == 70 * 80 - 40 * 60
    without = {key: value for key, value in record.items() if key != "label_map"}
    assert (
        pixelwise.make(size=(16, 16), canvas=lambda: (40, 60))(without, np.random.default_rng(0))["truth_map"] == VOID
    ).all()


def test_half_the_size_and_mirrored_is_every_second_pixel():
    labels = np.random.default_rng(0).integers(0, 9, (12, 14)).astype(np.uint8)
    matrix = geometry.compose(geometry.scale(0.5), geometry.flip_horizontal(7))
    found = geometry.map_labels(matrix, labels, (6, 7), VOID)
    candidates = [labels[i::2, j::2][:, ::-1] for i in (0, 1) for j in (0, 1)]
    assert np.stack([found == one for one in candidates]).any(0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 5)}, r"size=\(0, 5\) must be positive"),
        ({"size": (5, 5), "fit": "crops"}, r"transform\.fit='crops' is not known"),
        ({"size": (5, 5), "augment": {"min_visible": 0.1}}, "there is no augmentation 'min_visible'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        pixelwise.make(**options)


def test_a_mask_of_another_size():
    record = record_of() | {"label_map": np.zeros((40, 59), np.uint8)}
    transform = pixelwise.make(size=(16, 16))
    with pytest.raises(UserError, match=r"a\.png has 40×60 pixels .* and its mask 40×59; draw the mask again"):
        transform(record, np.random.default_rng(0))
