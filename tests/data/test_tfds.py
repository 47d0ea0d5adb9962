"""TensorFlow Datasets prepared as array_record are read; others are told apart."""

import io
import json
import pickle

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets

from mapjax.data import images, tfds
from mapjax.data.source import labels_of
from mapjax.errors import UserError

FEATURES = tensorflow_datasets.features
LENGTHS = {"train": 20, "test": 3}


def png(value):
    stream = io.BytesIO()
    PIL.Image.new("RGB", (5, 4), (value, value, value)).save(stream, "PNG")
    stream.seek(0)
    return stream


def prepare(folder, name, label=None, offset=0):
    """Write a data set; the picture says its number and split, the label is the number's remainder by 2."""
    label = label or FEATURES.ClassLabel(names=["even", "odd"])

    def info(self):
        features = {"image": FEATURES.Image(shape=(None, None, 3)), "label": label}
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=FEATURES.FeaturesDict(features))

    def generate(self, split):
        for i in range(LENGTHS[split]):
            # The key decides the order, and tfds shuffles by it.
            yield i, {"image": png(i + 100 * (split == "test")), "label": i % 2 + offset}

    members = {
        "VERSION": tensorflow_datasets.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, manager: {split: self._generate_examples(split) for split in LENGTHS},
        "_generate_examples": generate,
        "__module__": __name__,
    }
    kind = type(name, (tensorflow_datasets.core.GeneratorBasedBuilder,), members)
    kind(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(folder, "EvenOdd")
    prepare(folder, "Unlabelled", offset=-1)
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
            r"10 pictures of split 'train' have a label outside the list of 1 classes",
        ),
        ({"path": "unlabelled"}, "10 pictures of split 'train' have a label outside the list of 2 classes, such as -1"),
        ({"path": "amounts"}, "feature 'label' is .* and not one class for each picture"),
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
