"""Shards are the same bytes whatever happened on the way: stops, damage, other options, bugs, full disks."""

import os
import pathlib
import shutil
import signal

import numpy as np
import PIL.Image
import pytest
from prepared_sets import IMAGES, contents, folder, opened, written

from mapjax.data.prepared import prepare, reader, shards
from mapjax.data.source import Records, Source, labels_of
from mapjax.errors import NoSuchSplit, UserError


def deadly(index):
    """A record that kills who asks for it."""
    os.kill(os.getpid(), signal.SIGKILL)


def broken(index):
    """A record whose source has a bug."""
    raise RuntimeError("a bug")


def test_images_keep_their_bytes_and_their_order(photos, tmp_path):
    sources, _, count = written(folder(photos), tmp_path / "out")
    found = reader.make(split="train", path=str(tmp_path / "out"), hold_out=0)
    assert count == 3
    for record, original in zip(found.records, sources["train"].records, strict=True):
        assert record["image"] == pathlib.Path(original["image"]).read_bytes()
        assert record["file"] == original["file"] and record["id"] == original["id"]


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
