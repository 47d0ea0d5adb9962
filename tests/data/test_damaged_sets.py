"""Prepared sets and archives whose numbers cannot be: one sentence, whoever wrote them."""

import contextlib
import hashlib
import io
import json
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from mapjax.data import labelled
from mapjax.data.formats import archive
from mapjax.data.prepared import encoding, prepare, reader, shards, truth
from mapjax.errors import UserError


@pytest.fixture
def prepared(coco, tmp_path):
    """A prepared set with boxes and masks."""
    out = tmp_path / "out"
    sources = prepare.open_splits(coco, ("train",), "masks")
    prepare.prepare(sources, out, prepare.make_plan(sources, out, 1, None, "masks"), data="test")
    return out


def change(out, keys, value):
    """Write another value into the index, at a path of keys; None removes it."""
    index = json.loads((out / "index.json").read_text())
    *above, last = keys
    inner = index
    for key in above:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    (out / "index.json").write_text(json.dumps(index))


TRAIN = ("splits", "train")


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("splits",), None, "there are no 'splits'"),
        (("splits",), ["train"], "there are no 'splits'"),
        (TRAIN, 7, "split 'train': there are no 'shards'"),
        ((*TRAIN, "shards"), {"a": 1}, "there are no 'shards'"),
        ((*TRAIN, "shards", 0), "x", "'shards' has no entry of a file"),
        (
            (*TRAIN, "shards", 0, "file"),
            "../../etc/passwd",
            "'shards' has the file '../../etc/passwd', which is no name",
        ),
        ((*TRAIN, "labels", "file"), "/etc/passwd", "'labels' has the file '/etc/passwd', which is no name"),
        ((*TRAIN, "labels", "file"), "x" * 300, "labels. has the file .xxx.*, which is no name"),
        ((*TRAIN, "labels", "bytes"), "many", "no number of 'bytes'"),
        ((*TRAIN, "labels", "sha256"), 7, "no 'sha256'"),
        ((*TRAIN, "shards", 0, "records"), -3, "'records' do not add up"),
        ((*TRAIN, "shards", 0, "records"), 10**400, "'records' do not add up"),
        ((*TRAIN, "records"), 1, "'records' do not add up"),
        ((*TRAIN, "fingerprint"), None, "no 'fingerprint'"),
        ((*TRAIN, "dropped"), ["x"], "'dropped' or 'noted'"),
        ((*TRAIN, "dropped"), {"x": 3}, "'dropped' or 'noted'"),
        (("classes",), "cat;dog", "'classes' is no list of names"),
        (("classes",), ["cat"], "1 'classes' have 2 'category_ids'"),
        (("category_ids",), [1, 2**70], "'category_ids' is no list of numbers"),
        (("category_ids",), [1, "2"], "'category_ids' is no list of numbers"),
        (("kinds",), ["box"], "'kinds' is no list of names"),
        (("kind",), 7, "'kind' is no kind"),
        (("keypoints",), [7], "'keypoints' is no list of names"),
    ],
)
def test_an_index_with_values_that_cannot_be(prepared, keys, value, words):
    change(prepared, keys, value)
    with pytest.raises(UserError, match=rf"index\.json is damaged: .*{words}"):
        reader.make(split="train", path=str(prepared), hold_out=0)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"version": 1' + "0" * 5000 + "}", "\ud800"])
def test_an_index_that_is_no_json(prepared, text):
    (prepared / "index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"index\.json is not whole JSON"):
        reader.make(split="train", path=str(prepared), hold_out=0)


def put_labels(out, data):
    """Write other labels, with their right checksum."""
    (out / "train.labels.npz").write_bytes(data)
    change(out, (*TRAIN, "labels", "bytes"), len(data))
    change(out, (*TRAIN, "labels", "sha256"), hashlib.sha256(data).hexdigest())


def with_array(**arrays):
    def made(out):
        held = truth.load((out / "train.labels.npz").read_bytes()) | arrays
        return truth.save({name: array for name, array in held.items() if array is not None})

    return made


def packed(out):
    stream = io.BytesIO()
    held: dict = truth.load((out / "train.labels.npz").read_bytes())
    np.savez_compressed(stream, **held, zeros=np.zeros(10**6))
    return stream.getvalue()


def with_header(text):
    """Write an .npz whose only array has such a header."""

    def made(out):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            head = text.encode().ljust(118) + b"\n"
            file.writestr("id.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(16))
        return stream.getvalue()

    return made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (with_array(id=None), "no list 'id'"),
        (with_array(names=np.zeros(3, np.uint8)), "'names' has another length"),
        (with_array(name_bytes=np.array([9, -3], np.int32)), "'name_bytes' does not count"),
        (with_array(objects=None), "'mask_bytes' does not count"),
        (with_array(objects=np.array([1, 7], np.int32)), "'mask_bytes' does not count"),
        (with_array(boxes=np.zeros((3, 4), np.float32)), "'boxes' has another length"),
        (with_array(objects=np.array([1.0, 1.0])), "'objects' does not count"),
        (with_array(boxes=np.zeros((2, 3), np.float32)), "'boxes' is float32 of the shape"),
        (with_array(boxes=np.zeros((2, 4), np.float64)), "'boxes' is float64"),
        (with_array(boxes=np.full((2, 4), np.nan, np.float32)), "'boxes' has values that are not finite"),
        (with_array(areas=np.full(2, np.inf, np.float32)), "'areas' has values that are not finite"),
        (with_array(size=np.zeros((2, 3), np.int32)), "'size' is int32 of the shape"),
        (with_array(classes=np.zeros((2, 1), np.int32)), "'classes' is int32 of the shape"),
        (with_array(mask_bytes=np.array([1, 10**9], np.int32)), "'mask_runs' has another length"),
        (with_array(boxes=None), "its objects have no 'boxes'"),
        (with_array(mask_runs=None, mask_bytes=None), "it has no masks"),
        (with_array(names=np.array(["a", "b"])), "something else than arrays of numbers"),
        (packed, "its arrays are packed"),
        (lambda out: b"no zip at all", r"no whole \.npz"),
        (lambda out: (out / "train.labels.npz").read_bytes()[:-30], r"no whole \.npz"),
        (with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (2**60,)}"), "no whole"),
        (with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,)}"), "no whole"),
        (with_header("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}"), "no whole .*Object arrays"),
        (with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (-2,)}"), "no whole"),
        (with_header("[" * 110), "no whole"),
    ],
)
def test_labels_with_values_that_cannot_be(prepared, make, words):
    put_labels(prepared, make(prepared))
    with pytest.raises(UserError, match=rf"train\.labels\.npz is damaged: .*{words}"):
        reader.make(split="train", path=str(prepared), hold_out=0)


def stored(header, rest=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b"mapjax1\n" + struct.pack("<I", len(text)) + text + rest


def head(*arrays, **more):
    return {"id": 40, "file": "x.png", "arrays": [list(one) for one in arrays]} | more


BOMB = zlib.compress(bytes(10**7))
RECORDS = {
    "no number": head(id=2**70),
    "no name": head(file=7),
    "a list": [1],
    "no arrays": {"id": 1, "file": "a"},
    "arrays of numbers": {"id": 1, "file": "a", "arrays": [1, 2]},
    "deep": b"[" * 100_000,
    "an unknown type": head(["boxes", "what", [1, 4], 0]),
    "objects": head(["boxes", "|O", [1, 4], 0]),
    "a negative length": head(["boxes", "<f4", [1, 4], -5]),
    "a negative shape": head(["boxes", "<f4", [-1, -4], 0]),
    "no shape": head(["boxes", "<f4", "x", 0]),
    "an endless shape": head(["masks", "bits", [10**30, 5], 0]),
    "no zlib": head(["label_map", "bytes", [4, 4], 0]),
    "a bomb": head(["label_map", "bytes", [4, 4], len(BOMB)]),
    "no label": head(),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_records_with_values_that_cannot_be(prepared, monkeypatch, kind):
    source = reader.make(split="train", path=str(prepared), hold_out=0)
    data = stored(RECORDS[kind], BOMB if kind == "a bomb" else b"")
    monkeypatch.setattr(reader.Shards, "__getitem__", lambda self, index: data)
    with pytest.raises(UserError, match=r"array_record cannot be read at record 0 of its split"):
        source.records[0]
    if kind != "no label":
        with pytest.raises(ValueError, match=r"."):
            encoding.decode(data)


def test_what_was_noted_is_kept(coco, tmp_path):
    sources = prepare.open_splits(coco, ("train",))
    sources["train"] = sources["train"]._replace(noted={"odd": ["a", "b"]})
    prepare.prepare(sources, tmp_path / "out", prepare.make_plan(sources, tmp_path / "out", 1, None), data="test")
    assert reader.make(split="train", path=str(tmp_path / "out"), hold_out=0).noted == {"odd": ["a", "b"]}


def test_notes_of_a_finished_shard_that_are_damaged_are_made_anew(coco, tmp_path):
    sources = prepare.open_splits(coco, ("train",))
    (job,) = prepare.make_plan(sources, tmp_path, 1, None).jobs
    shards.write(job, sources["train"])
    assert shards.finished(job) is not None
    notes = tmp_path / (job.path + shards.DONE)
    for facts in (b"[1]", b"[" * 100_000, b'{"entry": {}}', b"7", b"\xff"):
        notes.write_bytes(truth.save({"facts": np.frombuffer(facts, np.uint8)}))
        assert shards.finished(job) is None
    notes.write_bytes(b"PK\x03\x04 and no more")
    assert shards.finished(job) is None


@pytest.mark.parametrize("size", ["-1024", "-5", "1e3", "nan", "9" * 30, "9" * 5000, "x"])
@pytest.mark.parametrize("key", ["size", "mtime", "GNU.sparse.size", "GNU.sparse.realsize"])
def test_numbers_in_the_headers_of_a_tar(tmp_path, size, key):
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as file:
        for name in ("a", "b"):
            info = tarfile.TarInfo(name)
            info.size = 600
            info.pax_headers = {key: size} if name == "a" else {}
            file.addfile(info, io.BytesIO(bytes(600)))
    with contextlib.suppress(UserError):
        found = archive.read_listing(tmp_path / "x.tar")
        assert len(found.files) <= 2 and all(len(data) <= 600 for data in found.members)


def test_headers_upon_headers_of_a_tar(tmp_path):
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 0
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) * 3000 + bytes(1024))
    with pytest.raises(UserError, match=r"x\.tar is not a whole \.zip or \.tar archive"):
        archive.read_listing(tmp_path / "x.tar")


def test_names_of_classes_may_be_numbers_of_any_length():
    assert labelled.in_order(["10", "9", "1" * 6000]) == ("9", "10", "1" * 6000)
