"""TensorFlow Datasets prepared as array_record are read; others are told apart."""

import io
import json
import os
import pickle
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets

from mapjax.data import images
from mapjax.data.formats import tfds
from mapjax.data.source import labels_of
from mapjax.errors import UserError

FEATURES = tensorflow_datasets.features
LENGTHS = {"train": 20, "test": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of labels of its own, as a new process finds it."""
    monkeypatch.setenv("MAPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds, "_read", {})
    return tmp_path / "cache" / "labels"


def png(value):
    stream = io.BytesIO()
    PIL.Image.new("RGB", (5, 4), (value, value, value)).save(stream, "PNG")
    stream.seek(0)
    return stream


def prepare(folder, name, label=None, label_of=lambda split, i: i % 2):
    """Write a data set and give its kind; an image says its number and split, its label is that number's remainder."""
    label = label or FEATURES.ClassLabel(names=["even", "odd"])

    def info(self):
        features = {"image": FEATURES.Image(shape=(None, None, 3)), "label": label}
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=FEATURES.FeaturesDict(features))

    def generate(self, split):
        for i in range(LENGTHS[split]):
            # The key decides the order, and tfds shuffles by it.
            yield i, {"image": png(i + 100 * (split == "test")), "label": label_of(split, i)}

    members = {
        "VERSION": tensorflow_datasets.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, manager: {split: self._generate_examples(split) for split in LENGTHS},
        "_generate_examples": generate,
        "__module__": __name__,
    }
    kind = type(name, (tensorflow_datasets.core.GeneratorBasedBuilder,), members)
    kind(data_dir=folder, file_format="array_record").download_and_prepare()
    return kind


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "EvenOdd")
    prepare(folder, "Unlabelled", label_of=lambda split, i: i % 2 - 1)
    prepare(folder, "Amounts", label=FEATURES.Scalar(np.int64))
    return folder


def value(record):
    pixels = images.read(record["image"])
    assert pixels.shape == (4, 5, 3)
    return int(pixels[0, 0, 0])


def test_records_are_those_that_were_prepared(data_dir):
    test = tfds.make(split="test", path="even_odd", data_dir=str(data_dir))
    assert test.classes == ("even", "odd") and test.name == "tfds:even_odd"
    assert sorted(value(record) for record in test.records) == [100, 101, 102]
    train, val = (
        tfds.make(split=s, path="even_odd:1.0.0", data_dir=str(data_dir), hold_out=0.2) for s in ("train", "val")
    )
    np.testing.assert_array_equal(np.bincount(labels_of(train)), [8, 8])
    np.testing.assert_array_equal(np.bincount(labels_of(val)), [2, 2])
    records = [*pickle.loads(pickle.dumps(train)).records, *val.records]  # noqa: S301
    assert sorted(value(record) for record in records) == list(range(20))
    assert all(value(record) % 2 == record["label"] for record in records)
    np.testing.assert_array_equal([record["label"] for record in train.records], labels_of(train))
    again = tfds.make(split="train", path="even_odd", data_dir=str(data_dir), hold_out=0.2)
    assert again.fingerprint == train.fingerprint != val.fingerprint


def test_classes_can_be_named(data_dir):
    assert tfds.make(split="test", path="even_odd", data_dir=str(data_dir), classes="a;b").classes == ("a", "b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "cifar_10"}, r"knows no such data set, and none of that name is in .*Did you mean 'cifar10'"),
        ({"path": "cifar10"}, r"not prepared in .*cifar10.*tfds build cifar10 --file_format=array_record"),
        ({"path": "even_odd", "split": "trian"}, "no split 'trian'; there is: test, train"),
        (
            {"path": "even_odd", "classes": ("a",)},
            r"10 images of split 'train' have a label outside the list of 1 classes",
        ),
        ({"path": "unlabelled"}, "10 images of split 'train' have a label outside the list of 2 classes, such as -1"),
        ({"path": "amounts"}, "feature 'label' is .* and not one class for each image"),
    ],
)
def test_mistakes(data_dir, options, words):
    with pytest.raises(UserError, match=words):
        tfds.make(**{"split": "train", "data_dir": str(data_dir), "hold_out": 0} | options)


def test_tfrecord_is_refused(data_dir):
    prepare(data_dir, "Serial")
    place = data_dir / "serial" / "1.0.0" / "dataset_info.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        UserError, match=r"serial:1\.0\.0 is stored as tfrecord in .*serial/1\.0\.0, which has no random access"
    ):
        tfds.make(split="train", path="serial:1.0.0", data_dir=str(data_dir))


def test_a_class_of_validation_only_is_told(data_dir, cache):
    prepare(data_dir, "Late", label_of=lambda split, i: i % 2 if split == "test" else 0)
    with pytest.raises(UserError, match=r"tfds:late: the class 'odd' of split 'test' has no images to train on; add"):
        tfds.make(split="test", path="late", data_dir=str(data_dir))


def test_all_records_are_read_once_for_their_labels(data_dir, cache, monkeypatch):
    reads, read = [], tfds._read_labels

    def counted(records):
        reads.append(len(records))
        return read(records)

    monkeypatch.setattr(tfds, "_read_labels", counted)
    options = {"path": "even_odd", "data_dir": str(data_dir), "hold_out": 0}

    def both():
        return [labels_of(tfds.make(split=split, **options)) for split in ("test", "train")]

    first = both()
    assert reads == [3, 20]
    monkeypatch.setattr(tfds, "_read", {})  # as another process begins
    for before, after in zip(first, both()):
        np.testing.assert_array_equal(before, after)
    assert reads == [3, 20] and len(list(cache.iterdir())) == 2
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:-4])
    monkeypatch.setattr(tfds, "_read", {})
    for before, after in zip(first, both()):
        np.testing.assert_array_equal(before, after)
    assert reads == [3, 20, 3, 20]


def test_labels_of_shards_that_changed_are_read_anew(tmp_path):
    shift = [0]
    kind = prepare(tmp_path, "Changing", label_of=lambda split, i: (i + shift[0]) % 2)
    options = {"split": "test", "path": "changing", "data_dir": str(tmp_path)}
    before = labels_of(tfds.make(**options))
    shutil.rmtree(tmp_path / "changing")
    shift[0] = 1
    kind(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    for shard in tmp_path.rglob("*array_record*"):
        os.utime(shard, (1e9, 1e9))
    np.testing.assert_array_equal(labels_of(tfds.make(**options)), 1 - before)


def test_a_cache_that_cannot_be_written_is_done_without(data_dir, cache):
    cache.parent.write_text("a file where the folder should be")
    assert len(labels_of(tfds.make(split="test", path="even_odd", data_dir=str(data_dir)))) == 3
