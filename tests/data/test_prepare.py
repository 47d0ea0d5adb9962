"""Any source becomes shards that say the same, whatever happened on the way."""

import hashlib
import json
import os
import pathlib
import shutil
import signal

import numpy as np
import PIL.Image
import pytest

from mapjax.data import images, run_lengths
from mapjax.data.prepared import prepare, reader, shards
from mapjax.data.source import Records, Source, kind_of, label_map_of, labels_of, largest_size, truth_of
from mapjax.errors import NoSuchSplit, UserError

IMAGES = 7
LABELS = [("train", 0, "dog;cat"), ("train", 1, "dog"), ("train", 2, "")]


def deadly(index):
    """A record that kills who asks for it."""
    os.kill(os.getpid(), signal.SIGKILL)


def broken(index):
    """A record whose source has a bug."""
    raise RuntimeError("a bug")


@pytest.fixture
def photos(tmp_path):
    """A folder of seven images in two classes."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        file = tmp_path / "data" / "train" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)).save(file)
    return tmp_path / "data"


@pytest.fixture
def coco(tmp_path):
    """Two images with boxes, ids of their own, a crowd and masks."""
    (tmp_path / "coco" / "images").mkdir(parents=True)
    for name in ("x.png", "y.png", "z.png"):
        PIL.Image.new("RGB", (20, 16), (9, 90, 200)).save(tmp_path / "coco" / "images" / name)
    objects = [
        {
            "id": 1,
            "image_id": 40,
            "category_id": 9,
            "bbox": [1, 2, 5, 6],
            "area": 20,
            "segmentation": [[1, 2, 6, 2, 6, 8]],
        },
        {"id": 2, "image_id": 41, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": None},
        {"id": 3, "image_id": 41, "category_id": 9, "bbox": [3, 3, 0, 2]},
    ]
    entries = [
        {"id": 40 + n, "file_name": name, "height": 16, "width": 20} for n, name in enumerate(("x.png", "y.png"))
    ]
    categories = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    file = tmp_path / "coco" / "train.json"
    file.write_text(json.dumps({"images": entries, "annotations": objects, "categories": categories}))
    return {"name": "coco", "path": str(tmp_path / "coco"), "hold_out": 0, "masks": True}


def opened(node, splits=("train",), needs=None):
    return prepare.open_splits(node, splits, needs)


def written(node, out, *, splits=("train",), count=3, shuffle=None, needs=None, **options):
    sources = opened(node, splits, needs)
    plan = prepare.make_plan(sources, out, count, shuffle, needs)
    return sources, *prepare.prepare(sources, out, plan, data="test", **options)


def folder(path, **options):
    return {"name": "folder", "path": str(path), "hold_out": 0, **options}


def contents(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(pathlib.Path(out).iterdir())}


def equal(record, other):
    """Compare two records; the image as it is stored where both store one, else its pixels; masks likewise."""
    assert record.keys() == other.keys()
    if "masks" in record:
        masks, expected = (run_lengths.stacked(one["masks"], tuple(one["size"].tolist())) for one in (record, other))
        np.testing.assert_array_equal(masks, expected, strict=True)
    for key in record.keys() - {"image", "masks"}:
        np.testing.assert_array_equal(record[key], other[key], strict=True)
    np.testing.assert_array_equal(images.read(record["image"]), images.read(other["image"]))


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
        sources["train"].records[0]["masks"][0].sum()
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
    assert run_lengths.area(found.records[0]["masks"][0]) == opened(coco)["train"].records[0]["masks"][0].sum()
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


def test_images_keep_their_bytes_and_their_order(photos, tmp_path):
    sources, _, count = written(folder(photos), tmp_path / "out")
    found = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0)
    assert count == 3
    for record, original in zip(found.records, sources["train"].records, strict=True):
        assert record["image"] == pathlib.Path(original["image"]).read_bytes()
        assert record["file"] == original["file"] and record["id"] == original["id"]


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


def test_a_shuffle_is_a_permutation_by_its_seed(photos, tmp_path):
    orders = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        written(folder(photos), tmp_path / name, shuffle=seed)
        orders[name] = [one["id"] for one in reader.make(split="train", path=str(tmp_path / name), hold_out=0).records]
        assert sorted(orders[name]) == list(range(IMAGES)) != orders[name]
    assert orders["a"] == orders["b"] != orders["c"] and contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(photos, tmp_path, monkeypatch):
    written(folder(photos), tmp_path / "whole")
    write, calls = shards.write, []

    def stopping(job, source, count=lambda records: True):
        calls.append(job.path)
        if len(calls) == 2:
            (pathlib.Path(job.path + ".tmp")).write_bytes(b"half")  # as a kill leaves it
            raise KeyboardInterrupt
        return write(job, source, count)

    monkeypatch.setattr(shards, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        written(folder(photos), tmp_path / "out")
    names = [name for name in contents(tmp_path / "out") if not name.endswith(".tmp")]
    assert names == ["train-00000-of-00003.array_record"]
    with pytest.raises(UserError, match=r"has no index\.json"):
        reader.make(split="train", path=str(tmp_path / "out"))
    before = (tmp_path / "out" / names[0]).stat().st_mtime_ns
    _, _, count = written(folder(photos), tmp_path / "out")
    assert count == 2 and contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (tmp_path / "out" / names[0]).stat().st_mtime_ns == before
    assert written(folder(photos), tmp_path / "out")[2] == 0


def test_what_was_found_of_a_shard_without_its_shard_does_not_count(photos, tmp_path):
    sources = opened(folder(photos))
    job = prepare.make_plan(sources, tmp_path, 1, None).jobs[0]
    assert shards.finished(job) is None
    done = shards.write(job, sources["train"])
    again = shards.finished(job)
    assert again is not None and again.entry == done.entry and again.dropped == done.dropped
    with open(job.path, "ab") as file:
        file.write(b"more")
    assert shards.finished(job) is None
    pathlib.Path(job.path).unlink()
    assert shards.finished(job) is None


@pytest.mark.parametrize("damage", ["missing", "short", "flipped", "labels"])
def test_damage_is_mended_from_the_source(photos, tmp_path, damage):
    out = tmp_path / "out"
    written(folder(photos), out)
    whole = contents(out)
    shard = out / ("train.labels.npz" if damage == "labels" else "train-00001-of-00003.array_record")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data[:100] if damage in ("short", "labels") else data)
    if damage == "missing":
        shard.unlink()
    assert contents(out) != whole
    count = written(folder(photos), out, verify=damage == "flipped")[2]
    assert count == (damage != "labels") and contents(out) == whole


def test_a_image_that_has_changed_is_told_when_its_shard_is_mended(photos, tmp_path):
    written(folder(photos), tmp_path / "out")
    (tmp_path / "out" / "train-00000-of-00003.array_record").unlink()
    PIL.Image.new("RGB", (9, 9)).save(photos / "train" / "a" / "0.jpg")
    with pytest.raises(UserError, match="images of the source have changed"):
        written(folder(photos), tmp_path / "out")


def test_missing_and_unreadable_images_are_left_out_and_counted(photos, tmp_path):
    sources = opened(folder(photos))
    (photos / "train" / "a" / "0.jpg").unlink()
    (photos / "train" / "b" / "3.jpg").write_bytes(b"no image")
    plan = prepare.make_plan(sources, tmp_path / "out", 7, None)
    index, _ = prepare.prepare(sources, tmp_path / "out", plan, data="test")
    dropped = {"missing image": ["train/a/0.jpg"], "unreadable image": ["train/b/3.jpg"]}
    assert index["splits"]["train"]["dropped"] == dropped and index["splits"]["train"]["records"] == IMAGES - 2
    found = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0)
    assert found.dropped == dropped
    assert [one["file"][-5] for one in found.records] == list("24615")  # class a, then b
    np.testing.assert_array_equal(labels_of(found), [0, 0, 0, 1, 1])


def test_no_image_at_all_is_a_mistake(photos, tmp_path):
    sources = opened(folder(photos))
    shutil.rmtree(photos)
    plan = prepare.make_plan(sources, tmp_path / "out", 1, None)
    with pytest.raises(UserError, match="none of the 7 images of 'train' can be read, such as the first: "):
        prepare.prepare(sources, tmp_path / "out", plan, data="test")


def test_a_folder_with_something_else_is_left_alone(photos, coco, tmp_path):
    out = tmp_path / "out"
    written(folder(photos), out)
    before = contents(out)
    with pytest.raises(UserError, match="holds another data set"):
        written(coco, out)
    with pytest.raises(UserError, match="by other options"):
        written(folder(photos), out, count=2)
    assert contents(out) == before
    (out / "index.json").unlink()
    with pytest.raises(UserError, match="holds files already, such as train-00000"):
        written(folder(photos), out)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "plan.tmp").write_text("another plan")
    with pytest.raises(UserError, match="holds another data set"):
        written(folder(photos), tmp_path / "begun")


def test_places_that_cannot_be_written(photos, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/out cannot be written \(Not a directory\); name another --out"):
        written(folder(photos), tmp_path / "file" / "out")
    with pytest.raises(UserError, match="written to a disk"):
        written(folder(photos), pathlib.Path("gs://bucket/out"))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(UserError, match=r"00000-of-00003.* \(No space left on device\); make room"):
        shards.write(
            prepare.make_plan(opened(folder(photos)), tmp_path, 3, None).jobs[0], opened(folder(photos))["train"]
        )
    assert not list(tmp_path.glob("*.array_record*"))


def made_up(at):
    return {"train": Source("mine", "train", ("a",), (1,), Records(4, at, names=list("abcd")), {}, "f")}


def test_a_bug_of_a_source_is_not_taken_for_a_full_disk(tmp_path):
    plan = prepare.make_plan(made_up(broken), tmp_path, 2, None)
    with pytest.raises(RuntimeError, match="a bug"):
        prepare.prepare(made_up(broken), tmp_path, plan, data="mine")
    assert [file.name for file in tmp_path.iterdir()] == ["plan.tmp"]


@pytest.mark.process
def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(tmp_path):
    plan = prepare.make_plan(made_up(deadly), tmp_path, 2, None)
    with pytest.raises(UserError, match="a worker process was killed, perhaps for lack of memory"):
        prepare.prepare(made_up(deadly), tmp_path, plan, data="mine", workers=2)


def test_splits_and_shards_that_cannot_be(photos, tmp_path):
    with pytest.raises(NoSuchSplit, match="no split 'test'; there is: train"):
        opened(folder(photos), ("train", "test"))
    with pytest.raises(UserError, match="a split's name becomes a file's"):
        opened(folder(photos), ("../train",))
    with pytest.raises(UserError, match="--shards -1"):
        prepare.make_plan(opened(folder(photos)), tmp_path, -1, None)
    assert list(opened(folder(photos), ())) == ["train"]


def test_nothing_is_held_out_for_a_split_that_is_not_asked_for(photos):
    node = {"name": "folder", "path": str(photos)}
    lengths = [{split: len(one.records) for split, one in opened(node, asked).items()} for asked in ((), ("train",))]
    assert lengths == [{"train": 5, "val": 2}, {"train": 7}]
    assert len(opened(node | {"hold_out": 0.5}, ("train",))["train"].records) < 5
    assert list(opened({"name": "digits"}, ("train",))) == ["train"]


def test_shards_are_even_and_no_more_than_records(photos, tmp_path):
    sources = opened(folder(photos))
    sizes = [len(job.rows) for job in prepare.make_plan(sources, tmp_path, 3, None).jobs]
    assert sizes == [3, 2, 2]
    assert len(prepare.make_plan(sources, tmp_path, 100, None).jobs) == IMAGES
    assert len(prepare.make_plan(sources, tmp_path, 0, None).jobs) == 1
