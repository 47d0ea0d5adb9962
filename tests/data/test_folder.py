"""Folders and archives of images by class, whole and broken."""

import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import PIL.Image
import pytest

from mapjax.data import images, pipeline
from mapjax.data.checks import quality
from mapjax.data.formats import folder
from mapjax.data.prepared import prepare
from mapjax.data.source import labels_of
from mapjax.data.transforms import crops
from mapjax.errors import NoSuchSplit, UserError


def png(value):
    stream = io.BytesIO()
    PIL.Image.new("RGB", (5, 4), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def content(names):
    """Name → the bytes of an image of its own; of nothing for a folder or another file."""
    return {name: png(i) if name.lower().endswith(images.EXTENSIONS) else b"" for i, name in enumerate(names)}


def write_folder(root, files):
    for name, data in files.items():
        place = root / name
        (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            place.write_bytes(data)
    return str(root)


def write_zip(root, files, packing=zipfile.ZIP_STORED):
    path = root / f"images-{packing}.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def write_tar(root, files):
    path = root / "images.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size, info.type = len(data), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def write_deflated(root, files):
    return write_zip(root, files, zipfile.ZIP_DEFLATED)


WRITERS = [write_folder, write_zip, write_deflated, write_tar]
SPLIT = [
    "train/cat/a.png",
    "train/cat/b.png",
    "train/dog/old/c.PNG",
    "train/dog/d.jpg",
    "valid/dog/e.png",
    "test/cat/f.png",
]


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


def test_a_class_that_is_called_as_a_split_is(tmp_path):
    path = write_folder(tmp_path, content(["bus/a.png", "car/b.png", "train/c.png"]))
    with pytest.raises(UserError, match="the folders bus, car beside train, which is what a split is called"):
        folder.make(split="train", path=path)
    source = folder.make(split="train", path=path, classes="bus;car;train", hold_out=0)
    assert [record["file"] for record in source.records] == ["bus/a.png", "car/b.png", "train/c.png"]


@pytest.mark.parametrize("first", ["train", "val"])
def test_a_split_that_is_a_link_to_another_is_whole_and_told(tmp_path, first):
    real, link = ("train", "val") if first == "train" else ("val", "train")
    write_folder(tmp_path, content([f"{real}/cat/a.png", f"{real}/dog/b.png"]))
    os.symlink(real, tmp_path / link)
    sources = [folder.make(split=split, path=str(tmp_path)) for split in ("train", "val")]
    assert [[r["file"] for r in one.records] for one in sources] == [
        [f"{split}/cat/a.png", f"{split}/dog/b.png"] for split in ("train", "val")
    ]
    said = quality.overlap(*(quality.inspect(source, 0) for source in sources))
    assert said.startswith("2 of the 2 images of 'val' are in 'train' too")


def test_links_to_files_are_followed_for_the_overlap(tmp_path):
    write_folder(tmp_path / "data", content(SPLIT[:4]))
    os.makedirs(tmp_path / "data" / "val" / "cat")
    os.symlink("../../train/cat/a.png", tmp_path / "data" / "val" / "cat" / "z.png")
    os.symlink("nowhere", tmp_path / "data" / "val" / "nowhere")
    os.symlink("self", tmp_path / "data" / "val" / "self")
    os.symlink("data", tmp_path / "other")
    one, two = (quality.inspect(folder.make(split=s, path=str(tmp_path / "other")), 0) for s in ("train", "val"))
    assert quality.overlap(one, two).startswith("1 of the 1 images of 'val' are in 'train' too")


def test_links_in_an_archive_are_told_too(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        for number, name in enumerate(SPLIT[:4]):
            info = tarfile.TarInfo(name)
            info.size = len(png(number))
            packed.addfile(info, io.BytesIO(png(number)))
        info = tarfile.TarInfo("val")
        info.type, info.linkname = tarfile.SYMTYPE, "train"
        packed.addfile(info)
    one, two = (
        quality.inspect(folder.make(split=split, path=str(tmp_path / "x.tar")), 0) for split in ("train", "val")
    )
    assert quality.overlap(one, two).startswith("4 of the 4 images of 'val' are in 'train' too")


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


def test_links_that_multiply_are_refused(tmp_path):
    for one in range(8):
        (tmp_path / str(one)).mkdir()
        for other in range(8):
            os.symlink(f"../{other}", tmp_path / str(one) / f"to{other}")
    with pytest.raises(UserError, match="links lead to this folder more than 100 times"):
        folder.make(split="train", path=str(tmp_path))


def test_a_link_to_a_folder_is_followed_and_a_ring_ends(tmp_path):
    write_folder(tmp_path / "elsewhere", content(["a.png", "b.png"]))
    write_folder(tmp_path / "data", content(["cat/c.png"]))
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "dog")
    os.symlink(tmp_path / "data", tmp_path / "data" / "cat" / "ring")
    source = folder.make(split="train", path=str(tmp_path / "data"), hold_out=0)
    assert [record["file"] for record in source.records] == ["cat/c.png", "dog/a.png", "dog/b.png"]


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
