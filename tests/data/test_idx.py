"""IDX files, packed or not, whole and broken."""

import gzip
import os
import struct

import numpy as np
import pytest

from mapjax.data import budgets
from mapjax.data.formats import idx
from mapjax.data.source import labels_of
from mapjax.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (40, 5, 6), np.uint8), "t10k": RNG.integers(0, 256, (3, 5, 6), np.uint8)}
LABELS = {"train": np.arange(40) % 4, "t10k": np.array([3, 0, 1])}


def encoded(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write(root, labels=LABELS, form="{}-{}-idx{}-ubyte", pack=lambda data: data, end=""):
    for name, images in IMAGES.items():
        (root / (form.format(name, "images", 3) + end)).write_bytes(pack(encoded(images)))
        (root / (form.format(name, "labels", 1) + end)).write_bytes(pack(encoded(labels[name])))
    return str(root)


@pytest.mark.parametrize(
    "options",
    [{}, {"pack": gzip.compress, "end": ".gz"}, {"form": "{}-{}.idx{}-ubyte"}],
)
def test_the_files_are_read(tmp_path, options):
    path = write(tmp_path, **options)
    test = idx.make(split="test", path=path)
    assert test.classes == ("0", "1", "2", "3")
    np.testing.assert_array_equal(labels_of(test), LABELS["t10k"])
    for image, record in zip(IMAGES["t10k"], test.records):
        assert record["image"].shape == (5, 6, 3) and (record["image"] == image[..., None]).all()
    train, val = (idx.make(split=split, path=path, hold_out=0.2) for split in ("train", "val"))
    np.testing.assert_array_equal(np.bincount(labels_of(train)), [8] * 4)
    np.testing.assert_array_equal(np.bincount(labels_of(val)), [2] * 4)
    rows = [int(record["file"].removeprefix("train/")) for record in (*train.records, *val.records)]
    assert sorted(rows) == list(range(40))
    assert (train.records[7]["image"][..., 0] == IMAGES["train"][rows[7]]).all()


def test_classes_have_names(tmp_path):
    path = write(tmp_path)
    (tmp_path / "classes.txt").write_text("shirt\ncoat\nbag\nboot\n")
    assert idx.make(split="test", path=path).classes == ("shirt", "coat", "bag", "boot")
    assert idx.make(split="test", path=path, classes="a|b|c|d").classes == ("a", "b", "c", "d")


def test_other_pixels_have_another_fingerprint(tmp_path):
    before = idx.make(split="test", path=write(tmp_path)).fingerprint
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(encoded(IMAGES["t10k"] // 2))
    assert idx.make(split="test", path=str(tmp_path)).fingerprint != before


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "train-images-idx3-ubyte",
            encoded(IMAGES["train"])[:-1],
            r"says it holds 40×5×6 bytes and has 1199; it is cut",
        ),
        ("train-images-idx3-ubyte", encoded(IMAGES["train"])[:9], "cut short"),
        ("train-images-idx3-ubyte", gzip.compress(encoded(IMAGES["train"]))[:-30], "cut short or damaged"),
        (
            "train-images-idx3-ubyte",
            encoded(LABELS["train"]),
            "not an IDX file of images: it begins with 00 00 08 01",
        ),
        ("train-labels-idx1-ubyte", b"", "not an IDX file of labels: it begins with nothing"),
        (
            "train-labels-idx1-ubyte",
            encoded(LABELS["t10k"]),
            "has 40 images and train-labels-idx1-ubyte has 3 labels",
        ),
        (
            "train-labels-idx1-ubyte",
            None,
            r"has no labels: train-labels-idx1-ubyte or train-labels-idx1-ubyte\.gz must be",
        ),
    ],
)
def test_broken_files(tmp_path, name, data, words):
    path = write(tmp_path)
    (tmp_path / name).unlink()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words):
        idx.make(split="train", path=path)


def test_labels_that_cannot_be(tmp_path):
    path = write(tmp_path, LABELS | {"t10k": np.array([3, 0, 9])})
    with pytest.raises(UserError, match="has the label 9, which is outside the list of 4 classes, 0, 1, 2, 3"):
        idx.make(split="test", path=path)
    with pytest.raises(UserError, match="has the label 3, which is outside the list of 2 classes, a, b"):
        idx.make(split="train", path=path, classes=("a", "b"))
    write(tmp_path, LABELS | {"train": np.where(LABELS["train"] == 1, 3, LABELS["train"])})
    with pytest.raises(UserError, match="class '1' of split 'test' has no images to train on"):
        idx.make(split="test", path=path)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"has no IDX files; put train-images-idx3-ubyte"):
        idx.make(split="train", path=str(tmp_path))
    with pytest.raises(UserError, match="nowhere is not a folder"):
        idx.make(split="train", path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no split 'extra'; there is: test, train"):
        idx.make(split="extra", path=write(tmp_path))


def test_a_packed_file_unpacks_no_more_than_it_may(tmp_path, monkeypatch):
    path = write(tmp_path, pack=gzip.compress, end=".gz")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(encoded(np.zeros((40, 200, 200)))))
    assert len(idx.make(split="train", path=path, hold_out=0).records) == 40
    monkeypatch.setenv(budgets.UNPACKED, "1000000")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz unpacks to more than 1,000,000 bytes; if it is"):
        idx.make(split="train", path=path)


def test_a_pipe_is_not_waited_for(tmp_path):
    path = write(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(UserError, match=r"cannot be read \(it is a folder, pipe, socket or device\)"):
        idx.make(split="train", path=path)
