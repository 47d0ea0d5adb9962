"""Any source becomes shards that say the same: labels of every kind, and images without."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest
from prepared_sets import equal, folder, opened, written

from mapjax.data import run_lengths
from mapjax.data.prepared import reader
from mapjax.data.source import kind_of, label_map_of, labels_of, largest_size, truth_of
from mapjax.errors import UserError

LABELS = [("train", 0, "dog;cat"), ("train", 1, "dog"), ("train", 2, "")]


@pytest.mark.parametrize(
    "node",
    [
        {"name": "digits", "tail": 100, "hold_out": 0.05},
        {"name": "scenes", "size": (32, 32), "digit_size": (10.0, 16.0), "train_length": 5, "val_length": 3},
    ],
)
def test_embedded_sets_say_the_same(node, tmp_path):
    sources, index, count = written(node, tmp_path / "out", splits=())
    assert list(index["splits"]) == ["train", "val"] and count == 6
    for split, source in sources.items():
        found = reader.make(split=split, path=str(tmp_path / "out"))
        assert found.classes == source.classes and found.category_ids == source.category_ids
        assert len(found.records) == len(source.records)
        for row in range(0, len(source.records), 1 + len(source.records) // 40):
            equal(found.records[row], source.records[row])
        if node["name"] == "digits":
            np.testing.assert_array_equal(labels_of(found), labels_of(source), strict=True)


def test_boxes_crowds_masks_and_ids_of_coco(coco, tmp_path):
    sources, index, _ = written(coco, tmp_path / "out")
    found = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0)
    assert found.classes == ("cat", "dog") and found.category_ids == (3, 9) and index["kind"] == "boxes"
    assert found.dropped == sources["train"].dropped == {"empty box": ["annotations[2] (id 3)"]}
    for record, original in zip(found.records, sources["train"].records):
        equal(record, original)
        assert record["image"] == pathlib.Path(original["image"]).read_bytes()
        np.testing.assert_equal(truth_of(found, record["id"] - 40)["masks"], record["masks"])
    assert [run_lengths.area(mask) for mask in found.records[0]["masks"]] == [
        run_lengths.area(sources["train"].records[0]["masks"][0])
    ]


def test_keypoints_are_prepared(tmp_path):
    keypoints = {"keypoints": ["nose", "left_ear", "right_ear"]}
    PIL.Image.new("RGB", (20, 16)).save(tmp_path / "x.png")
    objects = [
        {
            "id": n,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 9, 9],
            "keypoints": [n + 0.25, 3, 2, 4, 5, 1, 0, 0, 0],
        }
        for n in range(2)
    ]
    found = {"images": [{"id": 1, "file_name": "x.png", "height": 16, "width": 20}], "annotations": objects}
    found["categories"] = [{"id": 1, "name": "dog", **keypoints}]
    (tmp_path / "train.json").write_text(json.dumps(found))
    node = {"name": "coco", "path": str(tmp_path), "hold_out": 0}
    sources, index, _ = written(node, tmp_path / "out", needs="keypoints")
    assert index["kind"] == "boxes" and index["kinds"] == ["boxes", "keypoints"]
    source = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0, needs="keypoints")
    assert source.keypoints == sources["train"].keypoints == ("nose", "left_ear", "right_ear")
    record = source.records[0]
    equal(record, sources["train"].records[0])
    equal(truth_of(source, 0) | {"image": record["image"]}, record)
    assert record["keypoints"][1].tolist() == [[1.25, 3, 2], [4, 5, 1], [0, 0, 0]]


def test_labels_that_were_not_prepared_are_told(coco, photos, tmp_path):
    """Whether the index lists the kinds, or is one of mapjax 0.1, whose kinds the stored labels say."""
    out, plain = tmp_path / "out", {**coco, "masks": False}
    written(plain, out)
    for needs, ok in (("boxes", True), ("", True), ("views", True), ("masks", False), ("label", False)):
        for kinds in (["boxes"], None):
            index = json.loads((out / "index.json").read_text())
            old = {key: value for key, value in index.items() if key != "kinds"}
            (out / "index.json").write_text(json.dumps(old | ({"kinds": kinds} if kinds else {})))
            if ok:
                assert len(reader.make(split="train", path=str(out), hold_out=0, needs=needs).records) == 2
                continue
            with pytest.raises(
                UserError, match=rf"prepared with boxes, and this task .*; .* mapjax prepare --needs {needs}"
            ):
                reader.make(split="train", path=str(out), hold_out=0, needs=needs)
    with pytest.raises(UserError, match="holds another data set, or this one by other options"):
        written(plain, out, needs="masks")
    written(plain, tmp_path / "masks", needs="masks")
    found = reader.make(split="train", path=str(tmp_path / "masks"), hold_out=0, needs="masks")
    assert run_lengths.area(found.records[0]["masks"][0]) == run_lengths.area(
        opened(coco)["train"].records[0]["masks"][0]
    )
    with pytest.raises(UserError, match=r"'maks' is no kind of label\. Did you mean 'masks'"):
        opened(plain, needs="maks")
    with pytest.raises(UserError, match="has label, not the keypoints of --needs; leave that out"):
        opened(folder(photos), needs="keypoints")
    assert opened(folder(photos), needs="labels")  # a classifier learns from one class an image or from several


def test_images_without_labels_are_prepared(photos, tmp_path):
    sources, index, _ = written(folder(photos), tmp_path / "out", needs="")
    found = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0)
    assert index["kind"] == "" and index["kinds"] == [] and found.classes == () and kind_of(found) is None
    for record, original in zip(found.records, sources["train"].records, strict=True):
        equal(record, original)
    with pytest.raises(UserError, match="was prepared with images alone, and this task learns from label;"):
        reader.make(split="train", path=str(tmp_path / "out"), needs="label")


def test_label_maps_are_prepared(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind).mkdir(parents=True, exist_ok=True)
            array = rng.integers(0, 3, (6, 5 + number)).astype(np.uint8)
            PIL.Image.fromarray(array).save(tmp_path / "data" / kind / f"{number}.png")
    (tmp_path / "data" / "classes.txt").write_text("void\nsky\nroad\n")
    sources, index, _ = written({"name": "masks", "path": str(tmp_path / "data")}, tmp_path / "out")
    found = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0)
    assert index["kind"] == "label_map" and found.category_ids == (1, 2) and kind_of(found) == "label_map"
    assert largest_size(found) == largest_size(sources["train"])
    for row, (record, original) in enumerate(zip(found.records, sources["train"].records, strict=True)):
        equal(record, original)
        np.testing.assert_array_equal(label_map_of(found, row), original["label_map"])


def test_several_labels_a_image(photos, tmp_path):
    rows = [f"{split}/{'ab'[n % 2]}/{n}.jpg,{label},{split}" for split, n, label in LABELS]
    (photos / "labels.csv").write_text("\n".join(["path,labels,split", *rows]))
    node = {"name": "table", "path": str(photos / "labels.csv")}
    sources, index, _ = written(node, tmp_path / "out")
    found = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0)
    assert index["kind"] == "labels" and found.classes == ("cat", "dog")
    np.testing.assert_array_equal(labels_of(found), [[True, True], [False, True], [False, False]], strict=True)
    for record, original in zip(found.records, sources["train"].records, strict=True):
        equal(record, original)
