"""Masks of objects in files: label images, a mask an object, VOC's SegmentationObject, panoptic PNGs; against NumPy."""

import json

import numpy as np
import PIL.Image
import pytest

from mapjax.data import label_images, run_lengths
from mapjax.data.checks import object_quality
from mapjax.data.formats import coco, instances, voc
from mapjax.data.prepared import drawn
from mapjax.errors import UserError

SIZE = (24, 32)


def numbered(seed, count=6, largest=70_000):
    """Rectangles of random numbers, some hidden by others."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(SIZE, np.int64)
    for number in rng.choice(np.arange(1, largest), count, replace=False):
        y, x = rng.integers(0, 20), rng.integers(0, 28)
        ids[y : y + rng.integers(1, 24), x : x + rng.integers(1, 12)] = number
    return ids


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


def photo(path, size=SIZE):
    save(path, np.zeros((*size, 3), np.uint8))


def coloured(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def agree(record, ids, class_of=lambda number: 0, numbers=None):
    """The objects of a record are those of a label image, in order of their numbers."""
    numbers = [number for number in np.unique(ids).tolist() if number] if numbers is None else numbers
    assert record["classes"].tolist() == [class_of(number) for number in numbers]
    for row, number in enumerate(numbers):
        np.testing.assert_array_equal(run_lengths.bits(record["masks"][row], SIZE), ids == number)
        rows, columns = np.nonzero(ids == number)
        np.testing.assert_array_equal(
            record["boxes"][row], [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        )
        assert record["areas"][row] == len(rows)
    assert len(record["masks"]) == len(record["boxes"]) == len(numbers) and not record["crowd"].any()


@pytest.mark.parametrize("seed", range(5))
def test_objects_of_label_images_and_back(seed):
    ids = numbered(seed, count=9)
    found = label_images.objects_in(ids)
    for one in found:
        np.testing.assert_array_equal(run_lengths.decode(one.mask, SIZE), ids == one.number)
    again = drawn.painted([one.mask for one in found], np.arange(1, len(found) + 1), SIZE)
    np.testing.assert_array_equal(again, np.searchsorted(np.unique([0, *ids.ravel()]), ids))
    assert label_images.objects_in(np.zeros((0, 4), int)) == label_images.objects_in(np.zeros((3, 4), int)) == []
    whole = label_images.objects_in(np.full(SIZE, 3))[0]
    assert run_lengths.decode(whole.mask, SIZE).all() and whole.box == (0, 0, 32, 24)
    on_top = drawn.painted([np.ones((3, 3), bool), np.eye(3, dtype=bool)], np.array([1, 2]), (3, 3))
    np.testing.assert_array_equal(on_top, 1 + np.eye(3))


def test_label_images_of_every_depth_are_read(tmp_path):
    depths = {"a": np.uint8, "b": np.uint16, "c": None, "d": np.int32}
    every = {name: numbered(n, largest=250 if name == "a" else 60_000) for n, name in enumerate(depths)}
    for name, depth in depths.items():
        photo(tmp_path / "images" / "train" / f"{name}.jpg")
        image = coloured(every[name]) if depth is None else every[name].astype(depth)
        save(tmp_path / "instances" / "train" / f"{name}.{'tif' if name == 'd' else 'png'}", image)
    source = instances.make(split="train", path=str(tmp_path), hold_out=0, classes="cell")
    assert source.classes == ("cell",) and not source.dropped
    for record in source.records:
        agree(record, every[record["file"][-5]])
    assert len(instances.make(split="val", path=str(tmp_path), hold_out=0.25, needs="boxes").records) == 1


def test_numbers_say_the_class_where_there_is_a_divisor(tmp_path):
    ids = np.zeros(SIZE, int)
    ids[2:5, 3:9], ids[7:9, 1:4], ids[10:13, 2:6] = 1002, 3, 5001
    photo(tmp_path / "images" / "a.png")
    save(tmp_path / "labels" / "a.png", ids.astype(np.uint16))
    with pytest.raises(UserError, match=r"classes\.txt is not there: with divisor=1000"):
        instances.make(split="train", path=str(tmp_path), divisor=1000)
    (tmp_path / "classes.txt").write_text("car\nbus\n")
    source = instances.make(split="train", path=str(tmp_path), divisor=1000, hold_out=0)
    agree(source.records[0], ids, lambda number: number // 1000, [3, 1002])
    assert source.dropped == {"object of a class that is not listed": ["labels/a.png, 5001"]}
    with pytest.raises(UserError, match="2 classes are named; name one, or give divisor=1000"):
        instances.make(split="train", path=str(tmp_path), hold_out=0)


@pytest.mark.parametrize("layout", ["beside", "classes", "tree"])
def test_a_mask_an_object(tmp_path, layout):
    ids = numbered(3)
    photo(tmp_path / {"tree": "train/a/images/a.png"}.get(layout, "images/train/a.png"))
    folder = tmp_path / {"tree": "train/a/masks"}.get(layout, "masks/train/a")
    for row, number in enumerate(np.unique(ids)[1:]):
        place = folder / ("cat" if row % 2 else "dog") if layout == "classes" else folder
        mask = ((ids == number) * 255).astype(np.uint8)
        save(place / f"{row}.png", mask if row else np.repeat(mask[..., None], 3, axis=2))
    save((folder / "cat" if layout == "classes" else folder) / "9.png", np.zeros(SIZE, np.uint8))
    source = instances.make(split="train", path=str(tmp_path), hold_out=0)
    assert [len(where) for where in source.dropped.values()] == [1] and "mask without a pixel" in source.dropped
    numbers = np.unique(ids)[1:].tolist()
    if layout == "classes":
        assert source.classes == ("cat", "dog")
        agree(source.records[0], ids, lambda number: int(number in numbers[::2]), numbers[1::2] + numbers[::2])
    else:
        agree(source.records[0], ids)


def test_what_is_wrong_with_files_of_masks_is_told(tmp_path):
    with pytest.raises(UserError, match="needs images/ and instances/"):
        instances.make(split="train", path=str(tmp_path))
    with pytest.raises(UserError, match="is not a folder"):
        instances.make(split="train", path=str(tmp_path / "none"))
    for name in "abc":
        photo(tmp_path / "images" / f"{name}.png")
    save(tmp_path / "instances" / "a.png", np.ones((24, 33), np.uint8))
    (tmp_path / "instances" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(
        UserError, match=r"no image of split 'train' has masks that can be used: 1 × image with a mask that "
    ):
        instances.make(split="train", path=str(tmp_path), hold_out=0)
    photo(tmp_path / "images" / "d.png")
    save(tmp_path / "instances" / "d.png", np.ones(SIZE, np.uint8))
    assert instances.make(split="train", path=str(tmp_path), hold_out=0).dropped == {
        "image without masks": ["images/c.png"],
        "image with a mask of another size": ["instances/a.png (24×33, and the image 24×32, height × width)"],
        "image with a mask that cannot be read": ["instances/b.png"],
    }
    with pytest.raises(UserError, match="this task learns from label"):
        instances.make(split="train", path=str(tmp_path), needs="label")
    (tmp_path / "images" / "train").mkdir()
    with pytest.raises(UserError, match="has no folder of the split 'train'"):
        instances.make(split="train", path=str(tmp_path))


def test_more_objects_than_a_batch_holds_are_told(tmp_path):
    photo(tmp_path / "images" / "a.png")
    save(tmp_path / "instances" / "a.png", np.arange(24 * 32).reshape(SIZE).astype(np.uint16))
    source = instances.make(split="train", path=str(tmp_path), hold_out=0)
    summary = object_quality.inspect(source, 100)
    assert summary.crowded == 1 and summary.boxes == 767
    assert object_quality._notes(summary) == [
        "train: 1 images have more than max_boxes=100 boxes; training sees their largest."
    ]


def test_objects_of_voc(tmp_path):
    ids = numbered(1, largest=200).astype(np.uint8)
    numbers = np.unique(ids)[1:].tolist()
    class_map = np.zeros(SIZE, np.uint8)
    for row, number in enumerate(numbers):
        class_map[ids == number] = 15 if row % 2 else 3
    class_map[ids == numbers[0]] = 0  # without a class
    ids[:2], class_map[:2] = 255, 255
    photo(tmp_path / "JPEGImages" / "a.jpg")
    photo(tmp_path / "JPEGImages" / "b.jpg")
    for name, image in (("SegmentationObject", ids), ("SegmentationClass", class_map)):
        save(tmp_path / name / "a.png", image)
    save(tmp_path / "SegmentationObject" / "b.png", ids)
    source = voc.make(split="train", path=str(tmp_path), hold_out=0, needs="masks")
    assert source.classes[0] == "aeroplane" and len(source.classes) == 20
    left = [number for number in numbers[1:] if (ids == number).any()]
    agree(source.records[0], np.where(ids == 255, 0, ids), lambda number: 14 if numbers.index(number) % 2 else 2, left)
    gone = [f"SegmentationObject/a.png, {numbers[0]}"] if (ids == numbers[0]).any() else []
    assert source.dropped.pop("object whose pixels have no class", []) == gone
    assert source.dropped == {"missing mask in SegmentationClass": ["JPEGImages/b.jpg"]}
    with pytest.raises(UserError, match="to learn masks of objects, --data voc:DIR needs SegmentationObject/"):
        voc.make(split="train", path=str(tmp_path / "JPEGImages"), hold_out=0, needs="masks")


def test_things_of_panoptic_masks(tmp_path):
    ids = numbered(2, largest=16_000_000)
    numbers = np.unique(ids)[1:].tolist()
    photo(tmp_path / "train2017" / "a.jpg")
    photo(tmp_path / "train2017" / "b.jpg")
    save(tmp_path / "annotations" / "panoptic_train2017" / "a.png", coloured(ids))
    categories = [{"id": 9, "name": "dog", "isthing": 1}, {"id": 3, "name": "cat", "isthing": 1}]
    categories.append({"id": 184, "name": "tree", "isthing": 0})
    segments = []
    for row, number in enumerate(numbers):
        rows, columns = np.nonzero(ids == number)
        box = [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
        category = 184 if row == 2 else (3, 9)[row % 2]
        segments.append(
            {"id": number, "category_id": category, "bbox": list(map(int, box)), "area": len(rows), "iscrowd": 0}
        )
    images = [{"id": 7 + n, "file_name": f"{name}.jpg", "height": 24, "width": 32} for n, name in enumerate("ab")]
    listed = [{"image_id": 7 + n, "file_name": f"{name}.png", "segments_info": segments} for n, name in enumerate("ab")]
    content = {"images": images, "categories": categories, "annotations": listed}
    (tmp_path / "annotations" / "panoptic_train2017.json").write_text(json.dumps(content))
    source = coco.make(split="train", path=str(tmp_path), hold_out=0, needs="masks")
    assert source.classes == ("cat", "dog") and source.dropped == {"missing mask": ["b.jpg"]}
    things = numbers[:2] + numbers[3:]
    agree(source.records[0], ids, lambda number: numbers.index(number) % 2, things)
    dogs = coco.make(split="train", path=str(tmp_path), hold_out=0, needs="masks", classes=("dog",))
    agree(
        dogs.records[0], ids, numbers=things[1::2] if len(numbers) < 4 else [n for n in things if numbers.index(n) % 2]
    )
    for category in categories:
        category["isthing"] = 0
    (tmp_path / "annotations" / "panoptic_train2017.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no category whose 'isthing' is 1"):
        coco.make(split="train", path=str(tmp_path), hold_out=0, needs="masks")
