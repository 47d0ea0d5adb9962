"""mapjax.runs.score: classes renumbered, files written, the table."""

import json
from functools import partial

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from mapjax.config import load as configs
from mapjax.data import labelled
from mapjax.data.source import Records, Source, kind_of, label_map_of, labels_of, largest_size
from mapjax.errors import UserError
from mapjax.metrics import combine
from mapjax.runs import score, sources
from mapjax.stages import VOID


def test_an_evaluation_of_something_else_gets_a_folder_of_its_own(tmp_path):
    base, first, second = tmp_path / "evaluation-val", {"checkpoint": 7, "overrides": {}}, {"checkpoint": 9}
    assert score.folder_for(base, first) == base
    for folder, asked in ((base, first), (tmp_path / "evaluation-val-2", first | second)):
        assert score.folder_for(base, asked) == folder
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(asked | {"metrics": {}}))
        assert score.folder_for(base, asked) == folder  # the same again
    other = first | {"overrides": {"eval_size": "(8, 8)"}}
    assert score.folder_for(base, other) == tmp_path / "evaluation-val-3"
    for damaged in ('{"checkpoint"', "[]"):
        (base / "result.json").write_text(damaged)
        assert score.folder_for(base, first) == tmp_path / "evaluation-val-3"


def source_of(classes=("cat", "dog")):
    records = [
        {
            "id": 5 + i,
            "file": f"{i}.png",
            "image": np.zeros((40, 50, 3), np.uint8),
            "size": np.array([40, 50], np.int32),
        }
        | {"boxes": np.array([[5, 5, 25, 30]], np.float32), "classes": np.array([i], np.int32)}
        | {"crowd": np.zeros(1, bool), "areas": np.array([500], np.float32)}
        for i in range(2)
    ]
    return Source("voc:x", "test", classes, tuple(range(1, len(classes) + 1)), records, {}, "0")


def test_the_same_classes_are_left_alone():
    source = source_of()
    assert score.with_classes(source, ["cat", "dog"]) is source


def test_classes_take_the_places_that_the_run_learned():
    source = score.with_classes(source_of(), ["dog", "emu", "cat"])
    assert source.classes == ("dog", "emu", "cat")
    assert source.category_ids == (2, 3, 1)  # those of the data; the class that it lacks gets a free one
    assert [record["classes"].tolist() for record in source.records] == [[2], [0]]
    assert len(source.records) == 2 and source.records[1]["id"] == 6


def test_label_maps_are_renumbered_too():
    label_map = np.array([[0, 1, VOID]], np.uint8)
    record = {"id": 0, "file": "a", "image": "a.png", "size": np.array([1, 3], np.int32)}
    records = Records(
        1, lambda index: {**record, "label_map": label_map}, truth=lambda index: record,
        sizes=np.array([[1, 3]], np.int32), label_map=lambda index: label_map,
    )  # fmt: skip
    source = Source("masks:x", "val", ("cat", "dog"), (0, 1), records, {}, "0")
    found = score.with_classes(source, ["dog", "emu", "cat"])
    assert kind_of(found) == "label_map" and largest_size(found) == (1, 3)
    for one in (found.records[0]["label_map"], label_map_of(found, 0)):
        assert one.dtype == np.uint8 and one.tolist() == [[2, 0, VOID]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([0, 1, 0], np.int32), [2, 0, 2]),
        (np.array([[1, 0], [1, 1], [0, 1]], bool), [[0, 0, 1], [1, 0, 1], [1, 0, 0]]),
    ],
)
def test_labels_of_whole_images_too(labels, expected):
    images = np.zeros((3, 4, 4, 3), np.uint8)
    source = labelled.make_source("x", "val", ("cat", "dog"), ["a", "b", "c"], labels, images, dropped={})
    found = score.with_classes(source, ["dog", "emu", "cat"])
    np.testing.assert_array_equal(labels_of(found), expected)
    key = "label" if labels.ndim == 1 else "labels"
    np.testing.assert_array_equal([record[key] for record in found.records], expected)


def folder_config(path):
    return configs.from_dict(
        {
            "data": {"name": "folder", "path": str(path)},
            "task": {"name": "classify"},
            "splits": {"train": "train", "eval": "val"},
        }
    )


def write_folder(path):
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for k in range(10):
            cv2.imwrite(str(path / name / f"{k}.png"), np.zeros((4, 4, 3), np.uint8))


def test_the_runs_own_data_at_another_place_keeps_what_it_held_out(tmp_path):
    write_folder(tmp_path / "old")
    config = folder_config(tmp_path / "old")
    _, train, held_out = sources.open_sources(config)
    learned = {"fingerprint": train.fingerprint, "eval": held_out.fingerprint}
    (tmp_path / "old").rename(tmp_path / "new")
    ask = partial(score.open_source, config, ["cat", "dog"], data=f"folder:{tmp_path / 'new'}")
    assert ask(learned=learned).fingerprint == held_out.fingerprint
    assert ask(learned=learned, split="train").fingerprint == train.fingerprint
    (tmp_path / "new" / "cat" / "0.png").rename(tmp_path / "new" / "cat" / "x.png")
    assert len(ask(learned=learned | {"eval": "another"}).records) == 20, "other data is scored whole"


def test_images_that_were_trained_on_are_told(tmp_path):
    write_folder(tmp_path)
    config = folder_config(tmp_path)
    _, train, held_out = sources.open_sources(config)
    learned = {"fingerprint": train.fingerprint, "eval": held_out.fingerprint}
    assert score.seen_before(config, held_out, learned) == ""
    assert "was trained on these images" in score.seen_before(config, train, learned)
    whole = score.open_source(config, ["cat", "dog"], data=f"folder:{tmp_path}")
    assert "was trained on 18 of these 20 images" in score.seen_before(config, whole, learned)
    assert score.seen_before(folder_config(tmp_path / "gone"), whole, learned) == ""
    assert score.seen_before(config, train, {}) == "", "published weights have no data"


def test_other_data_is_scored_whole(tmp_path):
    write_folder(tmp_path)
    config = folder_config(tmp_path)
    assert len(score.open_source(config, ["cat", "dog"]).records) == 2
    other = score.open_source(config, ["cat", "dog"], data=f"folder:{tmp_path}")
    assert (other.split, len(other.records)) == ("train", 20)
    with pytest.raises(UserError, match="no split 'test'"):
        score.open_source(config, ["cat", "dog"], data=f"folder:{tmp_path}", split="test")


def test_a_class_that_was_not_learned_is_a_mistake():
    with pytest.raises(UserError, match=r"'dog'.*Did you mean 'dogs'"):
        score.with_classes(source_of(), ["cat", "dogs"])


def test_save_writes_the_folder(tmp_path):
    source = source_of()
    one = {"scores": np.array([0.9], np.float32), "boxes": np.array([[5, 5, 25, 30]], np.float32)}
    counts = {"precision": {i: one | {"classes": np.array([i], np.int32)} for i in range(2)}}
    metric = combine.named(["precision"], source)
    result, config = {"metrics": {"AP": 1.0, "AP/cat": 1.0}, "checkpoint": 7}, ConfigDict({"batch": 2})
    score.write(tmp_path / "out", metric, source, counts, result, config, title="again")
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"result.json", "predictions.json", "truth.json", "errors.json", "report.html"}
    assert json.loads(written["result.json"])["checkpoint"] == 7
    assert [row["image_id"] for row in json.loads(written["predictions.json"])] == [5, 6]
    assert len(json.loads(written["truth.json"])["annotations"]) == 2
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        score.write(tmp_path / "file", metric, source, counts, result, config, title="again")


def test_table_has_a_row_for_each_class():
    console = Console(width=120)
    metrics = {"AP": 0.5, "AP50": 0.75, "APl": -1.0, "AP/cat": 0.25, "AP50/cat": 0.125, "AP/dog": -1.0}
    with console.capture() as capture:
        console.print(score.table(metrics))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines == [["AP", "AP50", "APl"], ["all", "0.500", "0.750", "–"], ["cat", "0.250", "0.125"], ["dog", "–"]]
