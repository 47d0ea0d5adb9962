"""Splits are found by name, or held out by a hash that stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjax.data import splits
from mapjax.errors import NoSuchSplit, UserError

NAMES = [f"image{i}" for i in range(50)]


@pytest.mark.parametrize(
    ("split", "available", "expected"),
    [
        ("train", ["train", "val"], ("train", "whole")),
        ("val", ["train", "valid"], ("valid", "whole")),
        ("train", ["train", "test"], ("train", "kept")),
        ("validation", ["train", "test"], ("train", "held out")),
        ("trainval", ["train", "trainval"], ("trainval", "whole")),
        ("val", ["Train", "Valid"], ("Valid", "whole")),
        ("train", ["TRAIN", "Test"], ("TRAIN", "kept")),
        ("val", ["TRAIN", "Test"], ("TRAIN", "held out")),
        ("Val", ["train", "test"], ("train", "held out")),
        ("test", ["Train", "Test"], ("Test", "whole")),
        ("Test", ["train", "testing"], ("testing", "whole")),
        ("train", ["Train", "train"], ("train", "kept")),
        ("train", ["training_set", "test_set"], ("training_set", "kept")),
        ("val", ["train_images", "Dev"], ("Dev", "whole")),
        ("valid", ["train", "val", "val_images"], ("val", "whole")),
        ("test", ["train", "imgs-test1"], ("imgs-test1", "whole")),
        ("val", ["trainval", "training"], ("training", "held out")),
    ],
)
def test_splits_are_found_by_name(split, available, expected):
    assert splits.locate(split, available, "voc:x", 0.1) == expected


def test_a_missing_split_lists_those_there_are():
    with pytest.raises(UserError, match=r"voc:x has no split 'tset'; there is: test, train\."):
        splits.locate("tset", ["train", "test"], "voc:x", 0.1)
    with pytest.raises(UserError, match="no split 'val'"):
        splits.locate("val", ["train"], "voc:x", 0)
    with pytest.raises(UserError, match="hold_out=2"):
        splits.locate("val", ["train"], "voc:x", 2)


@pytest.mark.parametrize(
    ("kind", "names"),
    {
        "train": [
            "Train",
            "TRAIN",
            "training",
            "training_set",
            "train_images",
            "images-train",
            "TrainSet",
            "train2017",
        ],
        "val": ["val", "valid", "Validation", "validation_set", "dev", "eval", "evaluation", "val_imgs", "valSplit"],
        "test": ["test", "Testing", "test_set", "test1", "test-data", "test2007"],
        None: [
            "trainval",
            "train_val",
            "pretrain",
            "testudo",
            "valley",
            "contest",
            "devil",
            "training_dog",
            "",
            "2017",
        ],
    }.items(),
)
def test_what_splits_are_called(kind, names):
    assert {name: splits.kind_of(name) for name in names} == dict.fromkeys(names, kind)


def test_a_hostile_name_takes_no_time():
    assert splits.kind_of("dataset" * 5_000) is None


def test_several_that_may_be_meant_are_told():
    for available in (["train", "dev", "valid"], ["train", "val2014", "val2017"]):
        with pytest.raises(NoSuchSplit, match=rf"several splits that 'val' may mean: {', '.join(available[1:])}; name"):
            splits.locate("val", available, "voc:x", 0.1)
    with pytest.raises(NoSuchSplit, match="no split 'val2017'"):  # a share of train is no split of this name
        splits.locate("val2017", ["train"], "voc:x", 0.1)


@settings(max_examples=30)
@given(st.lists(st.text(), unique=True, max_size=40), st.integers(), st.floats(0.01, 0.9))
def test_held_out_and_kept_divide_the_whole(names, seed, share):
    kept, held = (splits.take(names, part, seed, share) for part in ("kept", "held out"))
    assert sorted(kept + held) == sorted(names) and not set(kept) & set(held)
    assert len(names) < 2 or (kept and held)
    assert splits.take(names[::-1], "held out", seed, share) == held[::-1]


def test_new_images_do_not_reshuffle_and_seeds_do():
    before = set(splits.take(NAMES, "held out", 0, 0.2))
    after = set(splits.take([*NAMES, "one more"], "held out", 0, 0.2))
    assert len(before) == 10 and len(before & after) >= 9
    assert splits.take(NAMES, "held out", 1, 0.2) != splits.take(NAMES, "held out", 0, 0.2)
