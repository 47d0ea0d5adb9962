"""Panoptic masks and pixel maps of stuff, against a lookup pixel by pixel; broken ones are named."""

import json
import pickle

import numpy as np
import PIL.Image
import pytest

from mapjax.data.formats import coco
from mapjax.data.source import kind_of, largest_size, truth_of
from mapjax.errors import UserError
from mapjax.stages import VOID

rng = np.random.default_rng(0)
IMAGES = [{"id": 7 + n, "file_name": f"{n}.jpg", "height": 4, "width": 6} for n in range(2)]
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 184, "name": "tree"}, {"id": 3, "name": "cat"}]
CLASS_OF = {0: VOID, 70_000: 1, 300: 0, 5: 2, 16_000_000: VOID}  # of the segments below; the last is a crowd
SEGMENTS = [
    {"id": 300, "category_id": 3, "iscrowd": 0},
    {"id": 70_000, "category_id": 9},
    {"id": 5, "category_id": 184, "iscrowd": 0},
    {"id": 16_000_000, "category_id": 9, "iscrowd": 1},
]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


def coloured(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def write(root, content, kind="panoptic", split="train2017"):
    for entry in IMAGES:
        save(root / split / entry["file_name"], np.zeros((4, 6, 3), np.uint8))
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    return str(root)


@pytest.fixture
def panoptic(tmp_path):
    """Write a panoptic data set with more or other keys; give its path and the ids of the segments of each image."""

    def make(folder="annotations/panoptic_train2017", **more):
        ids = rng.choice(list(CLASS_OF), (2, 4, 6))
        for number, one in enumerate(ids):
            save(tmp_path / folder / f"{number}.png", coloured(one))
        listed = [{"image_id": 7 + n, "file_name": f"{n}.png", "segments_info": SEGMENTS} for n in range(2)]
        content = {"images": IMAGES, "categories": CATEGORIES, "annotations": listed}
        return write(tmp_path, content | more), ids

    return make


def make(path, split="train", **more):
    return coco.make(split=split, path=path, needs="label_map", **{"hold_out": 0, **more})


@pytest.mark.parametrize("folder", ["annotations/panoptic_train2017", "panoptic_train2017"])
def test_segments_become_classes(panoptic, folder):
    path, ids = panoptic(folder)
    source = make(path)
    assert source.classes == ("cat", "dog", "tree") and source.category_ids == (3, 9, 184) and not source.dropped
    assert kind_of(source) == "label_map" and largest_size(source) == (4, 6)
    assert truth_of(source, 1).keys() == {"id", "file", "image", "size"}
    for record, one in zip(pickle.loads(pickle.dumps(source)).records, ids):  # noqa: S301
        np.testing.assert_array_equal(record["label_map"], np.vectorize(CLASS_OF.get)(one))
        assert record["label_map"].dtype == np.uint8
    assert (record["id"], record["file"], record["image"]) == (8, "1.jpg", f"{path}/train2017/1.jpg")


def test_of_some_categories_the_others_are_void(panoptic):
    path, ids = panoptic()
    source = make(path, classes=("tree", "cat"))
    assert source.category_ids == (184, 3) and source.fingerprint != make(path).fingerprint
    wanted = {0: VOID, 70_000: VOID, 300: 1, 5: 0, 16_000_000: VOID}
    np.testing.assert_array_equal(source.records[0]["label_map"], np.vectorize(wanted.get)(ids[0]))


def test_what_panoptic_masks_lack_is_left_out_and_named(panoptic, tmp_path):
    listed = [
        {"image_id": 7, "file_name": "0.png", "segments_info": [*SEGMENTS, {"id": 6, "category_id": 77}]},
        {"image_id": 8, "file_name": "gone.png", "segments_info": []},
        {"image_id": 99, "file_name": "1.png", "segments_info": []},
    ]
    path, _ = panoptic(annotations=listed)
    source = make(path)
    assert len(source.records) == 1 and source.dropped == {
        "unknown category id": ["annotations[0], segment 6"],
        "unknown image id": ["annotations[2]"],
        "missing mask": ["1.jpg"],
    }
    save(tmp_path / "annotations/panoptic_train2017/0.png", coloured(np.full((4, 6), 4242)))
    with pytest.raises(UserError, match=r"0\.png has the segment 4242, which segments_info does not list; add it"):
        source.records[0]
    save(tmp_path / "annotations/panoptic_train2017/0.png", coloured(np.zeros((4, 4), int)))
    with pytest.raises(UserError, match=r"0\.png has 4×4 pixels \(height × width\), and its image has 4×6"):
        source.records[0]
    save(tmp_path / "annotations/panoptic_train2017/0.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(UserError, match=r"0\.png is not in RGB, as panoptic masks are"):
        source.records[0]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"image_id": 7, "file_name": "0.png"}, "has no 'file_name' or no list 'segments_info'"),
        ({"image_id": 7, "file_name": "0.png", "segments_info": [{"id": 1}]}, "a segment of .* has no 'category_id'"),
        ({"file_name": "0.png"}, r"annotations\[0\] has no 'image_id'"),
        ({"image_id": 7, "file_name": "none.png", "segments_info": []}, r"no mask such as 'none\.png' in .*unpack"),
    ],
)
def test_panoptic_entries_that_cannot_be_are_one_sentence(panoptic, entry, words):
    path, _ = panoptic(annotations=[entry])
    with pytest.raises(UserError, match=words):
        make(path)


def test_pixel_maps_of_stuff_hold_category_ids(tmp_path):
    ids = rng.choice([0, 3, 9, 184], (2, 4, 6)).astype(np.uint8)
    for number, one in enumerate(ids):
        save(tmp_path / "stuff_train2017_pixelmaps" / f"{number}.png", one)
    path = write(tmp_path, {"images": IMAGES, "categories": CATEGORIES, "annotations": []}, "stuff")
    expected = {0: VOID, 3: 0, 9: 1, 184: 2}
    for source in (make(path), make(path, annotations=f"{path}/annotations/stuff_train2017.json")):
        assert source.classes == ("cat", "dog", "tree") and source.category_ids == (3, 9, 184)
        for record, one in zip(source.records, ids):
            np.testing.assert_array_equal(record["label_map"], np.vectorize(expected.get)(one))
    assert make(path, classes=("tree",)).records[0]["label_map"].tolist() == np.where(ids[0] == 184, 0, VOID).tolist()
    save(tmp_path / "stuff_train2017_pixelmaps/1.png", ids[1] * 0 + 200)
    with pytest.raises(UserError, match=r"1\.png has the id 200 .*stuff_train2017\.json names the ids 0 to 184 only"):
        source.records[1]


def test_splits_of_label_maps_are_found_or_held_out(panoptic):
    path, _ = panoptic()
    assert len(make(path, "val", hold_out=0.5).records) == len(make(path, hold_out=0.5).records) == 1
    with pytest.raises(UserError, match="no split 'val'"):
        make(path, "val")


def test_without_masks_coco_says_what_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"has neither annotations/panoptic_\*\.json nor annotations/stuff_\*\.json"):
        make(write(tmp_path, {"images": [], "annotations": [], "categories": []}, "instances"))
    with pytest.raises(UserError, match="nowhere is not a folder"):
        make(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="has 0 categories; a label map holds 1 to 255"):
        make(write(tmp_path, {"images": IMAGES, "annotations": [], "categories": []}))
    many = [{"id": 100 * n, "name": str(n)} for n in range(4)]
    write(tmp_path, {"images": IMAGES, "annotations": [], "categories": many}, "stuff")
    with pytest.raises(UserError, match="has the category ids 0 to 300; pixel maps hold ids from 1 to 254"):
        make(str(tmp_path), annotations=str(tmp_path / "annotations/stuff_train2017.json"))


def test_masks_that_leave_the_data_folder_are_refused(panoptic, tmp_path):
    save(tmp_path / "out.png", coloured(np.zeros((4, 6), int)))
    listed = [{"image_id": 7, "file_name": "0.png", "segments_info": SEGMENTS}]
    listed += [{"image_id": 8, "file_name": "../../out.png", "segments_info": SEGMENTS}]
    source = make(panoptic(annotations=listed)[0])
    assert len(source.records) == 1 and "leaves the data folder" in source.dropped["annotation that cannot be read"][0]
