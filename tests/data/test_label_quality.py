"""The start-up check of labels of whole images counts right, without decoding, and stops what could not train."""

import io

import numpy as np
import pytest
from rich.console import Console

from mapjax.data.checks import label_quality, quality
from mapjax.data.formats import digits, scenes
from mapjax.data.source import Records, Source, labels_of
from mapjax.errors import UserError


def source(labels, classes=("cat", "dog"), split="train", **more):
    """Make a source whose records cannot be made: only what it knows beforehand may be used."""

    def never(index):
        raise AssertionError("a record was made")

    records = Records(len(labels), never, np.asarray(labels), more.pop("files", None))
    numbers = tuple(range(1, len(classes) + 1))
    return Source("folder:x", split, tuple(classes), numbers, records, more.pop("dropped", {}), "")


def plain(labels, key):
    """Make a source of ready records, as a user's own may be."""
    records = [{"id": i, "file": f"{i}.png", "image": f"{i}.png", key: label} for i, label in enumerate(labels)]
    return Source("mine", "train", ("a", "b"), (1, 2), records, {}, "")


def text(*summaries):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(quality.table(*summaries))
    return console.export_text()


SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0]], bool)


def test_images_of_each_class_are_counted():
    one = source(
        np.array([0, 1, 1, 1], np.int32), dropped={"missing image": ["[odd].png", "b"], "none": []}, files=list("abcd")
    )
    found = quality.inspect(one, 0)
    assert (found.images, found.labels, found.several, found.out_of_range) == (4, 4, False, 0)
    assert found.per_class == {"cat": 1, "dog": 3} and found.files == set("abcd")
    assert found.dropped == {"missing image": (2, "[odd].png")}
    several = quality.inspect(source(SEVERAL, ("a", "b", "c")), 0)
    assert (several.images, several.labels, several.without_label, several.several) == (3, 3, 1, True)
    assert several.per_class == {"a": 2, "b": 0, "c": 1}
    np.testing.assert_array_equal(quality.class_counts(one), [1, 3])
    np.testing.assert_array_equal(quality.class_counts(source(SEVERAL, ("a", "b", "c"))), [2, 0, 1])
    np.testing.assert_array_equal(quality.class_counts(source(np.array([0, 7, -1], np.int32))), [1, 0])


def test_ready_records_are_read_one_by_one():
    one = plain([np.int32(1), np.int32(0), np.int32(1)], "label")
    assert labels_of(one).dtype == np.int32 and labels_of(one).tolist() == [1, 0, 1]
    assert quality.inspect(one, 0).files == {"0.png", "1.png", "2.png"}
    several = plain([np.array([True, False]), np.array([True, True])], "labels")
    assert labels_of(several).dtype == bool and quality.class_counts(several).tolist() == [2, 1]
    assert labels_of(plain([], "label")).shape == (0,)
    with pytest.raises(UserError, match="mine has no label for a whole image; use data with classes"):
        labels_of(plain([np.zeros((0, 4))], "boxes"))


def test_boxes_are_counted_as_before():
    one = scenes.make(split="val", size=(32, 32), digits=(1, 1), digit_size=(8, 14), val_length=20)
    counts = quality.class_counts(one)
    assert counts.sum() == quality.inspect(one, 9).boxes and counts.shape == (10,)
    np.testing.assert_array_equal(counts, np.bincount([k for r in one.records for k in r["classes"]], minlength=10))
    empty = one._replace(records=[])
    assert quality.class_counts(empty).tolist() == [0] * 10 and "images without boxes" in text(
        quality.inspect(empty, 9)
    )


def test_the_table_says_it():
    train, val = (digits.make(split=split, tail=100) for split in ("train", "val"))
    val = val._replace(dropped={"missing image": ["[odd].png"]})
    shown = text(*(quality.inspect(one, 0) for one in (train, val)))
    for words in ("class 9", "1 / 15 / 142", "142.0", "left out of val: 1 × missing image, such as [odd].png"):
        assert words in shown
    assert "boxes" not in shown


def test_of_many_classes_the_table_shows_the_extremes():
    names = [f"n{i:02d}" for i in range(40)]
    labels = np.repeat(np.arange(40), np.arange(1, 41)).astype(np.int32)
    shown = text(quality.inspect(source(labels[1:], names), 0))
    listed = [line.split()[2] for line in shown.splitlines() if "class n" in line]
    assert listed == ["n39", "n38", "n37", "n02", "n01", "n00"]
    assert "0 / 20.5 / 40" in shown and "20.0" in shown
    assert "train: 1 of 40 classes have no images, such as n00" in shown


def test_several_labels_are_summed_up():
    shown = text(quality.inspect(source(SEVERAL, ("a", "b", "c")), 0))
    assert "labels an image, mean" in shown and "1.00" in shown and "images without a label" in shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (source(np.zeros(0, np.int32), dropped={"missing image": ["a"]}), r"no images; check.*1 × missing image"),
        (source(np.zeros(2, np.int32), ()), "no classes"),
        (source(np.array([0, 1, 2, -1], np.int32)), "2 images whose label is outside the list of its 2 classes"),
        (source(np.zeros(3, np.int32), ("cat",)), "one class only, 'cat'"),
        (source(np.ones(3, np.int32)), "images of one class only, 'dog'"),
        (source(np.zeros((2, 3), bool), ("a", "b", "c")), "not one label in its 2 images"),
    ],
)
def test_what_cannot_train_is_stopped(given, words):
    with pytest.raises(UserError, match=words):
        quality.require_trainable(given, quality.inspect(given, 0))


@pytest.mark.parametrize(
    ("given", "spoilt"),
    [
        (source(np.array([0, 1], np.int32)), source(np.array([0, 2], np.int32))),
        (source(np.ones(3, np.int32), split="val"), source(np.ones(3, np.int32))),
        (source(np.ones((3, 1), bool), ("a",)), source(np.zeros((3, 1), bool), ("a",))),
    ],
)
def test_what_can_train_passes_and_what_is_nearly_like_it_does_not(given, spoilt):
    label_quality.require_trainable(given, label_quality.inspect(given))
    with pytest.raises(UserError):
        label_quality.require_trainable(spoilt, label_quality.inspect(spoilt))
