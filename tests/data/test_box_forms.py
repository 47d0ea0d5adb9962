"""Boxes in another form than is read are told; boxes with mistakes here and there are not."""

import io
import json

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from mapjax.data.box_forms import CORNERS, SIDES, Written
from mapjax.data.checks import quality
from mapjax.data.formats import coco, voc
from mapjax.errors import UserError

HEIGHT, WIDTH = 120, 160


def boxes(count=40, largest=40, seed=0):
    """Draw boxes x1,y1,x2,y2 inside the image."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(5, largest, (count, 2))
    first = rng.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - sides)
    return np.concatenate([first, first + sides], axis=1)


def sides(corners):
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def centres(corners):
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def judge(form, given):
    written = Written(form)
    for number, box in enumerate(given.tolist()):
        written.add(box, (HEIGHT, WIDTH), (HEIGHT, WIDTH), f"#{number}")
    written.require_plausible("the file")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("largest", [20, 110])
def test_boxes_that_are_right_pass(seed, largest):
    good = boxes(largest=largest, seed=seed)
    shifted = good + np.array([30, 0, 30, 0])  # a part of them beyond the border
    for corners in (good, good[:1] + 1000, np.concatenate([good, shifted]), np.floor(good), np.ceil(good)):
        judge(CORNERS, corners)
        judge(SIDES, sides(corners))


@pytest.mark.parametrize(
    ("form", "write", "words"),
    [
        (SIDES, lambda b: b, "look like corners x1,y1,x2,y2: write x,y,width,height instead"),
        (CORNERS, sides, "look like x,y,width,height: write corners x1,y1,x2,y2 instead"),
        (SIDES, lambda b: sides(b) / [WIDTH, HEIGHT, WIDTH, HEIGHT], "shares of the image from 0 to 1"),
        (CORNERS, lambda b: b / [WIDTH, HEIGHT, WIDTH, HEIGHT], "shares of the image from 0 to 1"),
        (SIDES, lambda b: centres(b) / [WIDTH, HEIGHT, WIDTH, HEIGHT], "shares of the image from 0 to 1"),
        (CORNERS, centres, "look like centre x, centre y, width, height"),
        (CORNERS, lambda b: b[:, [2, 3, 0, 1]], "the last first"),
        (SIDES, lambda b: b[:, [1, 0, 3, 2]], "corners"),
        (CORNERS, lambda b: b * 3, "drawn on images of another size"),
        (SIDES, lambda b: sides(b * 3), "drawn on images of another size"),
    ],
)
@pytest.mark.parametrize("count", [6, 40])
def test_another_form_is_named(form, write, words, count):
    if count < 10 and form is CORNERS and write is centres:
        words = "look like x,y,width,height"  # so few tell no more
    if count < 10 and "another size" in words:
        return judge(form, write(boxes(count)))  # nor this
    with pytest.raises(UserError, match=rf"the file: \d+ of {count} boxes.*such as #\d+: \(.*{words}"):
        judge(form, write(boxes(count)))


def test_a_few_boxes_that_are_cut_off_are_no_other_form():
    cut = [[130.0, 90, 40, 40], [140, 80, 30, 50], [100, 100, 30, 30], [140, 20, 30, 30], [20, 90, 30, 40]]
    judge(SIDES, np.array(cut))
    judge(CORNERS, np.array([[x, y, x + width, y + height] for x, y, width, height in cut]))


def test_a_mistake_among_good_boxes_stops_nothing():
    judge(SIDES, np.concatenate([sides(boxes(30)), boxes(10)]))


def write_coco(root, lists, **more):
    """Write images, each with its boxes as they stand."""
    images, annotations = [], []
    for number, given in enumerate(lists):
        PIL.Image.new("L", (WIDTH, HEIGHT)).save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for box in np.asarray(given).tolist():
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "train.json").write_text(json.dumps(content | more))
    return coco.make(split="train", path=str(root), hold_out=0)


def check(source):
    summary = quality.inspect(source, 100)
    quality.require_trainable(source, summary)
    return summary


def test_coco_and_voc_are_judged(tmp_path):
    with pytest.raises(UserError, match=r"train\.json, split 'train': .* corners x1,y1,x2,y2"):
        write_coco(tmp_path, np.split(boxes(8), 4))
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    for number, box in enumerate(sides(boxes(8))):
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box.tolist()))
        text = f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
        (tmp_path / "Annotations" / f"{number}.xml").write_text(text)
        PIL.Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "JPEGImages" / f"{number}.png")
    with pytest.raises(UserError, match=r"Annotations, split 'train': .* x,y,width,height: write corners"):
        voc.make(split="train", path=str(tmp_path), hold_out=0)


def test_what_is_odd_is_counted(tmp_path):
    good = sides(boxes(12))
    good[0, :3] = -5, 10, 20
    thin = [[3, 3, 0.5, 9]]
    found = check(write_coco(tmp_path, [np.concatenate([good, good[4:6], thin]), good[:6]]))
    assert found.noted == {
        "box clipped to the image": (2, "annotations[0] (id 0)"),
        "box thinner than a pixel": (1, "0.png #15"),
        "box listed before, of the same class": (2, "0.png #13"),
    }
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(quality.table(found))
    line = "noted in train: 2 × box clipped to the image, such as annotations[0] (id 0)"
    assert line in map(str.strip, console.export_text().splitlines())


def test_the_same_objects_or_files_twice_stop(tmp_path):
    good = sides(boxes(6))
    with pytest.raises(UserError, match=r"has 12 boxes, 6 of them × box listed before.*0\.png #4: .*merged"):
        check(write_coco(tmp_path, [np.concatenate([part, part]) for part in np.split(good, 2)]))
    twice = [{"id": number, "file_name": f"{number % 2}.png", "height": HEIGHT, "width": WIDTH} for number in range(4)]
    with pytest.raises(UserError, match=r"2 of 4 images are files listed before .* 0\.png \(ids 0 and 2\); .* merged"):
        check(write_coco(tmp_path, np.split(good[:4], 4), images=twice))
    twice[3]["file_name"] = "2.png"
    source = write_coco(tmp_path, np.split(good[:4], 4), images=twice)
    assert source.dropped == {
        "image file listed before, whose objects join the first": ["0.png (ids 0 and 2)"],
    }
    assert [len(record["boxes"]) for record in source.records] == [2, 1, 1]  # none is background elsewhere
    again = [record | {"image": "a.png"} for record in source.records[:]] * 2
    with pytest.raises(UserError, match=r"lists 6 images, 5 of them × image file listed before, such as \S+\.png: "):
        check(source._replace(records=again))


def test_points_as_shares_are_told(tmp_path):
    category = {"id": 1, "name": "cat", "keypoints": ["nose", "ear"]}
    for beside in ({"keypoints": [0.1, 0.5, 2, 0.7, 1, 2]}, {"segmentation": [[0.1, 0.2, 0.9, 0.2, 0.5, 0.8]]}):
        one = {"category_id": 1, "bbox": [1, 2, 30, 40]} | beside
        annotations = [one | {"id": number, "image_id": number} for number in range(4)]
        write_coco(tmp_path, [[]] * 4, annotations=annotations, categories=[category])
        needs = "keypoints" if "keypoints" in beside else "masks"
        with pytest.raises(UserError, match=r"of 4 of 4 objects all points .*annotations\[0\].* shares of the image"):
            coco.make(split="train", path=str(tmp_path), hold_out=0, needs=needs)


def test_crowds_alone_are_told(tmp_path):
    annotations = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 1}]
    with pytest.raises(
        UserError, match="from, or be scored by, in its 1 images: all 1 are crowd or difficult, such as in "
    ):
        check(write_coco(tmp_path, [[]], annotations=annotations))


def test_boxes_that_fit_the_other_way_up_name_the_orientation():
    written = Written(CORNERS)
    for number, box in enumerate(boxes(largest=110).tolist()):
        written.add(box, (WIDTH, HEIGHT), (HEIGHT, WIDTH), f"#{number}")
    with pytest.raises(UserError, match=r"they fit where EXIF turns the images the other way: see data\.orientation"):
        written.require_plausible("the file")


@pytest.mark.parametrize(("scale", "said"), [(0.49, 40), (1, 0)])
def test_boxes_of_smaller_images_are_told(scale, said):
    written = Written(SIDES)
    for number, box in enumerate((sides(boxes()) * scale).tolist()):
        written.add(box, (HEIGHT, WIDTH), (HEIGHT, WIDTH), f"#{number}")
    assert [len(places) for reason, places in written.noted().items() if "percents" in reason] == [said] * bool(said)
