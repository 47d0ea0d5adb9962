"""Data sets written as YOLO, COCO and VOC, and read back."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest
from pycocotools.coco import COCO

from mapjax.data import run_lengths
from mapjax.data.formats import coco, voc, yolo
from mapjax.data.prepared import export, forms
from mapjax.data.source import Source
from mapjax.errors import UserError

READERS = {"yolo": yolo, "coco": coco, "voc": voc}
SIZES = ((24, 30), (17, 40))


def records(count=3, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count):
        height, width = SIZES[k % 2]
        number = k % 3  # the last has none
        low = rng.uniform(0, 8, (number, 2))
        boxes = np.concatenate([low, low + rng.uniform(2, 8, (number, 2))], axis=1).astype(np.float32)
        masks = np.zeros((number, height, width), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, np.round(boxes).astype(int)):
            mask[y1:y2, x1:x2] = True
        points = rng.uniform(0, 16, (number, 2, 3)).astype(np.float32)
        points[..., 2] = 2
        found.append({
            "id": 7 + k, "file": f"far/{'ab'[k % 2]}.JPG", "size": np.array([height, width], np.int32),
            "image": rng.integers(0, 256, (height, width, 3)).astype(np.uint8), "boxes": boxes,
            "classes": np.arange(number, dtype=np.int32), "crowd": np.zeros(number, bool),
            "areas": masks.sum((1, 2)).astype(np.float32), "masks": list(masks), "keypoints": points,
            "mirrored": np.array([1, 0], np.int32),
        })  # fmt: skip
    return found


def source(split, seed=0, without=(), crowd=False, count=3):
    found = [{key: value for key, value in one.items() if key not in without} for one in records(count, seed)]
    if crowd:
        found[1]["crowd"][:] = True
    return Source("mine", split, ("cat & <dog>", "ox"), (3, 18), found, {}, "0", ("left", "right"))


@pytest.mark.parametrize("form", export.FORMS)
def test_boxes_come_back(form, tmp_path):
    without = ("masks", "keypoints", "mirrored")
    sources = {split: source(split, seed, without) for seed, split in enumerate(("train", "val"))}
    written = export.write(sources, tmp_path / "out", form)
    assert written.images == {"train": 3, "val": 3} and written.objects == {"train": 3, "val": 3} and not written.lost
    for split, ours in sources.items():
        back = READERS[form].make(split=split, path=str(tmp_path / "out"))
        assert back.classes == ours.classes and not back.dropped
        assert form != "coco" or back.category_ids == (3, 18)
        by_size = {pathlib.Path(one["file"]).stem.lower(): one for one in back.records}
        assert len(by_size) == 3
        stems = {"train": ("a", "b", "a-2"), "val": ("a-3", "b-2", "a-4") if form == "voc" else ("a", "b", "a-2")}
        for stem, one in zip(stems[split], ours.records, strict=True):
            np.testing.assert_allclose(by_size[stem]["boxes"], one["boxes"], atol=1e-5)
            np.testing.assert_array_equal(by_size[stem]["classes"], one["classes"])
            assert by_size[stem]["size"].tolist() == one["size"].tolist()
            np.testing.assert_array_equal(np.array(PIL.Image.open(by_size[stem]["image"])), one["image"])


def test_masks_and_keypoints_come_back(tmp_path):
    ours = source("train")
    for form in ("coco", "yolo"):
        folder = tmp_path / form
        export.write({"train": source("train", without=("keypoints", "mirrored"))}, folder, form)
        back = READERS[form].make(split="train", path=str(folder), hold_out=0, needs="masks")
        by_stem = {pathlib.Path(one["file"]).stem: one for one in back.records}
        for stem, one in zip(("a", "b", "a-2"), ours.records, strict=True):
            drawn = [run_lengths.bits(mask, tuple(one["size"].tolist())) for mask in by_stem[stem]["masks"]]
            np.testing.assert_array_equal(
                np.array(drawn).reshape(-1, *one["size"]), np.array(one["masks"]).reshape(-1, *one["size"])
            )
            assert form == "yolo" or by_stem[stem]["areas"].tolist() == one["areas"].tolist()
        export.write({"train": ours}, tmp_path / f"{form}_points", form)
        back = READERS[form].make(split="train", path=str(tmp_path / f"{form}_points"), hold_out=0, needs="keypoints")
        assert back.keypoints == ("left", "right") and back.records[1]["mirrored"].tolist() == [1, 0]
        by_stem = {pathlib.Path(one["file"]).stem: one for one in back.records}
        np.testing.assert_allclose(by_stem["b"]["keypoints"], ours.records[1]["keypoints"], atol=1e-4)


def test_what_a_form_has_no_place_for_is_counted(tmp_path):
    found = source("train", crowd=True)
    assert export.write({"train": found}, tmp_path / "a", "yolo").lost == {"crowd, for which yolo has no place": 1}
    assert export.write({"train": found}, tmp_path / "b", "voc").lost == {
        "mask, for which voc has no place": 3, "object's keypoints, for which voc has no place": 3}  # fmt: skip
    assert voc.make(split="train", path=str(tmp_path / "b"), hold_out=0).records[1]["crowd"].tolist() == [True]
    found.records[0]["image"] = b"none"
    assert export.write({"train": found}, tmp_path / "c", "coco").lost == {"unreadable image": 1}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_what_is_written(tmp_path):
    export.write({"train": source("train")}, tmp_path / "out", "coco")
    read = COCO(str(tmp_path / "out/annotations/instances_train.json"))
    for one in records():
        found = read.loadAnns(read.getAnnIds(imgIds=[one["id"]]))
        assert len(found) == len(one["masks"])
        for item, mask in zip(found, one["masks"]):
            np.testing.assert_array_equal(read.annToMask(item), mask)


@pytest.mark.parametrize("seed", range(4))
def test_an_outline_encloses_the_pixels_of_its_mask(seed):
    """Parts are joined by seams, which are a pixel wide; holes are filled."""
    from mapjax.data.formats import coco_masks

    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 50), bool)
    for _ in range(seed):
        y, x = rng.integers(0, 30, 2)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
    outline = forms.polygon(mask)
    drawn = coco_masks.from_polygons([outline], mask.shape) if len(outline) else np.zeros_like(mask)
    assert (drawn & mask).sum() == mask.sum() and (drawn & ~mask).sum() <= 60 * max(seed - 1, 0)


def test_mistakes(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for out, form, found, words in (
        ("full", "yolo", source("train"), "holds files already, such as x"),
        ("new", "yole", source("train"), "--format 'yole' is not written. Did you mean 'yolo'"),
        ("bare", "yolo", source("train", without=("boxes",)), "mine has no boxes"),
        ("none", "yolo", source("train", count=0), "there is no image to write"),
    ):
        with pytest.raises(UserError, match=words):
            export.write({"train": found}, tmp_path / out, form)


ROWS = [
    {"file": "x/12.png", "width": 30, "height": 24, "boxes": [[1.5, 2, 11.25, 12]], "scores": [0.75], "classes": [1]},
    {"file": "x/7.png", "width": 40, "height": 17, "boxes": [], "scores": [], "classes": []},
]


@pytest.mark.parametrize("form", export.FORMS)
def test_answers_are_labels(form, tmp_path):
    answers = export.Answers(tmp_path, form, ("cat", "ox"))
    for row in ROWS:
        answers.add(row, pathlib.PurePath(pathlib.Path(row["file"]).name).with_suffix(".jpg"))
    answers.close()
    for row in ROWS:
        folder = {"yolo": "images", "voc": "JPEGImages", "coco": "train"}[form]
        (tmp_path / folder).mkdir(exist_ok=True)
        PIL.Image.new("RGB", (row["width"], row["height"])).save(tmp_path / folder / pathlib.Path(row["file"]).name)
    given = (
        {"annotations": str(tmp_path / "coco.json"), "images": str(tmp_path / "train")}
        if form == "coco"
        else {"path": str(tmp_path)}
    )
    back = READERS[form].make(split="train", hold_out=0, **given)
    by_stem = {pathlib.Path(one["file"]).stem: one for one in back.records}
    np.testing.assert_allclose(by_stem["12"]["boxes"], [[1.5, 2, 11.25, 12]], atol=1e-5)
    assert len(by_stem["7"]["boxes"]) == 0
    assert [back.classes[k] for k in by_stem["12"]["classes"]] == ["ox"]
    if form == "coco":
        content = json.loads((tmp_path / "coco.json").read_text())
        assert [one["id"] for one in content["images"]] == [12, 7] and content["annotations"][0]["score"] == 0.75


def test_answers_without_boxes_are_no_labels(tmp_path):
    with pytest.raises(UserError, match="writes boxes, and this network answers with none"):
        export.Answers(tmp_path, "coco", ("cat",)).add(
            {"file": "a.png", "width": 3, "height": 3}, pathlib.PurePath("a.jpg")
        )
