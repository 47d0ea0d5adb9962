"""Data sets written as YOLO, COCO and VOC, and read back."""

import json
import pathlib

import cv2
import numpy as np
import PIL.Image
import pytest
from pycocotools.coco import COCO

from mapjax.data import run_lengths
from mapjax.data.formats import coco, instances, voc, yolo
from mapjax.data.prepared import drawn, export, forms
from mapjax.data.skeletons import Points
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


@pytest.mark.parametrize("form", READERS)
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


@pytest.mark.parametrize("form", ["voc", "instances"])
@pytest.mark.parametrize("classes", [1, 2])
def test_label_images_come_back(tmp_path, form, classes):
    """Where masks overlap the smaller is on top, so that the other has lost these pixels."""
    ours = source("train", without=("keypoints", "mirrored"))
    records = [{**one, "classes": one["classes"] % classes} for one in ours.records]
    ours = ours._replace(classes=("a", "b")[:classes], category_ids=(3, 18)[:classes], records=records)
    assert not export.write({"train": ours}, tmp_path / "out", form).lost
    options = {"divisor": drawn.DIVISOR} if form == "instances" and classes > 1 else {}
    reader = {"voc": voc, "instances": instances}[form]
    back = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0, needs="masks", **options)
    assert back.classes == ours.classes and not back.dropped and len(back.records) == 3
    by_stem = {pathlib.Path(one["file"]).stem: one for one in back.records}
    for stem, one in zip(("a", "b", "a-2"), ours.records, strict=True):
        found = run_lengths.stacked(by_stem[stem]["masks"], tuple(one["size"].tolist()))
        areas = [mask.sum() for mask in one["masks"]]
        order = np.argsort(areas, kind="stable")
        for place, row in enumerate(order):
            above = np.any([one["masks"][other] for other in order[:place]], axis=0) if place else np.False_
            np.testing.assert_array_equal(found[row], one["masks"][row] & ~above)
        assert by_stem[stem]["classes"].tolist() == one["classes"].tolist()


def test_many_objects_fit_into_a_label_image():
    """More than 8 bits, and than 16, of numbers; 255 is void for VOC."""
    masks = list(np.eye(900, dtype=bool)[:300].reshape(300, 30, 30))
    image, class_map = (
        cv2.imdecode(np.frombuffer(data, np.uint8), -1) for data in drawn.voc(masks, np.arange(300) % 3, (30, 30))
    )
    assert image.dtype == np.uint16 and image.max() == 301 and not (image == 255).any()
    np.testing.assert_array_equal(class_map.ravel()[:300], np.arange(300) % 3 + 1)
    data = drawn.numbered(masks, np.full(300, 70), (30, 30), 80)
    wide = cv2.imdecode(np.frombuffer(data, np.uint8), -1).astype(int)
    np.testing.assert_array_equal(
        (wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2]).ravel()[:300], 70_001 + np.arange(300)
    )
    with pytest.raises(ValueError, match="at most 999 objects of a class, and there are 1000"):
        drawn.numbered([masks[0]] * 1000, np.zeros(1000, int), (30, 30), 2)


def test_label_images_of_boxes_are_refused(tmp_path):
    with pytest.raises(UserError, match="was read without masks, of which label images are made"):
        export.write({"train": source("train", without=("masks",))}, tmp_path / "out", "instances")


def test_skeletons_come_back(tmp_path):
    ours = source("train", without=("masks",))._replace(skeleton=((0, 1),), sigmas=(0.1, 0.2))
    export.write({"train": ours}, tmp_path / "out", "coco")
    back = coco.make(split="train", path=str(tmp_path / "out"), hold_out=0, needs="keypoints")
    assert back.skeleton == ((0, 1),) and back.sigmas == (0.1, 0.2)


def test_what_a_form_has_no_place_for_is_counted(tmp_path):
    found = source("train", crowd=True)
    assert export.write({"train": found}, tmp_path / "a", "yolo").lost == {"crowd, for which yolo has no place": 1}
    points = {"object's keypoints, for which voc has no place": 3}
    assert export.write({"train": found}, tmp_path / "b", "voc").lost == points
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
    drawn = coco_masks.fill([outline], mask.shape) if len(outline) else np.zeros_like(mask)
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


@pytest.mark.parametrize("form", READERS)
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


def read_back(out, masks, points):
    """Read what was answered as data, with masks and with keypoints, and as pycocotools does."""
    PIL.Image.new("RGB", (30, 24)).save(out / "7.png")
    given = {"split": "train", "annotations": str(out / "coco.json"), "images": str(out), "hold_out": 0}
    back = coco.make(**given, needs="masks").records[0]
    np.testing.assert_array_equal([run_lengths.bits(one, (24, 30)) for one in back["masks"]], masks)
    posed = coco.make(**given, needs="keypoints")
    assert posed.keypoints == ("nose", "tail") and posed.skeleton == ((0, 1),) and not posed.dropped
    np.testing.assert_allclose(posed.records[0]["keypoints"], points, atol=1e-6)
    known = COCO(str(out / "coco.json"))
    np.testing.assert_array_equal([known.annToMask(one) for one in known.loadAnns(known.getAnnIds())], masks)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_answers_with_masks_and_keypoints_are_labels(tmp_path):
    masks = [np.zeros((24, 30), bool) for _ in range(2)]
    masks[0][2:9, 3:8] = masks[1][5:20, 6:25] = True
    runs = [{"size": [24, 30], "counts": run_lengths.encode(mask).decode()} for mask in masks]
    row = {"file": "7.png", "width": 30, "height": 24, "boxes": [[3, 2, 8, 9], [6, 5, 25, 20]], "scores": [0.9, 0.8]}
    row |= {"classes": [0, 1], "masks": runs, "keypoints": [[[1.5, 2, 0.7], [3, 4, 2.5]]] * 2}
    for form in ("coco", "instances", "voc"):
        answers = export.Answers(tmp_path / form, form, ("cat", "ox"), Points(("nose", "tail"), ((0, 1),)))
        answers.add(row, pathlib.Path("7.jpg"))
        answers.close()
    for item, one in zip(json.loads((tmp_path / "coco/coco.json").read_text())["annotations"], runs, strict=True):
        assert item["segmentation"] == one and item["keypoints"] == [1.5, 2, 0.7, 3, 4, 2.5] and item["score"] > 0.7
    read_back(tmp_path / "coco", masks, row["keypoints"])
    ids = np.array(PIL.Image.open(tmp_path / "instances/instances/7.png"))
    np.testing.assert_array_equal(ids, np.where(masks[0], 1, np.where(masks[1], 1001, 0)))
    ids = np.array(PIL.Image.open(tmp_path / "voc/SegmentationObject/7.png"))
    np.testing.assert_array_equal(ids, np.where(masks[0], 1, np.where(masks[1], 2, 0)))
    answers = export.Answers(tmp_path / "none", "instances", ("cat", "ox"))
    with pytest.raises(UserError, match="writes masks, and this network answers with none"):
        answers.add({key: value for key, value in row.items() if key != "masks"}, pathlib.Path("7.jpg"))
