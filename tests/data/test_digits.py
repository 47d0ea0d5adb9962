"""The embedded digits: their division, their long tail, their wrong labels."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mapjax.data.formats import digits
from mapjax.data.source import labels_of
from mapjax.errors import UserError

TRUE = load_digits()


def rows(source):
    return np.array([int(source.records[i]["file"].rpartition("/")[2]) for i in range(len(source.records))])


def counts(**options):
    return np.bincount(labels_of(digits.make(split="train", **options)), minlength=10)


def test_the_images_are_scikit_learns():
    source = digits.make(split="val")
    record = source.records[5]
    assert record["image"].dtype == np.uint8 and record["image"].shape == (8, 8, 3)
    for index, row in enumerate(rows(source)[:20]):
        found = source.records[index]
        assert np.abs(found["image"][..., 1] / 255 * 16 - TRUE.images[row]).max() < 0.04
        assert found["label"] == TRUE.target[row] and found["label"].dtype == np.int32
        assert found["id"] == index and "size" not in found and "labels" not in found


def test_the_splits_divide_all_digits_by_class():
    train, val = (digits.make(split=split) for split in ("train", "val"))
    assert sorted([*rows(train), *rows(val)]) == list(range(1797))
    share = np.bincount(labels_of(val)) / np.bincount(TRUE.target)
    assert (np.abs(share - 0.2) < 0.01).all()
    np.testing.assert_array_equal(rows(val), rows(digits.make(split="val", seed=7, tail=50, noise=0.3)))
    assert len(digits.make(split="val", hold_out=0.5).records) > 880


def test_the_tail_follows_its_rule():
    whole, found = counts(), counts(tail=100)
    np.testing.assert_array_equal(found, np.maximum(np.rint(whole * 100.0 ** (-np.arange(10) / 9)), 1))
    assert found[0] == whole[0] and found[9] == 1
    train = digits.make(split="train")
    assert set(rows(digits.make(split="train", tail=10))) < set(rows(train))
    assert train.fingerprint != digits.make(split="train", tail=10).fingerprint


def test_noise_changes_an_exact_share_of_the_training_labels():
    clean, noisy = (digits.make(split="train", noise=noise) for noise in (0, 0.25))
    wrong = labels_of(clean) != labels_of(noisy)
    assert wrong.sum() == round(0.25 * len(wrong))
    assert len(np.unique(labels_of(noisy)[wrong])) == 10
    again, other = (digits.make(split="train", noise=0.25, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(labels_of(again), labels_of(noisy))
    assert (labels_of(other) != labels_of(noisy)).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "vall"}, r"no split 'vall'\. Did you mean 'val'"),
        ({"split": "train", "hold_out": 1}, "0 < hold_out < 1"),
        ({"split": "train", "tail": 0.5}, "tail >= 1"),
        ({"split": "train", "noise": 1.0}, "noise < 1"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(UserError, match=words):
        digits.make(**options)
