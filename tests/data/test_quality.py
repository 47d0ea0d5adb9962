"""The start-up check counts right, and stops what could not train."""

import io

import numpy as np
import pytest
from rich.console import Console

from mapjax.data.checks import quality
from mapjax.data.formats import scenes
from mapjax.data.source import Source
from mapjax.errors import UserError


def source(records, **more):
    given = {
        "name": "coco:x",
        "split": "train",
        "classes": ("cat", "dog"),
        "category_ids": (1, 2),
        "records": records,
        "dropped": {},
        "fingerprint": "",
    }
    return Source(**given | more)


def record(boxes=(), classes=(), crowd=None, image="a.png"):
    return {
        "image": image,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "classes": np.array(classes, np.int32),
        "crowd": np.zeros(len(classes), bool) if crowd is None else np.array(crowd),
    }


RECORDS = [
    record([[0, 0, 10, 10], [0, 0, 50, 50], [0, 0, 100, 100]], [0, 1, 1], [False, True, False]),
    record(),
    record([[0, 0, 32, 32]], [1]),
]


def test_everything_is_counted():
    found = quality.inspect(source(RECORDS, dropped={"empty box": ["a #1", "b #2"], "none of these": []}), max_boxes=2)
    assert found.images == found.looked_at == 3
    assert (found.without_boxes, found.boxes, found.crowd, found.crowded, found.out_of_range) == (1, 4, 1, 1, 0)
    assert found.per_class == {"cat": 1, "dog": 3}
    assert found.sizes == (1, 2, 1)
    np.testing.assert_allclose(found.sides, np.quantile([10, 50, 100, 32], (0.05, 0.5, 0.95)))
    assert found.dropped == {"empty box": (2, "a #1")}


def test_the_table_says_it():
    console = Console(width=120, record=True, file=io.StringIO())
    summaries = [
        quality.inspect(source(RECORDS, dropped={"empty box": ["[odd] #1"]}), max_boxes=2),
        quality.inspect(scenes.make(split="val", size=(32, 32), digits=(1, 1)), max_boxes=20),
    ]
    console.print(quality.table(*summaries))
    text = console.export_text()
    for words in ("small / medium / large", "class dog", "1 × empty box, such as [odd] #1", "max_boxes=2", "first 300"):
        assert words in text


def seen(visible=((0, 1, 2), (2, 2, 2)), columns=3.0):
    """A record of objects with masks, the first one empty, and keypoints at a column."""
    points = np.stack([np.full((2, 3), columns), np.full((2, 3), 2.0), np.array(visible)], -1).astype(np.float32)
    masks = np.zeros((2, 4, 5), bool)
    masks[1, :2] = True
    beside = {"masks": masks, "keypoints": points, "mirrored": np.arange(3, dtype=np.int32)}
    return {**record([[0, 0, 5, 4]] * 2, [0, 0]), "size": np.array((4, 5), np.int32), "file": "a", **beside}


def test_masks_and_keypoints_are_counted():
    found = quality.inspect(source([seen(), seen(columns=9.0)]), max_boxes=2)
    assert found.more == {
        "pixels of a mask, median": "10",
        "empty masks": "2",
        "keypoints an object": "3",
        "keypoints labelled / seen": "83 % / 33 %",
        "keypoints outside the image": "5",
    }
    assert quality.inspect(source(RECORDS), 2).more == {}
    quality.require_trainable(source([seen()]), quality.inspect(source([seen()]), 2))
    with pytest.raises(UserError, match="has not one keypoint with a visibility above 0 in the images looked at"):
        check(source([seen(visible=((0, 0, 0), (0, 0, 0)))]))
    with pytest.raises(UserError, match="a has 2 boxes and 1 masks"):
        check(source([seen() | {"masks": np.zeros((1, 4, 5), bool)}]))


def check(one):
    quality.require_trainable(one, quality.inspect(one, max_boxes=1))


@pytest.mark.parametrize(
    ("records", "more", "words"),
    [
        ([], {"dropped": {"missing image": ["a"]}}, r"no images; check.*1 × missing image"),
        ([record()], {}, "in its 1 images; label objects in it, or choose another split"),
        (
            [record([[0, 0, 9, 9]], [0], [True]) | {"file": "a.png"}],
            {},
            r"no boxes to learn from.*: all 1 are crowd or difficult, such as in a\.png; label",
        ),
        ([record([[0, 0, 9, 9]], [2])], {}, "1 boxes whose class is not one of its 2 classes"),
        ([record()], {"classes": ()}, "no classes"),
    ],
)
def test_what_cannot_train_is_stopped(records, more, words):
    with pytest.raises(UserError, match=words):
        check(source(records, **more))


def test_what_can_train_passes():
    check(source(RECORDS))
    loose = [{"id": 0, "file": "a", "image": "a.png"}]
    check(source(loose, classes=()))  # for a task that learns from the images alone
    with pytest.raises(UserError, match="coco:x has no label for a whole image"):
        check(source(loose))  # classes are named, and no image has one


def test_objects_without_boxes_are_told():
    points = {key: seen()[key] for key in ("image", "file", "size", "keypoints", "mirrored")}
    with pytest.raises(UserError, match="a has masks or keypoints and no boxes; give each object its box"):
        check(source([points]))
    among = quality.inspect(source([*RECORDS, {"image": "b.png"}]), 2)
    assert (among.images, among.without_boxes, among.boxes) == (4, 2, 4)


def test_images_without_labels_have_a_table():
    loose = [{"id": 0, "file": "a", "image": "a.png"}]
    console = Console(width=120, record=True, file=io.StringIO())
    splits = (source(loose, classes=(), split=split, dropped={"broken": ["b"]}) for split in ("train", "val"))
    console.print(quality.table(*(quality.inspect(one, 0) for one in splits)))
    lines = console.export_text().splitlines()
    assert any(line.split()[1::2] == ["images", "1", "1"] for line in lines)
    assert "left out of val: 1 × broken, such as b" in map(str.strip, lines)


def test_shared_images_are_told():
    train, val = (quality.inspect(source(RECORDS, split=split), 9) for split in ("train", "val"))
    assert quality.overlap(train, val).startswith("1 of the 3 images of 'val' are in 'train' too")
    assert not quality.overlap(train, val._replace(files=frozenset(["b.png"])))
