"""Folders and archives of images by class, whole and broken."""

import os

import numpy as np
import pytest
from folder_sets import SPLIT, WRITERS, content, png, write_folder, write_zip

from mapjax.data import images, pipeline
from mapjax.data.checks import quality
from mapjax.data.formats import folder
from mapjax.data.source import labels_of
from mapjax.data.transforms import crops
from mapjax.errors import NoSuchSplit, UserError


@pytest.mark.parametrize("write", WRITERS)
def test_folders_of_classes_are_divided_by_class(tmp_path, write):
    names = [f"{name}/{i}.png" for name, count in (("2", 20), ("10", 10), ("1", 1)) for i in range(count)]
    path = write(tmp_path, content(names))
    parts = {split: folder.make(split=split, path=path, seed=3) for split in ("train", "val")}
    assert parts["train"].classes == ("1", "2", "10")
    np.testing.assert_array_equal(np.bincount(labels_of(parts["train"])), [1, 18, 9])
    np.testing.assert_array_equal(np.bincount(labels_of(parts["val"])), [0, 2, 1])
    files = {split: {record["file"] for record in source.records} for split, source in parts.items()}
    assert files["train"] | files["val"] == set(names) and not files["train"] & files["val"]
    whole = folder.make(split="train", path=path, hold_out=0)
    assert len(whole.records) == 31
    with pytest.raises(NoSuchSplit, match="no split 'test'; there is: train"):
        folder.make(split="test", path=path)


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_no_image_of_a_class_is_counted(tmp_path, write):
    extra = ["train/loose.png", "train/cat/notes.txt", "train/ant/", "train/bee/only.txt", "README.md"]
    source = folder.make(split="train", path=write(tmp_path, content([*SPLIT, *extra])))
    assert source.classes == ("cat", "dog")
    assert source.dropped == {
        "empty class folder": ["train/ant", "train/bee"],
        "image outside a class folder": ["train/loose.png"],
        "not an image file": ["train/bee/only.txt", "train/cat/notes.txt"],
    }
    summary = quality.inspect(source, 0)
    assert summary.dropped["empty class folder"] == (2, "train/ant")
    quality.require_trainable(source, summary)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("names", "train", "others"),
    [
        ([*"abcd"], 4, ["README.md"]),
        (["a", "one/b", "one/two/c"], 3, []),
        (["train/a", "train/x/b", "unlabelled/c", "unlabelled/y/d"], 2, ["train/notes.txt"]),
        (["around/train/a", "around/val/b"], 1, []),
    ],
)
def test_a_task_without_labels_takes_any_folder(tmp_path, write, names, train, others):
    files = content([*(f"{name}.png" for name in names), *others])
    source = folder.make(split="train", path=write(tmp_path, files), hold_out=0, needs="")
    assert (
        source.classes == () and len(source.records) == train and source.dropped.get("not an image file", []) == others
    )
    for record in source.records:
        assert record.keys() == {"id", "file", "image"}
        assert (
            images.read(record["image"]) == [*files].index(next(f for f in files if f.endswith(record["file"])))
        ).all()
    summary = quality.inspect(source, 0)
    quality.require_trainable(source, summary)
    assert summary.images == train and quality.class_counts(source).tolist() == []
    with pytest.raises(NoSuchSplit, match="no split 'more'; there is: "):
        folder.make(split="more", path=str(tmp_path) if write is write_folder else write(tmp_path, files), needs="")


def test_images_without_labels_are_held_out_too(tmp_path):
    path = write_folder(tmp_path, content([f"{n}.png" for n in range(10)]))
    train, val = (folder.make(split=split, path=path, hold_out=0.3, needs="") for split in ("train", "val"))
    files = [[record["file"] for record in one.records] for one in (train, val)]
    assert sorted(files[0] + files[1]) == [f"{n}.png" for n in range(10)] and len(files[1]) == 3
    batch = next(pipeline.train_batches(train, crops.make(size=(4, 4)), batch=2, seed=0))
    assert set(batch) == {"image", "matrix", "size", "index", "mask"}
    assert train.fingerprint != val.fingerprint


def test_classes_give_the_order(tmp_path):
    path = write_folder(tmp_path, content(SPLIT))
    for given in (("dog", "cat"), "dog;cat", "dog|cat"):
        source = folder.make(split="train", path=path, classes=given)
        assert source.classes == ("dog", "cat")
        np.testing.assert_array_equal(labels_of(source), [1, 1, 0, 0])


def test_folders_that_cannot_be_read_are_counted(tmp_path, monkeypatch):
    path = write_folder(tmp_path, content(["cat/a.png", "dog/b.png", "lost+found/c.png"]))
    scan = os.scandir

    def closed(place):
        if "lost+found" in place:
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    source = folder.make(split="train", path=path, hold_out=0)
    assert source.classes == ("cat", "dog")
    assert source.dropped == {"empty class folder": ["lost+found"], "folder that cannot be read": ["lost+found/"]}


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ([*SPLIT, "valid/bird/x.png"], {"split": "val"}, "class 'bird' of split 'valid' has no images to train on"),
        (
            [*SPLIT, "train/bird/", "valid/bird/x.png"],
            {"split": "val"},
            "class 'bird' of split 'valid' has no images",
        ),
        (SPLIT, {"classes": ("cat", "dgo")}, r"label 'dog', which is not in classes.*Did you mean 'dgo'"),
        (SPLIT, {"classes": ("cat", "dog", "ant")}, "no images of the class 'ant' in its training split"),
        (SPLIT, {"classes": ("cat", "cat", "dog")}, "'cat' is there twice"),
        (SPLIT, {"hold_out": 1}, "hold_out=1 must be a share"),
        (SPLIT, {"split": "extra"}, "no split 'extra'; there is: test, train, valid"),
        (
            ["train/a.png", "test/b.png"],
            {},
            r"images in test, train but no class folders there; it needs DIR/train/CLASS",
        ),
        (["a.png", "b.png"], {}, "has no images in class folders; it needs DIR/train/CLASS"),
        (
            ["cat/a.png", "dog/b.png", "test/c.png"],
            {},
            "folders cat, dog beside test, which is what a split is",
        ),
        (["cat/a.png", "dog/b.png", "test/cat/c.png"], {}, "folders cat, dog beside test.*move the others into train/"),
        (
            [*SPLIT[:4], "val/e.png"],
            {"split": "val"},
            r"images in val but no class folders there \(val/e.png\); sort",
        ),
        ([*SPLIT[:4], "val/e.png"], {}, r"images in val but no class folders.*a share of train to be held out instead"),
        ([*SPLIT[:5], "test/f.png"], {"split": "test"}, "images in test but no class folders there"),
        ([*SPLIT[:4], "val/images/e.png"], {}, r"images in val but no class folders there \(val/images/e.png\)"),
        (
            ["train_a/1.png", "train_b/2.png", "test_a/3.png", "test_b/4.png"],
            {},
            "which name a split and a class at once",
        ),
        (
            ["trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png"],
            {},
            "trainB, which name a split and a class at once",
        ),
        (["1_train/cat/1.png", "2_train/cat/2.png", "3_val/cat/3.png"], {}, "name a split and a class at once"),
        (["a/train/good/1.png", "b/train/good/2.png"], {}, "folders of splits in several places, a/, b/; name one"),
        (
            ["cat/train/1.png", "dog/test/2.png"],
            {},
            "splits within those of classes, cat/train, dog/test; it",
        ),
        (["cat/notes.txt", "dog/"], {}, "has no images in class folders"),
        (["README.md"], {}, "has no images in class folders"),
    ],
)
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_mistakes(tmp_path, write, names, options, words):
    path = write(tmp_path, content(names))
    with pytest.raises(UserError, match=words):
        folder.make(**{"split": "train", "path": path} | options)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not there: --data folder:PATH"):
        folder.make(split="train", path=str(tmp_path / "nowhere"))


def test_one_class_only_cannot_train(tmp_path):
    source = folder.make(split="train", path=write_folder(tmp_path, content(["cat/a.png", "cat/b.png"])), hold_out=0)
    with pytest.raises(UserError, match="has one class only, 'cat', so there is nothing to tell apart"):
        quality.require_trainable(source, quality.inspect(source, 0))


def test_a_image_that_cannot_be_read_is_told_when_it_is_decoded(tmp_path):
    files = content(SPLIT) | {SPLIT[0]: png(0)[:40]}
    for write in WRITERS:
        source = folder.make(
            split="train", path=write(tmp_path / write.__name__ if write is write_folder else tmp_path, files)
        )
        with pytest.raises(UserError, match=r"cannot|cut short|can be read"):
            images.read(source.records[0]["image"])
