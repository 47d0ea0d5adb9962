"""Fields, names and sizes of COCO files that are not what they should be: read, left out and counted, or refused."""

import json

import numpy as np
import PIL.Image
import pytest

from mapjax.data.formats import coco
from mapjax.errors import UserError

CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]


def ann(number, image=0, **more):
    return {"id": number, "image_id": image, "category_id": 9, "bbox": [2, 3, 10, 10]} | more


def entry(number, **more):
    return {"id": number, "file_name": f"{number}.png", "height": 16, "width": 20} | more


@pytest.fixture
def data(tmp_path):
    """Write so many images and a JSON file; the options of `coco.make`."""

    def write(annotations, images=None, categories=CATEGORIES, count=3):
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for number in range(count):
            PIL.Image.new("L", (20, 16)).save(root / f"{number}.png")
        images = [entry(number) for number in range(count)] if images is None else images
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "train.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return coco.make(split="train", path=str(root), hold_out=0)

    return write


NOTED = {
    "iscrowd": "iscrowd that cannot be read, taken as 0",
    "area": "area that cannot be read, taken of the box",
}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("iscrowd", "0", False),
        ("iscrowd", "1", True),
        ("iscrowd", "true", True),
        ("iscrowd", None, False),
        ("iscrowd", "maybe", None),
        ("iscrowd", [1], None),
        ("iscrowd", float("nan"), None),
        ("area", "42", 42),
        ("area", float("nan"), None),
        ("area", float("inf"), None),
        ("area", 10**400, None),
        ("area", 1e300, None),
        ("area", -1, None),
        ("area", "large", None),
        ("bbox", ["2", 3.0, "10", 10], [2, 3, 12, 13]),
        ("image_id", "0", 0),
        ("category_id", 9.0, 1),
    ],
)
def test_a_field_is_read_or_has_its_default(data, field, value, expected):
    source = data([ann(1, **{field: value}), ann(2, image=1)])
    record = source.records[0]
    found = {
        "iscrowd": record["crowd"], "area": record["areas"], "bbox": record["boxes"], "category_id": record["classes"],
        "image_id": [record["id"]],
    }[field][0]  # fmt: skip
    default = {"iscrowd": False, "area": 100}.get(field)
    np.testing.assert_array_equal(found, default if expected is None else expected)
    assert len(source.records) == 3 and not source.dropped
    assert source.noted == ({NOTED[field]: ["annotations[0] (id 1)"]} if expected is None else {})


BAD_BOXES = [None, [], [1, 2, 3], [1, 2, float("nan"), 4], [1, 2, 10**400, 4], [1, 2, 1e30, 4], ["a", 2, 3, 4]]
BAD_BOXES += [[True, 2, 3, 4], {"x": 1}, "1 2 3 4"]


@pytest.mark.parametrize("more", [*({"bbox": box} for box in BAD_BOXES), *({"category_id": n} for n in (7, "x", None))])
def test_an_image_with_an_object_that_cannot_be_read_is_no_background(data, more):
    source = data([ann(1), ann(2, **more), ann(3, image=1)])
    assert [record["file"] for record in source.records] == ["1.png", "2.png"]
    ((reason, where),) = source.dropped.items()
    assert reason.startswith("image with an object") and where == ["0.png, annotations[1] (id 2)"]
    with pytest.raises(UserError, match=r"not one of 3 images can be used.*annotations\[0\] \(id 5\)"):
        data([ann(5 + image, image=image, **more) for image in range(3)])


def test_a_box_is_taken_around_the_segmentation(data):
    runs = {"size": [16, 20], "counts": [16 * 2 + 3, 4, 12, 4, 265]}
    source = data([ann(1, bbox=None, segmentation=[[2, 3, 8, 3, 8, 9]]), ann(2, bbox=[], segmentation=runs)])
    np.testing.assert_array_equal(source.records[0]["boxes"], [[2, 3, 8, 9], [2, 3, 4, 7]])
    assert len(source.noted["box that cannot be read, taken around the segmentation"]) == 2


@pytest.mark.parametrize("bad", [None, "x", 2**63, 10**400, float("nan"), True, [1]])
def test_one_bad_id_stops_nothing(data, bad):
    images = [entry(0), entry(1), entry(bad, file_name="2.png")]
    categories = [*CATEGORIES, {"id": bad, "name": "ant"}, "ant"]
    source = data([ann(1), ann(2, image=bad), 7], images, categories)
    assert source.classes == ("cat", "dog") and len(source.records) == 2
    assert {reason: len(where) for reason, where in source.dropped.items()} == {
        "image without an id or a name": 1,
        "category without an id or a name": 2,
        "annotation without an image id": 2,
    }
    for more in ({"images": images[2:]}, {"categories": categories[2:]}):
        with pytest.raises(UserError, match=r"not one .* can be used: .*train\.json: .*'id'"):
            data([ann(1)], **more)


@pytest.mark.parametrize("bad", [None, 7, "", "a\0b.png", "\ud800.png"])
def test_one_bad_name_stops_nothing(data, bad):
    source = data([ann(1)], [entry(0), entry(1, file_name=bad)])
    assert len(source.records) == 1 and len(source.dropped["image without an id or a name"]) == 1


@pytest.mark.parametrize("side", ["16", 16.0, None, float("nan"), -1, 10**400, True, "x"])
def test_a_size_that_cannot_be_read_is_that_of_the_image(data, side):
    source = data([ann(1)], [entry(0, height=side)])
    assert [record["size"].tolist() for record in source.records] == [[16, 20]] and not source.dropped


@pytest.mark.parametrize("depth", [100_000])
def test_lists_within_lists_are_one_sentence(tmp_path, depth):
    (tmp_path / "train.json").write_text("[" * depth)
    with pytest.raises(UserError, match=r"train\.json has lists within lists, too deep"):
        coco.make(split="train", path=str(tmp_path))


@pytest.mark.parametrize("name", ["../out.png", "..\\out.png", "%2e%2e/out.png", "a/../../out.png", "/", "{}/out.png"])
def test_names_that_leave_the_folder_are_refused(data, tmp_path, name):
    PIL.Image.new("L", (20, 16)).save(tmp_path / "out.png")
    name = name.format(tmp_path)
    source = data([ann(1), ann(2, image=9)], [entry(0), entry(9, file_name=name)])
    assert [record["file"] for record in source.records] == ["0.png"]
    assert source.dropped == {"image name that leaves the data folder": [name]}
    with pytest.raises(UserError, match=r"leave the data folder|no image such as"):
        data([ann(1)], [entry(9, file_name=name)])


def test_names_that_come_back_are_not(data):
    assert len(data([ann(1)], [entry(0, file_name="a/../0.png"), entry(1)]).records) >= 1


def test_images_of_another_size_than_the_json_says(data):
    images = [entry(0), entry(1, height=32, width=40), entry(2)]
    source = data([ann(n, image=n) for n in range(3)], images)
    assert len(source.records) == 2 and source.dropped == {
        "image of another size than the JSON says": ["1.png (32×40 in the JSON, and the image 16×20, height × width)"]
    }
    for odd in ({"height": 32, "width": 40}, {"height": 20, "width": 16}):  # the second: exchanged
        with pytest.raises(UserError, match=r"split 'train': 2 of 3 images have another size .*0\.png.*resized"):
            data([ann(1)], [entry(0, **odd), entry(1, **odd), entry(2)])


def test_an_image_turned_by_its_tag_is_of_the_size_that_was_labelled(data, tmp_path):
    data([])
    tag = PIL.Image.Exif()
    tag[0x0112] = 6
    PIL.Image.new("L", (20, 16)).save(tmp_path / "data/0.jpg", exif=tag)
    assert len(data([], [entry(0, file_name="0.jpg", height=20, width=16)]).records) == 1


ROOT = [{"id": 0, "name": "pets", "supercategory": "none"}]
LEAVES = [one | {"supercategory": "pets"} for one in CATEGORIES]


def test_the_root_that_exporters_add_is_no_class(data):
    source = data([ann(1)], categories=ROOT + LEAVES)
    assert source.classes == ("cat", "dog") and source.category_ids == (3, 9)
    assert source.dropped == {"category without objects that only groups the others": ["pets (id 0)"]}
    assert data([ann(1, category_id=0)], categories=ROOT + LEAVES).classes == ("pets", "cat", "dog")
    alone = [one | {"supercategory": "none"} for one in CATEGORIES]
    assert data([], categories=alone).classes == ("cat", "dog")  # each is a class without objects
    assert data([], categories=ROOT + alone).classes == ("pets", "cat", "dog")
