"""Proposals beside the records of a source: found once, in parts and in processes, or read from COCO's results."""

import json
import pathlib

import numpy as np
import pytest

from mapjax.cli import prepare as program
from mapjax.data import proposals, selective_search
from mapjax.data.formats import coco as coco_format
from mapjax.data.formats import scenes
from mapjax.data.prepared import proposing
from mapjax.data.transforms import boxes as transforms
from mapjax.data.transforms import corruptions
from mapjax.errors import UserError


def small(length=5, seed=0):
    return scenes.make(split="train", size=(32, 32), digits=(1, 1), digit_size=(8, 16), train_length=length, seed=seed)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def parts_of_two(monkeypatch):
    monkeypatch.setattr(proposing, "PART", 2)


def test_they_are_those_of_each_image(tmp_path, parts_of_two):
    source, told = small(), []
    found = proposing.write(source, tmp_path, "fast", progress=told.append)
    assert found.images == found.made == 5 and told == [0, 2, 4, 5]
    attached = proposals.attach(source, str(tmp_path))
    for record, plain in zip(attached.records, source.records, strict=True):
        np.testing.assert_array_equal(record["proposals"], selective_search.search(plain["image"]))
        np.testing.assert_array_equal(record["boxes"], plain["boxes"])
    assert attached.fingerprint != source.fingerprint and not attached.noted
    assert attached.fingerprint == proposals.attach(source, str(tmp_path)).fingerprint
    assert sum(map(len, (record["proposals"] for record in attached.records))) == found.boxes
    assert proposing.write(source, tmp_path, "fast").made == 0


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, parts_of_two, monkeypatch):
    source = small()
    proposing.write(source, tmp_path / "whole", "fast")
    search, calls = selective_search.search, []

    def stopping(image, mode):
        calls.append(mode)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return search(image, mode)

    monkeypatch.setattr(selective_search, "search", stopping)
    with pytest.raises(KeyboardInterrupt):
        proposing.write(source, tmp_path / "out", "fast")
    with pytest.raises(UserError, match=r"is not finished; run the command again: mapjax prepare .*--proposals fast"):
        proposals.attach(source, str(tmp_path / "out"))
    assert proposing.write(source, tmp_path / "out", "fast").made == 3 == len(calls) - 4
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_processes_find_the_same(tmp_path, parts_of_two):
    proposing.write(small(), tmp_path / "one", "fast")
    proposing.write(small(), tmp_path / "two", "fast", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_other_data_than_that_they_were_found_for(tmp_path):
    proposing.write(small(2), tmp_path, "fast")
    with pytest.raises(
        UserError, match=r"of other data than scenes, or of what it was before.*fingerprint no longer fits"
    ):
        proposals.attach(small(2, seed=1), str(tmp_path))
    with pytest.raises(UserError, match="has no proposals of 'train'; make them once: mapjax prepare --data scenes"):
        proposals.attach(small(2), str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="holds proposals of 'fast'; name another --out"):
        proposing.write(small(2), tmp_path, "quality")
    (file,) = tmp_path.rglob("boxes.npy")
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(UserError, match=r"is damaged .*; remove it, and run: mapjax prepare"):
        proposals.attach(small(2), str(tmp_path))


def test_embedded_data_has_no_folder_beside_it():
    with pytest.raises(UserError, match="this data is in no folder; write them to one with mapjax prepare"):
        proposals.attach(small(1), "beside")


def results(tmp_path, rows, name="train.json"):
    (tmp_path / name).write_text(json.dumps(rows))
    return str(tmp_path / name)


def test_a_file_of_coco_results(coco, tmp_path):
    source = coco_format.make(split="train", path=coco["path"], hold_out=0)
    rows = [
        {"image_id": 41, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.2},
        {"image_id": 41, "category_id": 1, "bbox": [5, 6, 7, 8], "score": 0.9},
    ]
    attached = proposals.attach(source, results(tmp_path, rows).replace("train", "{split}"))
    by_id = {record["id"]: record["proposals"].tolist() for record in attached.records}
    assert by_id == {40: [], 41: [[5, 6, 12, 14], [1, 2, 4, 6]]}
    assert attached.noted[proposals.NONE] == ["x.png"]  # counted and said, as the noted of all data
    assert attached.records.files() == source.records.files() and attached.records.name(1) == "y.png"
    np.testing.assert_array_equal(attached.records.sizes(), source.records.sizes())


def test_proposals_for_images_that_are_not_there(coco, tmp_path):
    source = coco_format.make(split="train", path=coco["path"], hold_out=0)
    rows = [{"image_id": number, "bbox": [1, 2, 3, 4]} for number in (41, 7, 9)]
    with pytest.raises(UserError, match=r"2 images that coco:.* does not have in its split 'train', .* image_id 7"):
        proposals.attach(source, results(tmp_path, rows))
    with pytest.raises(UserError, match="has no proposal for any of the 2 images of 'train'"):
        proposals.attach(source, results(tmp_path, []))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"images": []}, "it holds an object, as annotations are; write COCO's results"),
        ("text", "it holds no list"),
        ([{"image_id": 40}], "its row 0 is no box"),
        ([{"image_id": 40, "bbox": [1, 2, 3]}], "its row 0"),
        ([{"image_id": 40, "bbox": [1, 2, 3, 4]}, {"image_id": "x", "bbox": [1, 2, 3, 4]}], "its row 1"),
        ([{"image_id": 40, "bbox": [1, 2, 0, 4]}], "its row 0"),
        ([{"image_id": 40, "bbox": [1, 2, float("nan"), 4]}], "its row 0"),
        ([[1, 2, 3, 4]], "its row 0"),
    ],
)
def test_a_file_that_is_not_coco_results(coco, tmp_path, rows, said):
    source = coco_format.make(split="train", path=coco["path"], hold_out=0)
    with pytest.raises(UserError, match=said):
        proposals.attach(source, results(tmp_path, rows))


def test_a_file_that_cannot_be_read(coco, tmp_path):
    source = coco_format.make(split="train", path=coco["path"], hold_out=0)
    with pytest.raises(UserError, match=r"proposals='.*none\.json' cannot be read \(No such file"):
        proposals.attach(source, str(tmp_path / "none.json"))
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(UserError, match=r"cut\.json is no JSON"):
        proposals.attach(source, str(tmp_path / "cut.json"))


def record_of(size=(20, 40)):
    given = np.array([[4, 4, 8, 8], [0, 0, 40, 20], [30, 2, 36, 12]], np.float32)
    one = {"boxes": given[:1], "classes": np.zeros(1, np.int32), "crowd": np.zeros(1, bool)}
    one |= {"areas": np.array([16], np.float32), "proposals": given}
    return {"id": 0, "file": "a", "image": np.zeros((*size, 3), np.uint8), "size": np.array(size, np.int32), **one}


def test_an_example_has_them_in_its_frame():
    example = transforms.make(size=(40, 80), max_boxes=2, proposals=5)(record_of(), np.random.default_rng(0))
    np.testing.assert_array_equal(example["proposals"][:3], 2 * record_of()["proposals"])
    assert example["proposals_valid"].tolist() == [True] * 3 + [False] * 2 and not example["proposals"][3:].any()
    fewer = transforms.make(size=(40, 80), max_boxes=2, proposals=2)(record_of(), np.random.default_rng(0))
    np.testing.assert_array_equal(fewer["proposals"], example["proposals"][:2])


def test_what_is_beyond_the_image_is_cut_off():
    given = [[-9, -9, 9, 9], [35, 15, 90, 90], [50, 0, 60, 9], [39.5, 0, 60, 9]]
    record = record_of() | {"proposals": np.array(given, np.float32)}
    example = transforms.make(size=(20, 40), max_boxes=2, proposals=5)(record, np.random.default_rng(0))
    assert example["proposals"][example["proposals_valid"]].tolist() == [[0, 0, 9, 9], [35, 15, 40, 20]]


def test_they_move_as_the_boxes_do():
    """The first proposal is the object's own box, through any augmentation."""
    wild = {"flip_horizontal": 0.5, "flip_vertical": 0.5, "scale": (0.7, 1.4), "rotate": 20.0, "min_visible": 0.0}
    transform = transforms.make(size=(40, 80), max_boxes=2, proposals=5, augment=wild)
    moved = [transform(record_of(), np.random.default_rng(seed)) for seed in range(20)]
    seen = [one for one in moved if one["valid"][0]]
    assert len(seen) > 10
    for one in seen:
        np.testing.assert_allclose(one["proposals"][0], one["boxes"][0], rtol=1e-5, atol=1e-4)


def test_a_record_without_any_is_searched(caplog):
    record = {key: value for key, value in record_of().items() if key != "proposals"}
    record["image"] = np.random.default_rng(0).integers(0, 256, (20, 40, 3)).astype(np.uint8)
    example = transforms.make(size=(20, 40), max_boxes=2, proposals=50)(record, np.random.default_rng(0))
    found = selective_search.search(record["image"])
    np.testing.assert_array_equal(example["proposals"][: len(found)], found[:50])


def test_shifted_images_have_theirs_with_them():
    source = small(1)
    given = source.records[0] | {"proposals": source.records[0]["boxes"]}
    shifted = corruptions.shift(source._replace(records=[given]), {"rotate": 25.0}).records[0]
    np.testing.assert_allclose(shifted["proposals"], shifted["boxes"], atol=3)  # boxes are around turned masks


def test_the_program_finds_them_beside_the_data(coco, capsys):
    data = ["--data", f"coco:path={coco['path']},hold_out=0", "--workers", "1"]
    assert program.main([*data, "--splits", "train", "--proposals", "fast"]) == 0
    assert "proposals an image" in capsys.readouterr().out
    source = coco_format.make(split="train", path=coco["path"], hold_out=0)
    attached = proposals.attach(source, "beside", coco["path"])
    assert attached.records[0]["proposals"].tolist() == [[0, 0, 20, 16]]  # an image of one colour
    assert (pathlib.Path(coco["path"]) / "proposals").is_dir()
    for wrong, said in (
        (["--proposals", "fats"], "no mode of selective search"),
        (["--proposals", "fast", "--verify"], "are of shards"),
        ([], "--out DIR is missing"),
    ):
        with pytest.raises(UserError, match=said):
            program.main([*data, *wrong])
