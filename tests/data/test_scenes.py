"""The embedded data set: repeatable, honest between its splits, and labelled as drawn."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mapjax.data import geometry
from mapjax.data.formats import scenes
from mapjax.data.source import kind_of, label_map_of, largest_size, truth_of
from mapjax.errors import UserError


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_a_scene_is_a_pure_function_of_seed_split_and_index():
    one, two = scenes.make(split="train"), scenes.make(split="train", train_length=7)
    assert same(one.records[5], two.records[5]) and same(one.records[5], pickle.loads(pickle.dumps(two.records))[5])  # noqa: S301
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(one.records.__getitem__, [5] * 8))
    assert all(same(one.records[5], scene) for scene in at_once)
    for other in (scenes.make(split="train", seed=1), scenes.make(split="val")):
        assert not np.array_equal(one.records[5]["image"], other.records[5]["image"])
        assert one.fingerprint != other.fingerprint
    assert same(one.records[-1], one.records[19_999]) and len(two.records[2:4]) == 2
    with pytest.raises(IndexError):
        two.records[7]


def test_labels_are_those_of_the_visible_strokes():
    source = scenes.make(split="val", size=(96, 120))
    counts = []
    for index in range(30):
        scene = source.records[index]
        counts.append(len(scene["boxes"]))
        assert scene["image"].shape == (96, 120, 3) and scene["image"].dtype == np.uint8
        assert scene["masks"].shape == (counts[-1], 96, 120)
        assert (scene["masks"].sum(axis=0) <= 1).all()  # what is covered belongs to what covers it
        for box, mask, area in zip(scene["boxes"], scene["masks"], scene["areas"]):
            np.testing.assert_array_equal(box, geometry.mask_bounds(mask))
            assert area == mask.sum() > 0
    assert min(counts) >= 1 and max(counts) <= 8 and 3 < np.mean(counts) < 6


def test_training_scenes_may_hold_more_digits():
    options = {"digits": (1, 2), "train_digits": (6, 8)}
    train, val = (scenes.make(split=split, **options) for split in scenes.SPLITS)
    assert all(4 <= len(train.records[i]["classes"]) <= 8 for i in range(10))  # some find no room
    plain = scenes.make(split="val", digits=(1, 2))
    assert val.fingerprint == plain.fingerprint and same(val.records[3], plain.records[3])
    assert train.fingerprint != scenes.make(split="train", digits=(1, 2)).fingerprint


def test_the_splits_share_neither_digits_nor_photos():
    train, val = scenes._members("train"), scenes._members("val")
    assert not set(train) & set(val) and len(train) + len(val) == 1797
    _, classes = scenes._glyphs()
    share = np.bincount(classes[val], minlength=10) / np.bincount(classes, minlength=10)
    np.testing.assert_allclose(share, 0.25, atol=0.01)
    for left, right in zip(scenes._photos("train"), scenes._photos("val")):
        assert left.shape[1] + right.shape[1] == 640 and not np.shares_memory(left, right)


def test_all_classes_come_about_equally_often():
    source = scenes.make(split="train", size=(64, 64))
    classes = np.concatenate([source.records[i]["classes"] for i in range(100)])
    counts = np.bincount(classes, minlength=10)
    assert len(counts) == len(source.classes) == len(source.category_ids) == 10
    assert counts.min() > 0.4 * counts.mean()


def test_a_label_map_has_the_visible_strokes_on_a_background():
    boxes = scenes.make(split="val", size=(64, 80))
    source = scenes.make(split="val", size=(64, 80), needs="label_map")
    assert source.classes == ("background", *boxes.classes) and len(source.category_ids) == 11
    assert source.fingerprint != boxes.fingerprint and largest_size(source) == largest_size(boxes) == (64, 80)
    assert kind_of(source) == "label_map" and kind_of(boxes) == "boxes"
    for index in range(5):
        drawn, mapped = boxes.records[index], source.records[index]
        assert mapped.keys() == {"id", "file", "size", "image", "label_map"}
        assert truth_of(source, index).keys() == {"id", "file", "size"}
        np.testing.assert_array_equal(mapped["image"], drawn["image"])
        weights = (drawn["classes"] + 1)[:, None, None]
        np.testing.assert_array_equal(mapped["label_map"], (drawn["masks"] * weights).sum(0))  # no two overlap
        np.testing.assert_array_equal(mapped["label_map"], label_map_of(source, index))
    assert same(source.records[3], pickle.loads(pickle.dumps(source)).records[3])  # noqa: S301


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "vall"}, "'val'"),
        ({"split": "val", "size": (8, 8)}, "32"),
        ({"split": "val", "val_length": 0}, ">= 1"),
    ],
)
def test_bad_options_are_one_sentence(options, words):
    with pytest.raises(UserError, match=words):
        scenes.make(**options)
