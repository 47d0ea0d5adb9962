"""COCO files, whole and broken."""

import json

import numpy as np
import PIL.Image
import pytest
from pycocotools.coco import COCO

from mapjax.data import labels, run_lengths
from mapjax.data.formats import coco
from mapjax.errors import UserError


def content(count=1):
    return {
        "images": [{"id": 7 + n, "file_name": f"{n}.png", "height": 16, "width": 20} for n in range(count)],
        "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [ann(1)],
    }


def ann(number, box=(2, 3, 10, 10), image=7, category=9, **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(box)} | more


@pytest.fixture
def folder(tmp_path):
    """Write a data set: name of the JSON file → content; with the images of all of them."""

    def write(files, images="images"):
        for name, found in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(found if isinstance(found, str) else json.dumps(found))
            for entry in found.get("images", []) if isinstance(found, dict) else []:
                photo = tmp_path / images / str(entry.get("file_name", "x.png"))
                photo.parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.new("RGB", (20, 16)).save(photo)
        return str(tmp_path)

    return write


def make(path, split="train", **options):
    return coco.make(split=split, path=path, **{"hold_out": 0} | options)


def test_a_folder_is_read(folder):
    found = content(2)
    square = [[2, 3, 12, 3, 12, 13, 2, 13]]
    found["annotations"] += [ann(2, (0, 0, 30, 5), category=3, iscrowd=1, area=42, segmentation=square)]
    path = folder({"annotations/instances_train2017.json": found}, "train2017")
    source = make(path)
    assert source.classes == ("cat", "dog") and source.category_ids == (3, 9) and not source.dropped
    first, second = source.records
    np.testing.assert_array_equal(first["boxes"], [[2, 3, 12, 13], [0, 0, 20, 5]])
    np.testing.assert_array_equal(first["classes"], [1, 0])
    np.testing.assert_array_equal(first["crowd"], [False, True])
    np.testing.assert_array_equal(first["areas"], [100, 42])
    assert first["id"] == 7 and first["file"] == "0.png" and second["boxes"].shape == (0, 4)
    assert "masks" not in first
    masks = run_lengths.stacked(make(path, masks=True).records[0]["masks"], (16, 20))
    assert [mask.shape for mask in masks] == [(16, 20)] * 2 and not masks[0].any() and masks[1].sum() >= 100
    assert make(path, masks=True).records[1]["masks"] == []
    learnt = make(path, needs="masks")  # without the image of which an object has no mask
    assert labels.has(learnt.records[0], "masks") and len(learnt.records) == 1
    assert learnt.dropped == {"image with an object without a segmentation": ["0.png, annotations[0] (id 1)"]}
    assert make(path, "train2017").fingerprint == source.fingerprint


def test_the_labels_are_those_of_pycocotools(folder, tmp_path):
    rng = np.random.default_rng(0)
    found = content(5)
    found["annotations"] = [
        ann(n, rng.integers(1, 8, 4), int(7 + rng.integers(5)), int(rng.choice([3, 9]))) for n in range(1, 30)
    ]
    found["annotations"] = json.loads(json.dumps(found["annotations"], default=int))
    path = folder({"train.json": found})
    oracle = COCO(str(tmp_path / "train.json"))
    for record in make(path).records:
        expected = oracle.loadAnns(oracle.getAnnIds(imgIds=[record["id"]]))
        boxes = np.array([a["bbox"] for a in expected], np.float32).reshape(-1, 4)
        np.testing.assert_array_equal(record["boxes"], np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
        np.testing.assert_array_equal(record["classes"], [{3: 0, 9: 1}[a["category_id"]] for a in expected])


@pytest.mark.parametrize(
    ("json_file", "images", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val"),
        ("annotations/instances_val2017.json", "images/val2017", "val"),
        ("annotations/val.json", "images/val", "validation"),
        ("annotations/instances_default.json", "images", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
        ("result.json", "", "train"),
        ("test.json", "images", "test"),
    ],
)
def test_layouts_in_use_are_found(folder, json_file, images, split):
    assert len(make(folder({json_file: content(3)}, images), split).records) == 3


def test_file_names_spelled_otherwise_are_found(folder, tmp_path):
    found = content(4)
    path = folder({"annotations/instances_train2017.json": found}, "train2017")
    (tmp_path / "train2017" / "sub").mkdir()
    (tmp_path / "train2017" / "0.png").rename(tmp_path / "train2017" / "sub" / "Cafe\u0301 0.png")
    for entry, name in zip(found["images"], ("sub\\caf\u00e9%200.PNG", "1.jpg", "2", "old/3.png")):
        entry["file_name"] = name
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(found))
    source = make(path)
    assert [r["file"] for r in source.records] == ["sub/Cafe\u0301 0.png", "1.png", "2.png"]
    assert source.dropped == {"missing image": ["old/3.png (is '3.png' meant?)"]}


def people(**more):
    """Two dogs with three keypoints, some hidden, outside or not labelled, and one without any."""
    found = content()
    found["categories"] = [{"id": 9, "name": "dog", "keypoints": ["nose", "left_ear", "right_ear"]}]
    points = ([3, 4, 2, 5, 4, 1, 9, 9, 0], [30, 4, 2, 5, 4, 2, 19.5, 15.5, 2])
    found["annotations"] = [ann(n, keypoints=one) for n, one in enumerate(points)]
    found["annotations"] += [ann(2), ann(3, keypoints=[1, 2, 3]), ann(4, keypoints=[1] * 8 + [None])]
    return found | more


def test_files_of_keypoints_alone_serve_for_boxes(folder):
    source = make(folder({"annotations/person_keypoints_train.json": people()}))
    assert "keypoints" not in source.records[0] and source.classes == ("dog",) and len(source.records[0]["boxes"]) == 5


def test_keypoints_are_read_where_they_are_needed(folder, tmp_path):
    path = folder({"annotations/person_keypoints_train.json": people(), "annotations/instances_train.json": content()})
    source = make(path, needs="keypoints")
    assert source.keypoints == ("nose", "left_ear", "right_ear") and "keypoints" not in make(path).records[0]
    record = source.records[0]
    expected = [[[3, 4, 2], [5, 4, 1], [0, 0, 0]], [[0, 0, 0], [5, 4, 2], [19.5, 15.5, 2]], *[[[0, 0, 0]] * 3] * 3]
    np.testing.assert_array_equal(record["keypoints"], expected)
    np.testing.assert_array_equal(record["mirrored"], [0, 2, 1])
    assert {reason: len(where) for reason, where in source.dropped.items()} == {"keypoint outside the image": 1}
    reason = "keypoints that are not 3 times x, y, visibility, taken as not labelled"
    assert source.noted == {reason: ["annotations[3] (id 3)", "annotations[4] (id 4)"]}
    given = make(path, needs="keypoints", pairs=[("nose", "left_ear")])
    np.testing.assert_array_equal(given.records[0]["mirrored"], [1, 0, 2])
    (tmp_path / "annotations/person_keypoints_train.json").rename(tmp_path / "annotations/instances_train.json")
    assert make(path, needs="keypoints").fingerprint == source.fingerprint != make(path).fingerprint


@pytest.mark.parametrize(
    ("categories", "options", "words"),
    [
        (None, {"pairs": [("nose", "left_eye")]}, r"names 'left_eye', which is no keypoint.*'left_ear'"),
        ([{"id": 9, "name": "dog"}], {}, "'dog' has no list 'keypoints'"),
        ([{"id": 9, "name": "a", "keypoints": ["x"]}, {"id": 3, "name": "b", "keypoints": ["y"]}], {}, "choose one by"),
    ],
)
def test_keypoints_that_cannot_be_read_are_told(folder, categories, options, words):
    path = folder({"train.json": people(**({"categories": categories} if categories else {}))})
    with pytest.raises(UserError, match=words):
        make(path, needs="keypoints", **options)


BAD_MASKS = (
    {"counts": [9]},
    {"counts": [2**63, 1]},
    {"counts": [2**62] * 4 + [320]},  # whose sum wraps
    {"counts": [10.5, 309.5]},
    {"counts": True},
    {"counts": 320},
    {"counts": {"a": 1}},
    {"counts": [[10, 310]]},
    {"counts": [10, 310], "size": [20, 16]},  # of the image turned
    [["a", 1, 2, 3, 4, 5]],
    [[10**400, 1, 2, 3, 4, 5]],
    [[1e300, 1, 2, 3, 4, 5]],
    [{"x": 1}],
    ["123456"],
)


def test_an_image_with_a_mask_that_cannot_be_read_is_left_out(folder):
    good = ([[2, 3, 12, 3, 12, 13]], {"counts": [10, 310]}, {"counts": ["10", 310], "size": [16, 20]})
    found = content(1 + len(BAD_MASKS))
    found["annotations"] = [ann(n, segmentation=one) for n, one in enumerate(good)]
    found["annotations"] += [ann(10 + n, image=8 + n, segmentation=one) for n, one in enumerate(BAD_MASKS)]
    source = make(folder({"train.json": found}), masks=True)
    left_out = [f"{n + 1}.png, annotations[{n + 3}] (id {n + 10})" for n in range(len(BAD_MASKS))]
    assert sorted(one for names in source.dropped.values() for one in names) == sorted(left_out)
    assert set(source.dropped) == {
        "image with a segmentation that cannot be read",
        "image with run lengths of another size than the image",
        "image with run lengths that do not fill the image, as if cut short",
    }
    areas = [run_lengths.area(mask) for mask in source.records[0]["masks"]]
    assert len(source.records) == 1 and areas == [pytest.approx(50, abs=20), 310, 310]


def test_a_validation_split_is_held_out_where_there_is_none(folder, tmp_path):
    path = folder({"annotations/train.json": content(20)})
    by_path = {s: {r["file"] for r in make(path, s, hold_out=0.1).records} for s in ("train", "val")}
    assert len(by_path["train"]) == 18 and len(by_path["val"]) == 2 and not by_path["train"] & by_path["val"]
    given = {"annotations": str(tmp_path / "annotations/train.json"), "images": str(tmp_path / "images")}
    by_file = {s: {r["file"] for r in coco.make(split=s, **given).records} for s in ("train", "val")}
    assert by_file == by_path
    assert len(coco.make(split="test", hold_out=0, **given).records) == 20
    with pytest.raises(UserError, match="no split 'test'"):
        coco.make(split="test", **given)
    named = {"annotations": {"train": given["annotations"], "val": given["annotations"]}, "images": given["images"]}
    assert len(coco.make(split="val", **named).records) == 20


def test_what_is_broken_is_left_out_and_counted(folder, tmp_path):
    found = content(3)
    found["images"] += [
        found["images"][0],
        {"id": 50, "file_name": "half.png"},
        {"id": 51, "file_name": "sizeless.png"},
    ]
    found["annotations"] += [
        ann(2, (5, 5, 0, 9)),
        ann(3, (20, 0, 5, 5)),
        ann(4, image=9, category=77),
        ann(5, image=999),
        ann(6, image="x"),
        ann(7, image=2**63),
    ]
    path = folder({"train.json": found})
    (tmp_path / "images/1.png").unlink()
    (tmp_path / "images/half.png").write_bytes(b"\x89PNG but no more")
    source = make(path)
    assert [r["file"] for r in source.records] == ["0.png", "sizeless.png"]
    np.testing.assert_array_equal(source.records[1]["size"], [16, 20])
    assert {reason: len(where) for reason, where in source.dropped.items()} == {
        "repeated image id": 1,
        "missing image": 1,
        "unreadable image": 1,
        "empty box": 1,
        "box outside the image": 1,
        "image with an object of an unknown category id": 1,
        "unknown image id": 1,
        "annotation without an image id": 2,
    }
    assert source.dropped["image with an object of an unknown category id"] == ["2.png, annotations[3] (id 4)"]


def test_classes_can_be_given(folder):
    found = content()
    found["annotations"] += [ann(2, category=3)]
    source = make(folder({"train.json": found}), classes=("cat",))
    assert source.classes == ("cat",) and source.category_ids == (3,)
    np.testing.assert_array_equal(source.records[0]["classes"], [0])
    assert source.dropped == {"class not asked for": ["annotations[0] (id 1)"]}
    with pytest.raises(UserError, match=r"no category 'cta'.*'cat'"):
        make(folder({"train.json": found}), classes=("cta",))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: json.dumps(c)[:-9], r"train\.json is not whole JSON"),
        (lambda c: "[]", "lacks the list 'images'"),
        (lambda c: c | {"categories": None}, "lacks the list 'categories'"),
        (lambda c: c | {"images": [{"id": "x", "file_name": "0.png"}]}, r"'id' of images\[0\] is 'x'"),
        (lambda c: c | {"images": [{"file_name": "0.png"}]}, r"images\[0\] has no 'id'"),
        (lambda c: c | {"images": [{"id": 7}]}, r"images\[0\] has no 'file_name'"),
        (lambda c: c | {"annotations": [ann(1, image="x")]}, r"'image_id' of annotations\[0\] is 'x'"),
        (lambda c: c | {"annotations": [{"id": 1, "image_id": 7}]}, r"an object of no category id, annotations\[0\]"),
        (lambda c: c | {"categories": [{"id": 1}]}, r"categories\[0\] has no 'name'"),
        (lambda c: c | {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "two categories"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(folder, change, words):
    with pytest.raises(UserError, match=words):
        make(folder({"train.json": change(content())}))


def test_what_is_not_there_is_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        make(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no annotations/\*\.json"):
        make(str(tmp_path))
    with pytest.raises(UserError, match="path="):
        coco.make(split="train")
    with pytest.raises(UserError, match="no such annotation file"):
        coco.make(split="train", annotations=str(tmp_path / "gone.json"))
    path = folder({"train.json": content(), "val.json": content()})
    with pytest.raises(UserError, match=r"no split 'test'; there is: train, val\."):
        make(path, "test")
    (tmp_path / "images/0.png").unlink()
    with pytest.raises(UserError, match=r"no image such as '0\.png'"):
        make(path)


def test_objects_whose_mask_has_no_pixel_are_left_out_and_counted(folder):
    found = content(1)
    square, two, outside = [2, 3, 12, 3, 12, 13], [1, 2, 3, 4], [40, 3, 50, 3, 50, 13]
    found["annotations"] = [
        ann(1, segmentation=[square, two]), ann(2, segmentation=[two]), ann(3, segmentation=[outside]),
        ann(4, segmentation={"counts": [320]}), ann(5, segmentation=[two], iscrowd=1),
    ]  # fmt: skip
    path = folder({"train.json": found})
    source = make(path, needs="masks")
    assert source.dropped == {
        "polygon of fewer than three corners": ["annotations[1] (id 2)"],
        "polygon outside the image": ["annotations[2] (id 3)"],
        "mask without a pixel": ["annotations[3] (id 4)"],
    }
    reason = "polygon of fewer than three corners, left out of its object"
    assert source.noted[reason] == ["annotations[0] (id 1)"]
    assert source.records[0]["crowd"].tolist() == [False, True]
    assert len(make(path, masks=True).records[0]["boxes"]) == 5  # a task of boxes keeps the others' boxes


def test_data_without_segmentations_is_one_sentence(folder):
    found = content(2)
    found["annotations"] = [ann(n, image=7 + n) for n in range(2)]
    with pytest.raises(
        UserError, match=r"not one of 2 images can be used: .* such as an object without a segmentation"
    ):
        make(folder({"train.json": found}), needs="masks")


def with_points(**more):
    found = content(1)
    found["annotations"] = [ann(1, keypoints=[3, 4, 2, 5, 6, 1, 7, 8, 2])]
    for category in found["categories"]:
        category |= {"keypoints": ["nose", "left_eye", "right_eye"], **more}
    return found


def test_skeletons_and_sigmas_are_read(folder):
    lines = [[1, 2], ["1", 3]]
    source = make(folder({"train.json": with_points(skeleton=lines, sigmas=[0.1, "0.2", 0.3])}), needs="keypoints")
    assert source.skeleton == ((0, 1), (0, 2)) and source.sigmas == (0.1, 0.2, 0.3)
    named = with_points(skeleton=[["nose", "right_eye"]])
    assert make(folder({"train.json": named}), needs="keypoints").skeleton == ((0, 2),)
    asked = make(folder({"train.json": named}), needs="keypoints", skeleton=(("left_eye", "right_eye"),))
    assert asked.skeleton == ((1, 2),) and asked.sigmas == ()
    assert make(folder({"train.json": with_points()})).skeleton == ()


@pytest.mark.parametrize(
    ("more", "options", "told"),
    [
        (
            {"skeleton": [[1, 4]]},
            {},
            r"the skeleton joins the keypoints \[1, 4\], and there are 3; count",
        ),
        ({"skeleton": [[0, 1]]}, {}, r"joins the keypoints \[0, 1\]"),
        ({"skeleton": [["nose", "left_ey"]]}, {}, r"the skeleton names 'left_ey', which is no keypoint.*left_eye"),
        ({"skeleton": [1, 2]}, {}, "'skeleton' must be a list of pairs of keypoints"),
        ({"sigmas": [0.1, 0.2]}, {}, "'sigmas' must be 3 numbers above 0"),
        ({"sigmas": [0.1, 0.2, 0]}, {}, "'sigmas' must be 3 numbers above 0"),
        ({}, {"skeleton": (("nose", "tail"),)}, "the skeleton names 'tail', which is no keypoint"),
        ({}, {"skeleton": (("nose", "left_eye", "right_eye"),)}, "must be pairs of names, as in"),
        ({}, {"skeleton": ((1, 2),)}, "the skeleton names 1, which is no keypoint"),
    ],
    ids=str,
)
def test_skeletons_and_sigmas_that_cannot_be_are_one_sentence(folder, more, options, told):
    with pytest.raises(UserError, match=told):
        make(folder({"train.json": with_points(**more)}), needs="keypoints", **options)
