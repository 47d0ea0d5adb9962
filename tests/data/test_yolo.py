"""YOLO folders, whole and broken."""

import json
import os

import numpy as np
import PIL.Image
import pytest

from mapjax.config import load as configs
from mapjax.data.formats import coco, coco_masks, yolo
from mapjax.errors import UserError

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
BOX = "1 0.35 0.5 0.5 0.625"  # (2, 3, 12, 13) of 20 × 16 pixels


@pytest.fixture
def folder(tmp_path):
    """Write a data set: label files by image (None: there is none), 20 wide and 16 high; data.yaml, and other files."""

    def write(labels, described=YAML, **files):
        for image, text in labels.items():
            file = tmp_path / image
            file.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (20, 16)).save(file)
            place = tmp_path / image.replace("images/", "labels/").replace(".png", ".txt")
            place.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                place.write_bytes(text if isinstance(text, bytes) else text.encode())
        for name, text in {"data.yaml": described, **files}.items():
            if text is not None:
                (tmp_path / name).write_text(text)
        return str(tmp_path)

    return write


def read(path, split="train", **options):
    return yolo.make(split=split, path=path, **{"hold_out": 0, **options})


def many(text, *more):
    """Twelve images with a box, and others."""
    return {f"images/train/{k:02}.png": BOX for k in range(12)} | {
        f"images/train/x{k}.png": one for k, one in enumerate((text, *more))
    }


def test_a_folder_is_read(folder):
    labels = {"images/train/a.png": f"{BOX}\n0 .5 .5 1 1\n", "images/train/b/c d.png": BOX, "images/val/d.png": BOX}
    path = folder(labels)
    train, val = read(path), read(path, "val")
    assert train.classes == val.classes == ("cat", "dog") and train.category_ids == (1, 2)
    record = train.records[0]
    np.testing.assert_allclose(record["boxes"], [[2, 3, 12, 13], [0, 0, 20, 16]], atol=1e-5)
    np.testing.assert_array_equal(record["classes"], [1, 0])
    np.testing.assert_allclose(record["areas"], [100, 320], rtol=1e-5)
    assert not record["crowd"].any() and record["size"].tolist() == [16, 20]
    assert [one["file"] for one in train.records] == ["images/train/a.png", "images/train/b/c d.png"]
    assert not train.dropped and not train.noted
    assert train.fingerprint == read(path).fingerprint == read(f"{path}/data.yaml").fingerprint != val.fingerprint


def test_an_image_without_labels_has_no_objects_and_is_counted(folder):
    path = folder({"images/train/a.png": BOX, "images/train/b.png": None, "images/train/c.png": "\n \n"})
    source = read(path)
    assert [len(one["boxes"]) for one in source.records] == [1, 0, 0] and not source.dropped
    assert source.noted == {
        "image without a label file, taken as one without objects": ["images/train/b.png"],
        "image with an empty label file, one without objects": ["images/train/c.png"],
    }


@pytest.mark.parametrize(
    ("described", "files"),
    [
        ("train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\nnc: 2", {}),
        ("train: ../images/train\nval: ../images/val\nnames:\n- cat\n- dog", {}),  # as Roboflow writes it
        ("path: /content/mine\ntrain: [images/train]\nval: [/content/mine/images/val]\nnames: [cat, dog]", {}),
        ("train: t.txt\nval: v.txt\nnames: [cat, dog]\ntest:", {"t.txt": "./images/train/a.png\n\nimages/train/b.png",
                                                               "v.txt": "/old/place/images/val/c.png\r\n"}),
        ("train: t.txt\nval: images/val\nnames: [cat, dog]", {"t.txt": "images\\train\\A.PNG\nimages/train/b"}),
        (None, {"classes.txt": "cat\ndog\n"}),
        (None, {"labels/classes.txt": "cat\ndog\n"}),
    ],
)  # fmt: skip
def test_the_ways_in_which_data_sets_say_where_they_are(folder, described, files):
    labels = {"images/train/a.png": BOX, "images/train/b.png": BOX, "images/val/c.png": BOX}
    path = folder(labels, described, **files)
    assert [one["file"] for one in read(path).records] == ["images/train/a.png", "images/train/b.png"]
    assert [one["file"] for one in read(path, "val").records] == ["images/val/c.png"]
    assert read(path).classes == ("cat", "dog") and not read(path).dropped


def test_without_names_classes_are_numbered_over_all_splits(folder):
    path = folder({"train/images/a.png": BOX, "valid/images/b.png": "4 .5 .5 .5 .5"}, None)
    assert read(path).classes == read(path, "val").classes == ("0", "1", "2", "3", "4")


def test_labels_beside_their_images_and_a_part_held_out(folder):
    path = folder({f"all/{k}.png": BOX for k in range(10)}, "train: all\nnames: [no, yes]")
    for name in os.listdir(f"{path}/all"):
        assert name.endswith((".png", ".txt"))
    train, val = read(path, hold_out=0.2), read(path, "val", hold_out=0.2)
    assert (len(train.records), len(val.records)) == (8, 2) and train.classes == ("no", "yes")
    assert not {one["file"] for one in train.records} & {one["file"] for one in val.records}


def test_polygons_are_boxes_and_masks(folder):
    polygon = "0 0.1 0.25 0.6 0.25 0.6 0.75"
    path = folder({"images/train/a.png": f"{polygon}\n"})
    record = read(path, needs="masks").records[0]
    np.testing.assert_allclose(record["boxes"], [[2, 4, 12, 12]], atol=1e-5)
    np.testing.assert_allclose(record["areas"], [40], rtol=1e-5)
    triangle = np.array([[2.0, 4], [12, 4], [12, 12]])
    np.testing.assert_array_equal(record["masks"][0], coco_masks.fill([triangle], (16, 20)))
    folder({"images/train/b.png": f"{BOX}\n{polygon}", "images/train/c.png": polygon} | {
        f"images/train/d{k}.png": polygon for k in range(18)})  # fmt: skip
    mixed = read(path)
    assert len(mixed.records) == 21 and mixed.noted == {
        "polygons and rows of five are mixed; rows of five": ["labels/train/b.txt line 1"]
    }
    drawn = read(path, masks=True)
    assert len(drawn.records) == 20
    assert drawn.dropped == {"image with an object without a polygon": ["labels/train/b.txt line 1"]}
    with pytest.raises(UserError, match=r"3 of 3 images have an object without a polygon.*draw polygons"):
        read(folder({f"images/val/{k}.png": BOX for k in range(3)}), "val", needs="masks")


def test_keypoints_with_and_without_visibility(folder):
    described = YAML + "kpt_shape: [2, 3]\nflip_idx: [1, 0]\nkpt_names: {0: [left, right]}\n"
    path = folder({"images/train/a.png": f"{BOX} .25 .5 2 .5 .25 0\n{BOX}"}, described)
    source = read(path, needs="keypoints")
    record = source.records[0]
    np.testing.assert_allclose(record["keypoints"][0], [[5, 8, 2], [0, 0, 0]], atol=1e-5)
    assert not record["keypoints"][1].any() and record["mirrored"].tolist() == [1, 0]
    assert source.keypoints == ("left", "right")
    assert source.noted["row without keypoints, taken as not labelled"] == ["labels/train/a.txt line 2"]
    path = folder({"images/train/a.png": f"{BOX} .25 .5 0 0\n"}, YAML + "kpt_shape: [2, 2]")
    source = read(path, needs="keypoints")
    assert source.records[0]["keypoints"].tolist() == [[[5, 8, 2], [0, 0, 0]]] and source.keypoints == ("0", "1")
    with pytest.raises(UserError, match=r"data\.yaml: the skeleton names 'tail', which is no keypoint"):
        read(path, needs="keypoints", skeleton=(("0", "tail"),))
    with pytest.raises(UserError, match="has no kpt_shape"):
        read(folder({}), needs="keypoints")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 .5 .5 nan .5", "image with a row that is not all finite numbers"),
        ("0 .5 .5 1e400 .5", "image with a row that is not all finite numbers"),
        ("cat .5 .5 .5 .5", "image with a row that is not all finite numbers"),
        ("0,.5,.5,.5,.5", "image with a row that is not all finite numbers"),
        ("0.5 .5 .5 .5 .5", "image with a row whose class is no whole number from 0 on"),
        ("-1 .5 .5 .5 .5", "image with a row whose class is no whole number from 0 on"),
        ("0 .5 .5 .5", "image with a row of another length"),
        ("0 .5 .5 .5 .5 .9", "image with a row of another length"),
        (BOX + " .5" * 51, "image with a row of another length"),
        ("2 .5 .5 .5 .5", "image with an object of a class beyond the names"),
        (b"\xff\xfe0\x00", "image whose label file cannot be read as text"),
    ],
)
def test_an_image_with_a_row_that_cannot_be_read_is_left_out(folder, text, reason):
    source = read(folder(many(text)))
    assert len(source.records) == 12 and list(source.dropped) == [reason]
    if "cannot be read as text" not in reason:
        with pytest.raises(
            UserError, match=rf"7 of 19 images have {reason[11:]}, such as labels/train/x0.txt line 1.*; "
        ):
            read(folder(many(*[text] * 7)))


def test_what_else_is_left_out_or_noted(folder, tmp_path):
    texts = ("0 .5 .5 0 .5", "0 3 3 .1 .1", "0 .9 .5 .4 .4", BOX, BOX)
    path = folder(many(*texts))
    (tmp_path / "images/train/x3.png").write_bytes(b"\x89PNG but no more")
    (tmp_path / "images/train/x4.png").unlink()
    source = read(path)
    assert len(source.records) == 15
    assert source.dropped == {
        "empty box": ["labels/train/x0.txt line 1"],
        "box outside the image": ["labels/train/x1.txt line 1"],
        "unreadable image": ["images/train/x3.png"],
        "label file without an image": ["labels/train/x4.txt"],
    }
    assert source.noted == {"box clipped to the image": ["labels/train/x2.txt line 1"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 7 8 10 10", "rows have numbers far above 1, such as .* line 1; they look like pixels: divide x"),
        ("0 0.2 0.1 0.9 0.8", "they look like corners x1,y1,x2,y2: write centre x, centre y, width, height"),
        ("0 0.02 0.03 0.03 0.03", "look like shares of the image from 0 to 1: multiply them"),
    ],
)
def test_labels_in_another_form_stop_the_run(folder, text, words):
    with pytest.raises(UserError, match=words):
        read(folder({f"images/train/{k}.png": f"{text}\n{text}" for k in range(6)}))


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ("train: [", "is not to be read as YAML"),
        ("[" * 900_000, "too deep to be read"),
        ("a: &a [1]\nb: *a", "refers to its own parts"),
        ("names: [a]\nnames: [b]\ntrain: images/train", "has the key 'names' twice"),
        ("names: [" + "a, " * 400_000 + "]", "more than 1,000,000 bytes"),
        ("- train", "has no keys"),
        ("names: [cat]", "has no 'train' or 'val'"),
        ("train: {a: b}\nnames: [cat]", "train must be a folder"),
        ("train: images/train\nnames: [cat, cat]", "names 'cat' twice"),
        ("train: images/train\nnames: []", "names no class"),
        ("train: images/train\nnames: cat", "names must be a list"),
        ("train: images/train\nnames: {1: cat, 2: dog}", "none of the number 0; count from 0 on"),
        ("train: images/train\nnames: [cat]\nnc: 2", "nc: 2 and names 1 classes"),
        ("train: images/train\nnc: 4294967295", "nc: '4294967295' must be the number of classes"),
        ("train: images/train\nnc: 2\nkpt_shape: [17]", "kpt_shape"),
        ("train: images/train\nnc: 2\nkpt_shape: [2, 3]\nflip_idx: [0, 0]", "flip_idx must have each"),
        ("train: images/trian\nnc: 2", "'images/trian' is not there"),
        ("train: ../../../../../../../../etc\nnc: 2", "'../../../../../../../../etc' leaves the data folder"),
        ("train: /etc\nnc: 2", "'/etc' leaves the data folder"),
        ("train: lost.txt\nnc: 2", "none of its 2 images, such as 'gone/a.png', is there"),
        ("train: away.txt\nnc: 2", "such as '../outside.png', leaves the data folder"),
    ],
)
def test_a_data_yaml_that_cannot_be_is_a_sentence(folder, tmp_path, described, words):
    path = folder({"inner/images/train/a.png": BOX}, None)
    (tmp_path / "outside.png").touch()
    (tmp_path / "inner/data.yaml").write_text(described)
    (tmp_path / "inner/lost.txt").write_text("gone/a.png\ngone/b.png")
    (tmp_path / "inner/away.txt").write_text("../outside.png")
    with pytest.raises(UserError, match=words):
        read(f"{path}/inner")


def test_lists_of_files_with_missing_strange_and_repeated_lines(folder, tmp_path):
    lines = ["images/train/a.png", "./images/train/a.png", "images/train/gone.png", "../outside.png"]
    labels = {"inner/images/train/a.png": BOX, "inner/images/train/b.png": BOX, "outside.png": None}
    path = folder(labels, None) + "/inner"
    (tmp_path / "inner" / "data.yaml").write_text("train: t.txt\nnames: [cat, dog]")
    (tmp_path / "inner" / "t.txt").write_text("\n".join(lines))
    source = read(path)
    assert [one["file"] for one in source.records] == ["images/train/a.png"]
    assert source.dropped == {
        "image listed twice": ["images/train/a.png"],
        "missing image": ["images/train/gone.png"],
        "image name that leaves the data folder": ["../outside.png"],
    }


def test_folders_that_are_none(folder, tmp_path):
    for path, words in ((tmp_path / "no", "is not there"), (tmp_path, "is no YOLO data set")):
        with pytest.raises(UserError, match=words):
            read(str(path))
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(YAML)
    with pytest.raises(UserError, match=r"has one.yaml, two.yaml; name the one"):
        read(str(tmp_path))
    with pytest.raises(UserError, match=r"not one of 2 images of 'train' has a label file: that of images/train/a.png"):
        read(folder({"images/train/a.png": None, "images/train/b.png": None}))
    with pytest.raises(UserError, match=r"names no class 'cow'"):
        read(folder({"images/train/a.png": BOX}), classes=("cow",))


def test_some_classes_are_asked_for(folder):
    source = read(folder({"images/train/a.png": f"{BOX}\n0 .5 .5 .5 .5"}), classes=("dog",))
    assert source.classes == ("dog",) and source.records[0]["classes"].tolist() == [0]
    assert source.dropped == {"class not asked for": ["labels/train/a.txt line 2"]}


def test_a_folder_is_recognised_by_what_it_has(folder):
    path = folder({"images/train/a.png": BOX})
    with pytest.raises(UserError, match=f"say its format before the path: yolo:{path}"):
        configs.parse_data(path)
    assert configs.parse_data(f"yolo:{path}") == {"name": "yolo", "path": path}


def test_the_same_boxes_as_coco_json_gives(folder, tmp_path):
    """A file of each form of the same boxes; the shares have six digits, as the field writes them."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 16, (40, 2, 2)), axis=1).reshape(-1, 4)
    entries, objects, labels = [], [], {}
    for k, (x1, y1, x2, y2) in enumerate(corners.tolist()):
        entries.append({"id": k, "file_name": f"{k:02}.png", "height": 16, "width": 20})
        box = [x1, y1, x2 - x1, y2 - y1]
        objects.append({"id": k, "image_id": k, "category_id": k % 2, "bbox": box})
        shares = [(x1 + x2) / 40, (y1 + y2) / 32, box[2] / 20, box[3] / 16]
        labels[f"images/train/{k:02}.png"] = f"{k % 2} " + " ".join(f"{share:.6f}" for share in shares)
    categories = [{"id": k, "name": name} for k, name in enumerate(("cat", "dog"))]
    file = tmp_path / "a.json"
    path = folder(labels)
    file.write_text(json.dumps({"images": entries, "annotations": objects, "categories": categories}))
    one, other = read(path), coco.make(split="train", annotations=str(file), images=f"{path}/images/train", hold_out=0)
    for ours, theirs in zip(one.records, other.records, strict=True):
        np.testing.assert_allclose(ours["boxes"], theirs["boxes"], atol=3e-5)
        np.testing.assert_array_equal(ours["classes"], theirs["classes"])
