"""The start-up check of label maps counts pixels right, names what never occurs, and stops what could not train."""

import io

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from mapjax.data.checks import map_quality, quality
from mapjax.data.formats import digits, masks, scenes
from mapjax.data.source import Records, Source
from mapjax.errors import UserError
from mapjax.stages import VOID

rng = np.random.default_rng(0)
MAPS = [rng.choice([0, 0, 0, 2, VOID], (4, 5)).astype(np.uint8), np.zeros((6, 3), np.uint8)]


def source(maps, classes=("sky", "road", "car"), split="train", **more):
    def label_map(index):
        if maps[index] is None:
            raise UserError(f"{index}.png is torn.")
        return maps[index]

    def truth(index):
        size = (1, 1) if maps[index] is None else maps[index].shape
        return {"id": index, "file": f"{index}.jpg", "image": f"/data/{index}.jpg", "size": np.array(size, np.int32)}

    def never(index):
        raise AssertionError("a record was made")

    records = Records(len(maps), never, truth=truth, label_map=label_map)
    return Source("mine", split, tuple(classes), tuple(range(len(classes))), records, more.pop("dropped", {}), "")


def text(*summaries):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(quality.table(*summaries))
    return console.export_text()


def test_pixels_of_each_class_are_counted():
    found = quality.inspect(source(MAPS, dropped={"missing mask": ["[odd].jpg", "b"], "none": []}), 0)
    assert (found.images, found.looked_at, found.largest) == (2, 2, (6, 5))
    both = np.concatenate([one.ravel() for one in MAPS])
    assert found.per_class == {"sky": (both == 0).sum(), "road": 0, "car": (both == 2).sum()}
    assert found.void == (both == VOID).sum() > 0 and found.out_of_range == 0
    assert found.dropped == {"missing mask": (2, "[odd].jpg")} and found.files == {"/data/0.jpg", "/data/1.jpg"}
    pixels, around = map_quality.pixel_counts(source(MAPS))
    assert pixels.tolist() == [(both == 0).sum(), 0, (both == 2).sum()] and around.tolist() == [38, 0, 20]
    np.testing.assert_array_equal(quality.class_counts(source(MAPS)), pixels)


def test_of_many_masks_some_are_read_evenly_spread():
    read = []

    def label_map(index):
        read.append(index)
        return np.zeros((1, 1), np.uint8)

    sizes = np.ones((30_000, 2), np.int32)
    records = Records(30_000, label_map, sizes=sizes, truth=lambda index: {"file": str(index)}, label_map=label_map)
    many = source([])._replace(records=records)
    found = quality.inspect(many, 0)
    assert sorted(read) == list(range(0, 30_000, 100)) and (found.looked_at, found.images) == (300, 30_000)
    assert "masks looked at, evenly spread" in text(found)
    read.clear()
    assert quality.class_counts(many).tolist() == [2_000, 0, 0] and sorted(read) == list(range(0, 30_000, 15))


def test_the_table_of_label_maps_says_it():
    train = quality.inspect(source([np.array([[0, 0, 0, 2, VOID]], np.uint8), None], dropped={"gone": ["[x]"]}), 0)
    val = quality.inspect(scenes.make(split="val", size=(32, 32), needs="label_map", val_length=20), 0)
    shown = text(train, val._replace(name="mine"))
    for words in (
        "the largest, height × width", "32×32", "60.00 %", "20.00 %", "pixels without a class", "class road",
        "train: 1 of 3 classes never occur in the 2 masks looked at: road", "left out of train: 1 × gone, such as [x]",
        "train: 1 of 2 masks cannot be used; training leaves them out, such as: 1.png is torn.",
    ):  # fmt: skip
        assert words in shown
    with_labels = text(train, quality.inspect(digits.make(split="val", tail=100), 0))
    assert "class sky" in with_labels and "class 9" in with_labels


def test_of_many_classes_the_table_of_label_maps_shows_the_extremes():
    ids = np.repeat(np.arange(40), np.arange(1, 41)).astype(np.uint8)[None]
    shown = text(quality.inspect(source([ids], [f"n{i:02d}" for i in range(40)]), 0))
    listed = [line.split()[2] for line in shown.splitlines() if "class n" in line]
    assert listed == ["n39", "n38", "n37", "n02", "n01", "n00"]


ONE = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (source([], dropped={"missing mask": ["a"]}), r"no images; check.*1 × missing mask"),
        (source([None, None]), "no mask that can be used among the 2 masks looked at, such as: 0.png is torn"),
        (source([ONE + 3, ONE]), "has 4 pixels in the 2 masks looked at whose class is not one of its 3 classes nor"),
        (source([ONE], ("sky",)), "one class only, 'sky', so there is nothing to tell apart"),
        (source([ONE, ONE + VOID]), "pixels of one class only, 'sky', in the 2 masks looked at; the ids must be 0, 1,"),
        (source([ONE + VOID]), "not one pixel with a class in the 1 masks looked at; all are 255"),
    ],
)
def test_label_maps_that_cannot_train_are_stopped(given, words):
    with pytest.raises(UserError, match=words):
        quality.require_trainable(given, quality.inspect(given, 0))


def test_label_maps_that_can_train_pass():
    """One that cannot be read among others, and one class only where nothing is learned."""
    for given, spoilt in ((source([*MAPS, None]), source([None])), (source([ONE], split="val"), source([ONE]))):
        quality.require_trainable(given, quality.inspect(given, 0))
        with pytest.raises(UserError):
            quality.require_trainable(spoilt, quality.inspect(spoilt, 0))


def test_shared_images_of_masks_are_told(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            PIL.Image.fromarray(MAPS[0]).save(tmp_path / kind / f"{name}.png")
    one, other = (masks.make(split=split, path=str(tmp_path), classes="x;y;z") for split in ("train", "val"))
    assert not quality.overlap(quality.inspect(one, 0), quality.inspect(other, 0))
    assert quality.overlap(quality.inspect(one, 0), quality.inspect(one, 0)).startswith("1 of the 1 images of 'train'")
