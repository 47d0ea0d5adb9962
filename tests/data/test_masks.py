"""Folders of images and masks, whole and broken."""

import pickle

import numpy as np
import PIL.Image
import pytest

from mapjax.data.formats import masks
from mapjax.data.source import kind_of, label_map_of, largest_size, name_of, truth_of
from mapjax.errors import UserError
from mapjax.stages import VOID

IDS = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Write a data set: "train/a" → its mask, an array or an image; images of the same size unless one is given."""

    def write(given, classes="sky\nroad\ncar\n", palette=None, images=()):
        for name, mask in given.items():
            image = PIL.Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
            for kind in ("images", "masks"):
                (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            if image is not None:
                image.save(tmp_path / "masks" / f"{name}.png")
            size = dict(images).get(name, (3, 2) if image is None else image.size)
            PIL.Image.new("RGB", size).save(tmp_path / "images" / f"{name}.jpg")
        for name, text in (("classes", classes), ("palette", palette)):
            if text is not None:
                (tmp_path / f"{name}.txt").write_text(text)
        return str(tmp_path)

    return write


def make(path, split="train", **more):
    return masks.make(split=split, path=path, **{"hold_out": 0, **more})


def test_a_folder_is_read_from_headers_and_masks_alone(folder):
    path = folder({"train/b": IDS, "train/a": IDS[:, :2], "val/c": IDS})
    source = make(path)
    assert source.classes == ("sky", "road", "car") and source.category_ids == (0, 1, 2) and source.dropped == {}
    assert len(source.records) == 2 and kind_of(source) == "label_map"
    record = source.records[1]
    assert record.keys() == {"id", "file", "image", "size", "label_map"}
    assert (record["id"], record["file"]) == (1, "images/train/b.jpg") == (1, name_of(source, 1))
    assert record["image"] == f"{path}/images/train/b.jpg" and record["size"].tolist() == [2, 3]
    np.testing.assert_array_equal(record["label_map"], IDS)
    assert record["label_map"].dtype == np.uint8 and record["size"].dtype == np.int32
    assert "label_map" not in truth_of(source, 1) and largest_size(source) == (2, 3)
    np.testing.assert_array_equal(label_map_of(source, -2), IDS[:, :2])
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    np.testing.assert_array_equal(again.records[1]["label_map"], IDS)
    assert make(path).fingerprint == source.fingerprint != make(path, "val").fingerprint
    assert make(path, void=1).fingerprint != source.fingerprint


def test_one_folder_is_train_and_val_is_held_out_of_it(folder):
    path = folder({f"{n:02d}": IDS for n in range(20)})
    files = {split: {r["file"] for r in masks.make(split=split, path=path).records} for split in ("train", "val")}
    assert len(files["train"]) == 18 and len(files["val"]) == 2 and not files["train"] & files["val"]
    assert len(make(path).records) == 20


def test_names_and_splits_spelled_otherwise_are_paired(folder, tmp_path):
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    path = folder({f"training/{name}": IDS for name in (nfc, "IMG_1", "c")} | {"validation/d": IDS})
    for old, new in ((nfc, nfd), ("IMG_1", "img_1")):
        (tmp_path / "masks" / "training" / f"{old}.png").rename(tmp_path / "masks" / "training" / f"{new}.png")
    (tmp_path / "masks" / "training").rename(tmp_path / "masks" / "train")
    source = make(path)
    assert [r["file"] for r in source.records] == [f"images/training/{n}.jpg" for n in ("IMG_1", "c", nfc)]
    assert not source.dropped and len(make(path, "val").records) == 1
    np.testing.assert_array_equal(label_map_of(source, 2), IDS)
    both = [masks.make(split=split, path=path, hold_out=0) for split in ("train", "val")]
    assert len({r["file"] for one in both for r in one.records}) == 4


def test_what_does_not_fit_is_left_out_and_named(folder, tmp_path):
    path = folder(
        {f"train/{name}": IDS for name in ("good", "wide", "torn", "blank", "alone", "bare")},
        images={"train/wide": (30, 20)},
    )
    (tmp_path / "masks/train/torn.png").write_bytes(b"no image")
    (tmp_path / "images/train/blank.jpg").write_bytes(b"")
    (tmp_path / "images/train/alone.jpg").unlink()
    (tmp_path / "masks/train/bare.png").unlink()
    source = make(path)
    assert [record["file"] for record in source.records] == ["images/train/good.jpg"]
    assert source.dropped == {
        "missing image": ["masks/train/alone.png"],
        "missing mask": ["images/train/bare.jpg"],
        "mask of another size than its image": [
            "masks/train/wide.png (2×3, and the image 20×30, height × width)",
        ],
        "unreadable mask": ["masks/train/torn.png"],
        "unreadable image": ["images/train/blank.jpg"],
    }


def test_a_mask_drawn_on_a_turned_image_is_believed(folder, tmp_path):
    path = folder({"train/a": IDS, "train/b": IDS, "train/c": IDS}, images={"train/b": (2, 3)})
    turned = PIL.Image.new("RGB", (2, 3))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "images/train/a.jpg", exif=turned.getexif())
    source = make(path)  # b has swapped sides, and no tag that says so
    assert [record["file"][-5] for record in source.records] == ["a", "c"]
    assert source.records[0]["size"].tolist() == [2, 3]


def test_none_that_fits_is_an_error(folder):
    wide = folder({"train/a": IDS}, images={"train/a": (9, 9)})
    with pytest.raises(UserError, match=r"no image of split 'train' has a mask that fits.*a\.png \(2×3, and.* 9×9"):
        make(wide)


def test_a_mask_that_changed_since_is_told(folder, tmp_path):
    source = make(folder({"train/a": IDS}))
    PIL.Image.fromarray(IDS[:1]).save(tmp_path / "masks/train/a.png")
    with pytest.raises(UserError, match=r"a\.png has 1×3 pixels \(height × width\), and its image has 2×3"):
        source.records[0]
    (tmp_path / "masks/train/a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png: there is no such mask"):
        source.records[0]


def test_what_is_not_in_a_folder_of_masks_is_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere is not there: --data masks:DIR"):
        make(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="images is not there"):
        make(str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match=r"classes\.txt is not there: write the names"):
        make(str(tmp_path))
    with pytest.raises(UserError, match="images has no images; put those of split 'train' there"):
        make(str(tmp_path), classes=("a", "b"))
    path = folder({"train/a": IDS, "test/b": None})
    with pytest.raises(UserError, match=r"masks/test has no \.png files; put those of split 'test' there"):
        make(path, "test")
    with pytest.raises(UserError, match=r"no split 'val'; there is: test, train\."):
        make(path, "val")
    with pytest.raises(UserError, match="has a class for each pixel, and this task learns from boxes"):
        make(path, needs="boxes")


def test_camvid_has_a_void_id_beyond_its_list(folder):
    ids = np.array([[0, 2, 3]], np.uint8)
    path = folder({"train/a": ids})
    np.testing.assert_array_equal(make(path, void=3).records[0]["label_map"], [[0, 2, VOID]])
    with pytest.raises(UserError, match=r"a\.png has the id 3 \(row 0, column 2\), and .*classes\.txt names the ids 0"):
        make(path).records[0]


def test_a_second_image_of_a_name_is_left_out_and_named(folder):
    path = folder({"train/a": IDS})
    PIL.Image.fromarray(np.zeros((*IDS.shape, 3), np.uint8)).save(f"{path}/images/train/a.png")
    source = make(path)
    assert len(source.records) == 1
    assert source.dropped == {"second image of a name": ["images/train/a.png"]}
