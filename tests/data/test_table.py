"""Tables of images and labels, whole and broken."""

import os

import numpy as np
import PIL.Image
import pytest

from mapjax.data import images
from mapjax.data.checks import quality
from mapjax.data.formats import table
from mapjax.data.source import labels_of
from mapjax.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Write a table of the lines given, and twelve images p/0.png … beside it."""
    (tmp_path / "p").mkdir()
    for i in range(12):
        PIL.Image.new("RGB", (3, 2), (i, i, i)).save(tmp_path / "p" / f"{i}.png")

    def lines(*lines, encoding="utf-8"):
        (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
        return str(tmp_path / "labels.csv")

    return lines


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_one_label_each(write, separator, encoding):
    rows = [
        ("Label", "path", "Split", "note"),
        ("dog", "p/0.png", "train", "x"),
        ('"hot, dog"', "p/1.png", "train", ""),
        ("dog", "p/2.png", "valid", ""),
    ]
    path = write(*map(separator.join, rows), encoding=encoding)
    train, val = (table.make(split=split, path=path) for split in ("train", "val"))
    assert train.classes == val.classes == ("dog", "hot, dog")
    np.testing.assert_array_equal(labels_of(train), [0, 1])
    assert [(r["file"], int(r["label"])) for r in val.records] == [("p/2.png", 0)]
    assert (images.read(train.records[1]["image"]) == 1).all()
    assert not train.dropped and train.fingerprint != val.fingerprint


@pytest.mark.parametrize("mark", [";", "|", " "])
def test_several_labels(write, mark):
    path = write("path,labels", f"p/0.png,sea{mark}sand", "p/1.png,", "p/2.png,sun", f"p/3.png, sand {mark} sea ")
    source = table.make(split="train", path=path, hold_out=0)
    assert source.classes == ("sand", "sea", "sun")
    np.testing.assert_array_equal(labels_of(source), [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 0]])
    record = source.records[0]
    assert record["labels"].dtype == bool and "label" not in record
    summary = quality.inspect(source, 0)
    assert (summary.labels, summary.without_label, summary.per_class["sea"]) == (5, 1, 2)
    quality.require_trainable(source, summary)


def test_a_class_of_two_words_may_stand_beside_separators(write):
    path = write("path,labels", "p/0.png,deep sea;sand", "p/1.png,deep sea")
    assert table.make(split="train", path=path, hold_out=0).classes == ("deep sea", "sand")


def test_without_splits_a_part_is_held_out(write):
    path = write("path,label", *(f"p/{i}.png,{i % 3 + 8}" for i in range(12)))
    train, val = (table.make(split=split, path=path, hold_out=0.25) for split in ("train", "val"))
    assert train.classes == val.classes == ("8", "9", "10")
    np.testing.assert_array_equal(np.bincount(labels_of(train)), [3, 3, 3])
    np.testing.assert_array_equal(np.bincount(labels_of(val)), [1, 1, 1])
    assert not quality.overlap(quality.inspect(train, 0), quality.inspect(val, 0))


def test_of_several_labels_each_class_is_kept_for_training(write):
    path = write("path,labels", *(f"p/{i}.png,c{i} all" for i in range(12)))
    train, val = (table.make(split=split, path=path, hold_out=0.5) for split in ("train", "val"))
    assert labels_of(train).any(0).all() and len(train.records) + len(val.records) == 12
    path = write("path,labels", *(f"p/{i}.png,c{i % 2} all" for i in range(12)))
    assert len(table.make(split="val", path=path, hold_out=0.5).records) == 6


def test_lines_that_cannot_be_used_are_counted(write):
    path = write(
        "path,label,split", "p/0.png,a,train", "", "p/1.png,,train", ",a,train", "p/2.png,a,", "p/3.png,a",
        "p/0.png,b,train", "p/no.png,b,train", "no/1.png,b,train", "p/4.png,b,train",
    )  # fmt: skip
    source = table.make(split="train", path=path, hold_out=0)
    assert [record["file"] for record in source.records] == ["p/0.png", "p/4.png"]
    assert source.dropped == {
        "line without a label": ["line 4"],
        "line without a path": ["line 5"],
        "line without a split": ["line 6"],
        "line of another length": ["line 7"],
        "image listed before with another label": ["p/0.png (line 8)"],
        "missing image": ["p/no.png", "no/1.png"],
    }


def test_paths_spelled_as_elsewhere_are_found(write, tmp_path):
    (tmp_path / "p" / "10.png").rename(tmp_path / "p" / "Cafe\u0301 1.PNG")
    given = ["p\\0.png", "./p//1.PNG", "P/2.png", "p/3", "p/Caf\u00e9%201.png", "p/0.png", "p/5.jpg"]
    source = table.make(split="train", path=write("path,label", *(f"{one},ab" for one in given)), hold_out=0)
    found = ["p/0.png", "p/1.png", "p/2.png", "p/3.png", "p/Cafe\u0301 1.PNG", "p/5.png"]
    assert [record["file"] for record in source.records] == found
    assert [int(images.read(record["image"])[0, 0, 0]) for record in source.records] == [0, 1, 2, 3, 10, 5]
    assert source.dropped == {"image listed twice": ["p/0.png (line 7)"]}


def test_one_image_spelled_in_two_ways_is_one(write):
    lines = [f"p/{path}{i}.png,{i % 2}" for i in range(4) for path in ("", "./", "../p/")]
    source = table.make(split="train", path=write("path,label", *lines), hold_out=0)
    assert len(source.records) == 4 and len(source.dropped["image listed twice"]) == 8


def test_several_lines_of_an_image_are_told(write):
    path = write("path,label", *(f"p/{i}.png,{name}" for i in range(4) for name in "ab"))
    with pytest.raises(UserError, match=r"4 × image listed before with another label, such as p/0.png \(line 3\); sev"):
        table.make(split="train", path=path)


def test_links_are_told(write, tmp_path):
    (tmp_path / "other").symlink_to("p")
    (tmp_path / "p" / "l.png").symlink_to("1.png")
    lines = ["p/0.png,a,train", "p/1.png,b,train", "p/l.png,b,train", "other/0.png,a,val", "p/2.png,b,val"]
    path = write("path,label,split", *lines)
    train, val = (quality.inspect(table.make(split=split, path=path), 0) for split in ("train", "val"))
    assert quality.overlap(train, val).startswith("1 of the 2 images of 'val' are in 'train' too")
    assert train.noted == {"image file listed before": (1, "p/l.png")} and not val.noted


def test_bytes_of_names_that_are_no_text_are_found(write, tmp_path):
    raw = b"\xb9\xb7\\.png"
    (tmp_path / "p" / os.fsdecode(raw)).write_bytes((tmp_path / "p" / "0.png").read_bytes())
    write("")
    (tmp_path / "labels.csv").write_bytes(b"path,label\rp/" + raw + b",\xb9\xb7\r\np/1.png,a\n")
    source = table.make(split="train", path=str(tmp_path / "labels.csv"), hold_out=0)
    assert source.classes == ("a", os.fsdecode(b"\xb9\xb7"))
    assert [record["file"] for record in source.records] == [os.fsdecode(b"p/" + raw), "p/1.png"]


def test_the_nearest_name_is_shown_for_the_first_that_is_not_there(write):
    source = table.make(split="train", path=write("path,label", "x/p/7.png,a", "p/0.png,a", "no,a"), hold_out=0)
    assert source.dropped == {"missing image": ["x/p/7.png (is 'p/7.png' meant?)", "no"]}


def test_splits_that_differ_in_capitals_are_one(write):
    path = write("path,label,split", "p/0.png,a,train", "p/1.png,b,Train", "p/2.png,a,TEST", "p/3.png,b,test")
    assert [len(table.make(split=s, path=path, hold_out=0).records) for s in ("train", "test")] == [2, 2]


def test_an_image_in_two_splits_is_told(write):
    path = write("path,label,split", "p/0.png,a,train", "p/1.png,b,train", "p/0.png,a,val")
    one, other = (quality.inspect(table.make(split=split, path=path), 0) for split in ("train", "val"))
    assert quality.overlap(one, other).startswith("1 of the 1 images of 'val' are in 'train' too")


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        (["file,class", "p/0.png,a"], {}, "first line must name the columns path and label .* found file, class"),
        ([""], {}, "first line must name the columns .* found nothing"),
        (["p/0.png,a", "p/1.png,b"], {}, "first line must name"),
        (["path,label", "p/0.png,a", "p/1.png,cta"], {"classes": ("a", "cat")}, r"label 'cta'.*Did you mean 'cat'"),
        (["path,label", "p/0.png,a"], {"classes": ("a", "b")}, "no images of the class 'b'"),
        (
            ["path,label,split", "p/0.png,a,train", "p/1.png,b,val"],
            {"split": "val"},
            "class 'b' of split 'val' has no images to train on",
        ),
        (["path,label,split", "p/0.png,a,train"], {"split": "test"}, "no split 'test'; there is: train"),
    ],
)
def test_mistakes(write, lines, options, words):
    with pytest.raises(UserError, match=words):
        table.make(**{"split": "train", "path": write(*lines), "hold_out": 0} | options)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(UserError, match="there is no such table"):
        table.make(split="train", path=str(tmp_path / "nowhere.csv"))
    with pytest.raises(UserError, match="cannot be read"):
        table.make(split="train", path=str(tmp_path))
    for data in (b"path,label\np/\xff\xfe.png,a\n", b"path,label\na.png,caf\xe9\n", "path,label\n".encode("utf-16")):
        (tmp_path / "x.csv").write_bytes(data)
        with pytest.raises(UserError, match="not text in UTF-8"):
            table.make(split="train", path=str(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["path,label"], "has no images"),
        (["path,label", "p/none.png,a"], "has no images; check.*1 × missing image"),
        (["path,label", "p/0.png,a", "p/1.png,a"], "one class only, 'a'"),
        (["path,labels", "p/0.png,", "p/1.png,"], "has no classes"),
    ],
)
def test_what_cannot_train_is_stopped(write, lines, words):
    source = table.make(split="train", path=write(*lines), hold_out=0)
    with pytest.raises(UserError, match=words):
        quality.require_trainable(source, quality.inspect(source, 0))
