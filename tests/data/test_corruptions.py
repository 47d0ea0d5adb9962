"""Held-out images that are changed, and their truth with them."""

import numpy as np
import pytest

from mapjax.data import geometry
from mapjax.data.formats import digits, scenes
from mapjax.data.source import Records, largest_size, name_of, truth_of
from mapjax.data.transforms import corruptions
from mapjax.errors import UserError


def test_boxes_and_masks_turn_with_the_image():
    plain = scenes.make(split="val", val_length=6)
    turned = corruptions.shift(plain, {"rotate": 40.0})
    for index in range(6):
        before, after = plain.records[index], turned.records[index]
        assert after["image"].shape == before["image"].shape and not np.array_equal(after["image"], before["image"])
        assert len(after["boxes"]) == len(after["classes"]) == len(after["masks"]) == len(after["areas"])
        assert set(after["classes"]) <= set(before["classes"])
        for box, mask, area in zip(after["boxes"], after["masks"], after["areas"]):
            np.testing.assert_allclose(box, geometry.mask_bounds(mask), atol=2.5)
            assert area == mask.sum() > 0


def test_label_maps_turn_with_the_image():
    """The corners that come into view have no class; the strokes keep about their number of pixels."""
    plain = scenes.make(split="val", val_length=3, needs="label_map")
    turned = corruptions.shift(plain, {"rotate": 30.0})
    before, after = plain.records[0]["label_map"], turned.records[0]["label_map"]
    np.testing.assert_array_equal(after, turned.records.label_map(0))
    assert (after == 255).sum() > 100 and set(np.unique(after)) - {255} <= set(np.unique(before))
    strokes = [np.count_nonzero((labels > 0) & (labels < 255)) for labels in (before, after)]
    assert 0.6 < strokes[1] / strokes[0] < 1.1


def test_a_mirrored_image_has_mirrored_boxes():
    plain = scenes.make(split="val", val_length=2)
    before, after = plain.records[1], corruptions.shift(plain, {"flip_horizontal": 1.0}).records[1]
    np.testing.assert_array_equal(after["image"], before["image"][:, ::-1])
    np.testing.assert_allclose(after["boxes"], geometry.map_boxes(geometry.flip_horizontal(128), before["boxes"]))
    np.testing.assert_allclose(after["areas"], before["areas"])


def test_colours_leave_the_truth():
    plain = scenes.make(split="val", val_length=2)
    before, after = plain.records[0], corruptions.shift(plain, {"noise": 60.0}).records[0]
    assert 1 < np.abs(after["image"].astype(int) - before["image"]).mean() < 60
    np.testing.assert_array_equal(after["boxes"], before["boxes"])


def test_a_image_is_changed_the_same_way_every_time():
    one, other = (corruptions.shift(digits.make(split="val"), {"rotate": 25.0, "noise": 40.0}) for _ in range(2))
    np.testing.assert_array_equal(one.records[5]["image"], other.records[5]["image"])
    assert one.records[5]["label"] == digits.make(split="val").records[5]["label"]
    np.testing.assert_array_equal(one.records.labels(), digits.make(split="val").records.labels())


def test_it_is_other_data():
    plain = scenes.make(split="val", val_length=2)
    found = {corruptions.shift(plain, changes).fingerprint for changes in ({"rotate": 25.0}, {"rotate": 26.0})}
    assert len(found | {plain.fingerprint}) == 3
    turned = corruptions.shift(plain, {"rotate": 25.0})
    assert largest_size(turned) == (128, 128) and truth_of(turned, 0)["file"] == truth_of(plain, 0)["file"]


def test_an_image_that_cannot_be_read_keeps_its_name_and_truth():
    plain = scenes.make(split="val", val_length=2)
    cut = [{**plain.records[index], "image": b""} for index in range(2)]
    bare = [{key: value for key, value in record.items() if key != "image"} for record in cut]
    broken = plain._replace(records=Records(2, cut.__getitem__, names=("a", "b"), truth=bare.__getitem__))
    turned, sound = (corruptions.shift(one, {"rotate": 40.0}) for one in (broken, plain))
    assert name_of(turned, 1) == "b"
    np.testing.assert_array_equal(truth_of(turned, 1)["boxes"], truth_of(sound, 1)["boxes"])
    with pytest.raises(UserError):
        turned.records[1]


def test_what_cannot_be_changed():
    with pytest.raises(UserError, match=r"corruption: there is no augmentation 'rotat'\. Did you mean 'rotate'"):
        corruptions.shift(digits.make(split="val"), {"rotat": 3.0})
