"""The masks of VOC folders: indexed, in colours or of other classes."""

import numpy as np
import PIL.Image
import pytest

from mapjax.data.formats import voc, voc_segmentation
from mapjax.data.source import largest_size
from mapjax.errors import UserError
from mapjax.stages import VOID

IDS = np.array([[0, 15, 255], [20, 1, 0]], np.uint8)
COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}  # of the devkit


def indexed(ids, colours=COLOURS):
    image = PIL.Image.fromarray(ids).convert("P")
    image.putpalette([value for number in range(256) for value in colours.get(number, (1, 2, 3))])
    return image


def in_colours(ids):
    return PIL.Image.fromarray(np.array([COLOURS[number] for number in ids.ravel()], np.uint8).reshape(2, 3, 3))


@pytest.fixture
def folder(tmp_path):
    """Write a data set: stem → mask; lists: split → stems."""

    def write(given, lists=None, **texts):
        for name in ("SegmentationClass", "JPEGImages", "ImageSets/Segmentation"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for stem, mask in given.items():
            mask.save(tmp_path / "SegmentationClass" / f"{stem}.png")
            PIL.Image.new("RGB", mask.size).save(tmp_path / "JPEGImages" / f"{stem}.jpg")
        for split, stems in (lists or {}).items():
            (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for name, text in texts.items():
            (tmp_path / f"{name}.txt").write_text(text)
        return str(tmp_path)

    return write


def make(path, split="train", **more):
    return voc.make(split=split, path=path, needs="label_map", **{"hold_out": 0, **more})


def test_masks_are_read_in_every_form(folder):
    path = folder({"a": indexed(IDS), "b": in_colours(IDS), "c": PIL.Image.fromarray(IDS)}, {"train": "abc"})
    source = make(path)
    assert len(source.classes) == 21 and source.classes[15] == "person" and source.category_ids == tuple(range(21))
    assert source.name == f"voc:{path}" and largest_size(source) == (2, 3) and source.dropped == {}
    for record in source.records:
        np.testing.assert_array_equal(record["label_map"], IDS)
        assert record.keys() == {"id", "file", "image", "size", "label_map"}
    assert make(path, void="person").classes == (*source.classes[:15], *source.classes[16:])
    assert source.records[1]["file"] == "JPEGImages/b.jpg"


def test_the_palette_is_that_of_the_devkit():
    colours = {name: values for name, *values in voc_segmentation.palette()}
    assert len(colours) == 22
    for number, values in COLOURS.items():
        assert colours[(*voc_segmentation.CLASSES, "void")[min(number, 21)]] == list(values)


def test_splits_are_lists_or_held_out(folder):
    path = folder({stem: indexed(IDS) for stem in "abcd"}, {"train": "abx", "val": "c"})
    assert [r["file"][-5] for r in make(path).records] == ["a", "b"]
    assert make(path).dropped == {"missing image": ["x"]} and len(make(path, "val").records) == 1
    with pytest.raises(UserError, match=r"no split 'test'; there is: train, val\."):
        make(path, "test")


def test_without_lists_all_masks_are_train(folder):
    path = folder({stem: indexed(IDS) for stem in "abcd"})
    assert len(make(path).records) == 4
    assert len(make(path, "val", hold_out=0.5).records) == len(make(path, hold_out=0.5).records) == 2


def test_an_export_of_cvat_is_read(folder):
    listed = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\nvoid:224,224,192::\n"
    path = folder(
        {"a": in_colours(np.where(IDS == 1, 1, np.where(IDS == 255, 255, 0)))}, {"default": "a"}, labelmap=listed
    )
    source = make(path)
    assert source.classes == ("background", "cat")
    np.testing.assert_array_equal(source.records[0]["label_map"], [[0, 0, VOID], [0, 1, 0]])


def test_other_classes_are_listed(folder):
    path = folder({"a": indexed(np.minimum(IDS, 1))}, classes="ground\ncat\n")
    assert make(path).classes == ("ground", "cat") and make(path, classes=("cat",)).classes == ("cat",)
    np.testing.assert_array_equal(make(path).records[0]["label_map"], np.minimum(IDS, 1))


def test_what_is_wrong_with_masks_of_voc_is_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="SegmentationClass is not there: to learn label maps, --data voc:DIR needs"):
        make(str(tmp_path))
    path = folder({})
    with pytest.raises(UserError, match=r"SegmentationClass has no \.png files; put the masks there"):
        make(path)
    source = make(folder({"a": indexed(IDS, {}), "b": PIL.Image.fromarray(IDS + 21)}))
    with pytest.raises(UserError, match=r"a\.png has the colour \(1, 2, 3\) .* list of Pascal VOC \(palette\.txt"):
        source.records[0]
    with pytest.raises(UserError, match=r"b\.png has the id 21 .* names the ids 0 to 20 only"):
        source.records[1]
