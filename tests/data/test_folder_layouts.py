"""Which folders are splits and which are classes, in the layouts in use."""

import os
import pickle

import numpy as np
import pytest
from folder_sets import SPLIT, WRITERS, content, png, write_folder, write_zip

from mapjax.data import images
from mapjax.data.formats import folder
from mapjax.data.prepared import prepare
from mapjax.data.source import labels_of
from mapjax.errors import NoSuchSplit, UserError


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("around", ["", "photos/", "./one/two/"])
def test_folders_of_splits(tmp_path, write, around):
    files = {around + name: data for name, data in content(SPLIT).items()}
    if around:
        files["__MACOSX/._x.png"] = files[".hidden/y.png"] = files[f"{around}train/cat/.z.png"] = png(99)
    if write is write_folder:
        files.pop("__MACOSX/._x.png", None)
    path = write(tmp_path, files)
    train, val, test = (folder.make(split=split, path=path) for split in ("train", "val", "test"))
    assert train.classes == val.classes == test.classes == ("cat", "dog")
    assert [record["file"] for record in train.records] == sorted(SPLIT[:4])
    np.testing.assert_array_equal(labels_of(train), [0, 0, 1, 1])
    assert [(r["file"], int(r["label"])) for r in (*val.records, *test.records)] == [(SPLIT[4], 1), (SPLIT[5], 0)]
    for record in pickle.loads(pickle.dumps(train)).records:  # noqa: S301
        assert (images.read(record["image"]) == SPLIT.index(record["file"])).all()
    assert (
        len({train.fingerprint, val.fingerprint, test.fingerprint, folder.make(split="train", path=path).fingerprint})
        == 3
    )
    assert not train.dropped


@pytest.mark.parametrize("write", WRITERS)
def test_splits_in_capitals(tmp_path, write):
    names = ["Train/cat/a.png", "Train/dog/b.png", "Test/cat/c.png"]
    path = write(tmp_path, content(names))
    train, test = (folder.make(split=split, path=path, hold_out=0) for split in ("train", "test"))
    assert train.classes == test.classes == ("cat", "dog")
    assert [r["file"] for r in train.records] == names[:2] and [r["file"] for r in test.records] == names[2:]


SPELLED = [
    ("training_set", "validation_set", "test_set"),
    ("Train", "Val", "Test"),
    ("train_images", "val_images", "test_images"),
    ("training", "dev", "testing"),
    ("images-train", "eval", "test1"),
]


@pytest.mark.parametrize("write", [write_folder, write_zip])
@pytest.mark.parametrize("spelled", SPELLED)
@pytest.mark.parametrize("around", ["", "dataset/", "a/b/"])
def test_splits_in_many_spellings(tmp_path, write, spelled, around):
    names = [f"{split}/{label}/{n}.png" for split in spelled for label in ("cat", "dog") for n in range(2)]
    beside = ["paper/figure.png", "labels/x.txt"] if around else []
    path = write(tmp_path, content([*(around + name for name in names), *beside]))
    for split, folder_name in zip(("train", "val", "test"), spelled):
        source = folder.make(split=split, path=path)
        assert source.classes == ("cat", "dog") and len(source.records) == 4
        assert all(record["file"].startswith(f"{folder_name}/") for record in source.records)
        assert source.dropped == ({"image outside the folders of splits": beside[:1]} if around else {})
    unlabelled = folder.make(split="train", path=path, needs="")
    assert len(unlabelled.records) == 4


LAYOUTS = {  # as data sets are found on the web: names of the images, and the first of train and of test
    "intel": (
        ["seg_train/seg_train/a/1.jpg", "seg_train/seg_train/b/2.jpg", "seg_test/seg_test/a/3.jpg"],
        ["seg_pred/seg_pred/4.jpg"],
    ),
    "twice": (["train/train/a/1.jpg", "train/train/b/2.jpg", "test/test/a/3.jpg"], []),
    "affix": (["flowers-Train/a/1.jpg", "flowers-Train/b/2.jpg", "flowers-Test/a/3.jpg"], []),
    "deep": (
        ["ILSVRC/Data/CLS-LOC/train/a/1.jpg", "ILSVRC/Data/CLS-LOC/train/b/2.jpg", "ILSVRC/Data/CLS-LOC/test/a/3.jpg"],
        ["ILSVRC/Data/CLS-LOC/val/4.jpg"],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_in_use(tmp_path, layout):
    names, beside = LAYOUTS[layout]
    path = write_folder(tmp_path, content([*names, *beside, "ILSVRC/Annotations/train/a.xml"]))
    train, test = (folder.make(split=split, path=path, hold_out=0) for split in ("train", "test"))
    assert train.classes == test.classes == ("a", "b")
    assert [r["image"].removeprefix(f"{path}/") for r in (*train.records, *test.records)] == names
    assert len(train.dropped.get("image outside the folders of splits", [])) == len(beside)
    assert len(folder.make(split="test", path=path, needs="").records) == 1


def test_files_beside_the_folder_around_everything_do_not_hide_it(tmp_path):
    path = write_folder(tmp_path, content(["food/images/a/1.jpg", "food/images/b/2.jpg", "food/meta/train.txt"]))
    assert folder.make(split="train", path=path, hold_out=0).classes == ("a", "b")


def test_another_folder_of_the_same_split_is_counted(tmp_path):
    path = write_folder(tmp_path, content([*SPLIT, "validation/cat/g.png", "val/cat/h.png", "val/dog/i.png"]))
    source = folder.make(split="val", path=path)
    assert [record["file"] for record in source.records] == ["val/cat/h.png", "val/dog/i.png"]
    assert source.dropped == {"image in another folder of this split": ["valid/dog/e.png", "validation/cat/g.png"]}


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_beside_the_folder_around_everything(tmp_path, write):
    beside = ["LICENSE", "README.md", "photos/about.txt"]
    path = write(tmp_path, content([*beside, *(f"photos/all/{name}" for name in SPLIT)]))
    train, test = (folder.make(split=split, path=path) for split in ("train", "test"))
    assert train.classes == ("cat", "dog") and [r["file"] for r in train.records] == sorted(SPLIT[:4])
    assert (images.read(test.records[0]["image"]) == len(beside) + SPLIT.index(SPLIT[5])).all()
    place = tmp_path / "two" if write is write_folder else tmp_path
    two = write(place, content(["a/LICENSE", "cat/a.png", "dog/b.png"]))
    assert folder.make(split="train", path=two, hold_out=0).classes == ("cat", "dog")


def test_a_class_that_is_called_as_a_split_is(tmp_path):
    path = write_folder(tmp_path, content(["bus/a.png", "car/b.png", "train/c.png"]))
    with pytest.raises(UserError, match="the folders bus, car beside train, which is what a split is called"):
        folder.make(split="train", path=path)
    source = folder.make(split="train", path=path, classes="bus;car;train", hold_out=0)
    assert [record["file"] for record in source.records] == ["bus/a.png", "car/b.png", "train/c.png"]


def test_a_split_without_class_folders_stops_only_those_who_need_it(tmp_path):
    path = write_folder(tmp_path, content([*SPLIT[:4], "val/e.png", "test/f.png"]))
    source = folder.make(split="train", path=path, hold_out=0)
    assert len(source.records) == 4
    assert source.dropped == {"image outside the folders of splits": ["test/f.png", "val/e.png"]}
    assert [r["file"] for r in folder.make(split="val", path=path, needs="").records] == ["val/e.png"]
    for asked, found in ((["train", "test"], None), ([], None), (["train"], ["train"])):
        if found:
            assert [*prepare.open_splits({"name": "folder", "path": path}, asked)] == found
        else:  # of "train" a share would be held out, or a test asked for is none
            with pytest.raises(NoSuchSplit, match="but no class folders there"):
                prepare.open_splits({"name": "folder", "path": path}, asked)
    os.rename(tmp_path / "val", tmp_path.with_name("elsewhere"))
    assert [*prepare.open_splits({"name": "folder", "path": path}, [])] == ["train", "val"]


@pytest.mark.parametrize(
    ("training", "validation"),
    [("01_train", "02_val"), ("train", "validate"), ("train/images", "val/images"), ("1. Train", "2. Dev")],
)
def test_folders_of_splits_with_more_to_their_names(tmp_path, training, validation):
    files = [f"{place}/{name}/1.png" for place in (training, validation) for name in ("cat", "dog")]
    path = write_folder(tmp_path, content([*files, "more/cat/1.png"] if training == "train" else files))
    for split, place in (("train", training), ("val", validation)):
        source = folder.make(split=split, path=path)
        assert source.classes == ("cat", "dog")
        assert [record["file"] for record in source.records] == [f"{place}/cat/1.png", f"{place}/dog/1.png"]
        if training == "train":
            assert source.dropped == {"image outside the folders of splits": ["more/cat/1.png"]}
