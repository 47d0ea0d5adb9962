"""VOC folders, whole and broken."""

import os
import pathlib
import re

import numpy as np
import PIL.Image
import pytest

from mapjax.data.formats import voc
from mapjax.errors import UserError


def obj(name="cat", box=(2, 3, 12, 13), **more):
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    extra = "".join(f"<{key}>{value}</{key}>" for key, value in more.items())
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


UNREADABLE = [obj(box=(0, 0, bad, 5)) for bad in ("x", "nan", "inf", "9" * 5000)]
UNREADABLE += ["<object><name>cat</name></object>", obj(name="")]


@pytest.fixture
def folder(tmp_path):
    """Write a data set: stem → objects; 20 wide and 16 high; lists: split → stems."""

    def write(annotations, lists=None, size=(20, 16)):
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for stem, objects in annotations.items():
            tag = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
            (tmp_path / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{tag}{''.join(objects)}</annotation>")
            PIL.Image.new("RGB", (20, 16)).save(tmp_path / "JPEGImages" / f"{stem}.png")
        for split, stems in (lists or {}).items():
            (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        return str(tmp_path)

    return write


def test_a_folder_is_read(folder):
    path = folder(
        {"a": [obj("dog"), obj("cat", (0, 0, 20, 16), difficult=1)], "b": [], "c d": [obj("ant")]},
        {"train": ["a", "c d"], "val": ["b.png"], "ant_train": ["a -1", "c 1"]},
    )
    train, val = voc.make(split="train", path=path), voc.make(split="val", path=path)
    assert train.classes == val.classes == ("ant", "cat", "dog") and train.category_ids == (1, 2, 3)
    record = train.records[0]
    np.testing.assert_array_equal(record["boxes"], [[2, 3, 12, 13], [0, 0, 20, 16]])
    np.testing.assert_array_equal(record["classes"], [2, 1])
    np.testing.assert_array_equal(record["crowd"], [False, True])
    np.testing.assert_array_equal(record["areas"], [100, 320])
    np.testing.assert_array_equal(record["size"], [16, 20])
    assert record["file"] == "JPEGImages/a.png" and record["image"].endswith("a.png")
    assert [r["file"] for r in train.records] == ["JPEGImages/a.png", "JPEGImages/c d.png"]
    assert val.records[0]["boxes"].shape == (0, 4) and not val.dropped
    assert train.fingerprint == voc.make(split="train", path=path).fingerprint != val.fingerprint


def test_names_spelled_otherwise_are_found(folder, tmp_path):
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    path = folder({nfc: [obj()], "IMG 1": [obj()], "b": [obj()]}, {"training": [nfd, "img%201.JPG", "B.xml 1", "b"]})
    (tmp_path / "JPEGImages" / f"{nfc}.png").rename(tmp_path / "JPEGImages" / f"{nfd}.png")
    (tmp_path / "JPEGImages" / "IMG 1.png").rename(tmp_path / "JPEGImages" / "Img 1.PNG")
    source = voc.make(split="train", path=path, hold_out=0)
    assert [r["file"] for r in source.records] == [f"JPEGImages/{n}" for n in (f"{nfd}.png", "Img 1.PNG", "b.png")]
    assert source.dropped == {"image listed twice": ["b"]}
    (tmp_path / "JPEGImages" / "b.png").rename(tmp_path / "JPEGImages" / os.fsdecode(b"\xb9\xb7.png"))
    (tmp_path / "Annotations" / "b.xml").rename(tmp_path / "Annotations" / os.fsdecode(b"\xb9\xb7.xml"))
    (tmp_path / "ImageSets" / "Main" / "training.txt").write_bytes(b"\xb9\xb7\r\n")
    source = voc.make(split="train", path=path, hold_out=0)
    assert [r["file"] for r in source.records] == [os.fsdecode(b"JPEGImages/\xb9\xb7.png")]


def test_what_is_broken_is_left_out_and_counted(folder, tmp_path):
    annotations = {
        "good": [
            obj(),
            obj(box=(5, 5, 5, 9)),
            obj(box=(9, 5, 5, 9)),
            obj(box=(20, 0, 30, 9)),
            obj(box=(-5, -5, 30, 9)),
        ],
        **{stem: [obj()] for stem in ("torn", "other", "imageless", "half")},
        **{f"bad{n}": [obj(), one] for n, one in enumerate(UNREADABLE)},
    }
    path = folder(annotations, {"train": [*annotations, "unlabelled"], "val": []})
    (tmp_path / "Annotations/torn.xml").write_text("<annotation><object>")
    (tmp_path / "Annotations/other.xml").write_text("<image><box/></image>")
    (tmp_path / "JPEGImages/imageless.png").unlink()
    (tmp_path / "JPEGImages/half.png").write_bytes(b"\x89PNG but no more")
    source = voc.make(split="train", path=path)
    assert len(source.records) == 1
    np.testing.assert_array_equal(source.records[0]["boxes"], [[2, 3, 12, 13], [0, 0, 20, 9]])
    assert {reason: len(where) for reason, where in source.dropped.items()} == {
        "empty box": 2,
        "box outside the image": 1,
        "image with an object without four finite corners": 5,
        "image with an object without a name": 1,
        "broken XML": 2,
        "missing image": 1,
        "unreadable image": 1,
        "missing annotation": 1,
    }
    assert source.dropped["empty box"] == ["good.xml #2", "good.xml #3"]
    assert source.dropped["broken XML"][0].startswith("torn.xml: ")
    assert source.dropped["image with an object without a name"] == ["bad5.xml #2"]
    assert source.noted == {"box clipped to the image": ["good.xml #5"]}


@pytest.mark.parametrize(
    ("written", "crowd"),
    [("0", False), ("1", True), ("True", True), ("no", False), ("", False), ("Unspecified", None), ("inf", None)],
)
def test_difficult_is_read_as_far_as_it_can_be(folder, written, crowd):
    source = voc.make(split="train", path=folder({"a": [obj(difficult=written, truncated="?")]}), hold_out=0)
    assert source.records[0]["crowd"].tolist() == [bool(crowd)] and not source.dropped
    noted = {"difficult that cannot be read, taken as 0": ["a.xml #1"]}
    assert source.noted == (noted if crowd is None else {})


def test_of_classes_not_asked_for_nothing_need_be_readable(folder):
    path = folder({"a": [obj(), obj("dog", ("x", 1, 2, 3))]})
    source = voc.make(split="train", path=path, classes=("cat",), hold_out=0)
    assert len(source.records) == 1 and source.dropped == {"class not asked for": ["a.xml #2"]}


def test_another_size_in_the_xml_is_noted(folder):
    for size, said in (((999, 998), 1), (("inf", 1), 0), (("nan", "x"), 0), ((0, 0), 0)):
        found = voc.make(split="train", path=folder({"a": [obj()]}, size=size), hold_out=0).noted
        assert len(found.get("image of another size than the XML says", [])) == said


def test_subfolders_and_lists_of_paths_are_found(folder, tmp_path):
    stems = {"a": "one/a", "b": "two/b", "c": "c"}
    path = folder({stem: [obj()] for stem in stems})
    for stem, place in stems.items():
        for file in (f"Annotations/{place}.xml", f"JPEGImages/{'deep/b' if stem == 'b' else place}.png"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file.split("/")[0] / f"{stem}.{file[-3:]}").rename(tmp_path / file)
    files = ["JPEGImages/c.png", "JPEGImages/deep/b.png", "JPEGImages/one/a.png"]
    for lines in (
        [],
        ["a", "b", "c"],
        ["one/a", "two/b.xml", "c.png"],
        ["/data/x/JPEGImages/one/a.png", "./JPEGImages/deep/b.png", "JPEGImages\\c.png"],
        ["JPEGImages/one/a.png Annotations/one/a.xml", "JPEGImages/deep/b.png 1", "c 0"],
    ):
        (tmp_path / "ImageSets/Main/train.txt").write_text("\n".join(lines))
        if not lines:
            (tmp_path / "ImageSets/Main/train.txt").unlink()
        source = voc.make(split="train", path=path, hold_out=0)
        assert sorted(record["file"] for record in source.records) == files and not source.dropped


def test_the_image_decides_its_size(folder):
    lying = folder({"a": [obj()]}, size=(999, 999))
    np.testing.assert_array_equal(voc.make(split="train", path=lying, hold_out=0).records[0]["size"], [16, 20])
    swapped = folder({"a": [obj()]}, size=(16, 20))
    np.testing.assert_array_equal(voc.make(split="train", path=swapped, hold_out=0).records[0]["size"], [16, 20])


def test_a_validation_split_is_held_out_where_there_is_none(folder):
    stems = [f"i{n}" for n in range(20)]
    path = folder({stem: [obj()] for stem in stems})
    files = {split: {r["file"] for r in voc.make(split=split, path=path, seed=3).records} for split in ("train", "val")}
    assert len(files["train"]) == 18 and len(files["val"]) == 2 and not files["train"] & files["val"]
    assert len(voc.make(split="train", path=path, hold_out=0).records) == 20


@pytest.mark.parametrize("there", ["annotations", "VOC2007/Annotations"])
def test_folders_that_may_be_meant_are_named(folder, tmp_path, there):
    path = pathlib.Path(folder({"a": [obj()]}))
    (path / there).parent.mkdir(exist_ok=True)
    (path / "Annotations").rename(path / there)
    meant = str(path / there.removesuffix("/Annotations"))
    with pytest.raises(UserError, match=re.escape(f"Annotations is not there (is {meant!r} meant?): ")):
        voc.make(split="train", path=str(path))


def test_a_class_of_which_nothing_can_be_read_is_no_background(folder):
    source = voc.make(split="train", path=folder({"a": [obj(), obj("dog", (0, 0, "x", 5))], "b": [obj()]}), hold_out=0)
    assert source.classes == ("cat",) and [record["file"] for record in source.records] == ["JPEGImages/b.png"]
    assert source.dropped == {"image with an object without four finite corners": ["a.xml #2"]}


def test_classes_can_be_given(folder):
    path = folder({"a": [obj("dog"), obj("cat"), obj("ant")]})
    source = voc.make(split="train", path=path, classes=("dog", "ant"), hold_out=0)
    assert source.classes == ("dog", "ant")
    np.testing.assert_array_equal(source.records[0]["classes"], [0, 1])
    assert source.dropped == {"class not asked for": ["a.xml #2"]}


def test_what_is_not_there_is_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere is not there"):
        voc.make(split="train", path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="Annotations is not there"):
        voc.make(split="train", path=str(tmp_path))
    path = folder({"a": [obj()]}, {"train": ["a"], "val": ["a"]})
    with pytest.raises(UserError, match=r"no split 'test'; there is: train, val\."):
        voc.make(split="test", path=path)
