"""Prepared data trains as its source does, opens without its images, and tells what is wrong with it."""

import hashlib
import json
import pathlib
import pickle
import subprocess
import sys
from typing import ClassVar

import cv2
import jax
import numpy as np
import PIL.Image
import pytest
from array_record.python import array_record_module
from etils.epath import backend as epath_backend
from fsspec.implementations import memory
from fsspec.registry import _registry as registered

from mapjax.config import load as configs
from mapjax.data import pipeline
from mapjax.data.checks import quality
from mapjax.data.formats import folder, voc
from mapjax.data.prepared import encoding, prepare, truth
from mapjax.data.prepared import reader as array_record
from mapjax.data.source import labels_of, name_of, truth_of
from mapjax.data.transforms import boxes, crops
from mapjax.errors import NoSuchSplit, UserError
from mapjax.metrics import precision
from mapjax.runs import score

BOXED = boxes.make(size=(24, 32), max_boxes=3, augment={"flip_horizontal": 0.5, "scale": (0.8, 1.2), "hue": 0.1})
LABELLED = crops.make(size=(8, 8), augment={"random_resized_crop": (0.5, 1.0), "flip_horizontal": 0.5})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A VOC folder and a folder of classes, with JPEGs of noise; and what each became in `voc.out`, `folder.out`."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / "voc" / part).mkdir(parents=True)
    for number in range(9):
        pixels = cv2.resize(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8), (40, 30))
        PIL.Image.fromarray(pixels).save(root / "voc" / "JPEGImages" / f"{number}.jpg")
        objects = "".join(
            f"<object><name>{'cat' if n else 'dog'}</name><bndbox><xmin>{n}</xmin><ymin>2</ymin><xmax>{n + 11}</xmax>"
            f"<ymax>19</ymax></bndbox></object>"
            for n in range(number % 3)
        )
        (root / "voc" / "Annotations" / f"{number}.xml").write_text(f"<annotation>{objects}</annotation>")
        file = root / "folder" / ("train", "val")[number > 5] / "xyz"[number % 3] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(file)
    for name, numbers in (("train", range(6)), ("val", range(6, 9))):
        (root / "voc" / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(map(str, numbers)))
    for name in ("voc", "folder"):
        write({"name": name, "path": str(root / name)}, root / f"{name}.out")
    return root


def write(node, out, splits=(), count=2):
    sources = prepare.open_splits(node, splits)
    prepare.prepare(sources, out, prepare.make_plan(sources, out, count, None), data="test")


def pair(data, name, split="train"):
    original = {"voc": voc, "folder": folder}[name].make(split=split, path=str(data / name))
    return original, array_record.make(split=split, path=str(data / f"{name}.out"))


def batches(source, transform, count=4, **options):
    with pipeline.train_batches(source, transform, batch=4, seed=3, **options) as made:
        return [jax.tree.map(np.asarray, next(made)) for _ in range(count)]


def equal(one, other):
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)
        for a, b in zip(one, other)
    )


@pytest.mark.parametrize(("name", "transform"), [("voc", BOXED), ("folder", LABELLED)])
def test_training_sees_the_same_batches(data, name, transform):
    original, prepared = pair(data, name)
    seen = batches(prepared, transform)
    assert equal(seen, batches(original, transform))
    assert any(len(np.unique(batch["image"])) > 20 for batch in seen)


def test_evaluation_sees_the_same_batches_and_the_same_truth(data):
    transform = boxes.make(size=(24, 32), max_boxes=3)
    original, prepared = pair(data, "voc", "val")
    found = []
    for source in (original, prepared):
        with pipeline.eval_batches(source, transform, batch=2) as made:
            found.append([jax.tree.map(np.asarray, batch) for batch in made])
    assert equal(*found) and precision.coco_truth(original) == precision.coco_truth(prepared)


WORKERS = """
import hashlib, sys
import numpy as np
from mapjax.data import pipeline
from mapjax.data.formats import array_record
from mapjax.data.transforms import crops
if __name__ == "__main__":
    source = array_record.make(split="train", path=sys.argv[1])
    transform = crops.make(size=(8, 8), augment={"random_resized_crop": (0.5, 1.0), "flip_horizontal": 0.5})
    with pipeline.train_batches(source, transform, batch=4, seed=3, workers=2) as made:
        print(hashlib.sha256(b"".join(np.asarray(next(made)["image"]).tobytes() for _ in range(4))).hexdigest())
"""


@pytest.mark.process
def test_workers_of_their_own_see_the_same(data, tmp_path):
    original, _ = pair(data, "folder")
    expected = hashlib.sha256(b"".join(batch["image"].tobytes() for batch in batches(original, LABELLED))).hexdigest()
    (tmp_path / "workers.py").write_text(WORKERS)
    command = [sys.executable, str(tmp_path / "workers.py"), str(data / "folder.out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1:] == [expected], done.stderr


def test_threads_share_readers_and_processes_open_their_own(data):
    _, prepared = pair(data, "voc")
    first = prepared.records[0]
    copy = pickle.loads(pickle.dumps(prepared))  # noqa: S301
    assert copy.records[0]["image"] == first["image"] and len(copy.records) == len(prepared.records)
    assert equal(batches(prepared, BOXED, threads=8), batches(prepared, BOXED, threads=1))


def test_summaries_are_those_of_the_source_and_read_no_image(data, monkeypatch):
    for name in ("voc", "folder"):
        original, prepared = pair(data, name)
        with monkeypatch.context() as patch:
            patch.setattr(array_record.Shards, "__getitem__", lambda self, index: pytest.fail("a shard was read"))
            found, expected = quality.inspect(prepared, 2), quality.inspect(original, 2)
            assert found._replace(name="", files=frozenset()) == expected._replace(name="", files=frozenset())
            np.testing.assert_array_equal(quality.class_counts(prepared), quality.class_counts(original))
            assert [name_of(prepared, row) for row in range(6)] == [record["file"] for record in original.records]
            assert "image" not in truth_of(prepared, 0)
            if name == "voc":
                precision.coco_truth(score.with_classes(prepared, ("ant", "cat", "dog")))


def test_classes_of_a_run_renumber_a_prepared_set(data):
    original, prepared = (score.with_classes(source, ("dog", "ant", "cat")) for source in pair(data, "voc"))
    np.testing.assert_array_equal(prepared.records[2]["classes"], original.records[2]["classes"])
    np.testing.assert_array_equal(truth_of(prepared, 2)["classes"], original.records[2]["classes"])
    np.testing.assert_array_equal(prepared.records[2]["classes"], [0, 2])


def test_what_is_held_out_is_what_the_source_holds_out(data, tmp_path):
    path = str(data / "folder" / "train")
    node = {"name": "folder", "path": path, "hold_out": 0}
    write(node, tmp_path / "out", ("train",))
    for split in ("train", "val"):
        options = {"split": split, "seed": 5, "hold_out": 0.5}
        expected = folder.make(path=path, **options)
        found = array_record.make(path=str(tmp_path / "out"), **options)
        assert [record["file"] for record in found.records] == [record["file"] for record in expected.records]
        np.testing.assert_array_equal(labels_of(found), labels_of(expected))
        assert found.fingerprint != array_record.make(path=str(tmp_path / "out"), split="train", hold_out=0).fingerprint


def test_data_is_named_on_the_command_line():
    assert configs.parse_data("array_record:gs://bucket/set") == {"name": "array_record", "path": "gs://bucket/set"}


def test_a_cloud_path_without_its_package_is_told(monkeypatch):
    monkeypatch.setattr(array_record.epath.Path("gs://b/x").__class__, "read_bytes", missing_package)
    with pytest.raises(UserError, match=r"pip install gcsfs"):
        array_record.make(split="train", path="gs://bucket/set")


def missing_package(self):
    raise ImportError("Please install gcsfs to access Google Storage")


class Bucket(memory.MemoryFileSystem):
    """gs://BUCKET/NAME as gcsfs shows it to etils.epath, in the memory of this process."""

    protocol = ("gcs", "gs")
    cachable = False
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def __init__(self, finalize_on_close=False):
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))


@pytest.fixture
def bucket(data, tmp_path, monkeypatch):
    """The prepared VOC in gs://bucket/set; ArrayRecord, which reads from the cloud by itself, is handed a copy."""
    epath_backend.fsspec_backend._get_filesystem.cache_clear()
    monkeypatch.setitem(registered, "gcs", Bucket)
    Bucket.store.clear()
    cloud = Bucket()
    for path in (data / "voc.out").iterdir():
        cloud.pipe_file(f"gs://bucket/set/{path.name}", path.read_bytes())
    read, opened = array_record_module.ArrayRecordReader, []

    def reader(path, **options):
        if not path.startswith("gs://"):
            return read(path, **options)
        opened.append(path)
        copy = tmp_path / path.rpartition("/")[2]
        copy.write_bytes(cloud.cat_file(path))
        return read(str(copy), **options)

    monkeypatch.setattr(array_record_module, "ArrayRecordReader", reader)
    yield cloud, opened
    epath_backend.fsspec_backend._get_filesystem.cache_clear()


def test_data_in_the_cloud_is_the_same(data, bucket):
    _, opened = bucket
    _, local = pair(data, "voc")
    away = array_record.make(split="train", path="gs://bucket/set", verify=True)
    assert (away.classes, away.fingerprint) == (local.classes, local.fingerprint)
    assert opened == []  # opening a data set opens no shard
    assert equal(batches(away, BOXED), batches(local, BOXED))
    assert {path.rpartition("/")[0] for path in opened} == {"gs://bucket/set"}


def test_what_is_wrong_in_the_cloud_is_told_by_its_address(bucket):
    cloud, _ = bucket
    [shard, *_] = (path for path in sorted(cloud.find("gs://bucket/set")) if "train" in path and "array_record" in path)
    whole = cloud.cat_file(shard)
    cloud.pipe_file(shard, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"gs://bucket/set/.* is damaged: its checksum is wrong"):
        array_record.make(split="train", path="gs://bucket/set", verify=True)
    cloud.pipe_file(shard, whole[:-1])
    with pytest.raises(UserError, match=r"gs://bucket/set/.* is cut short"):
        array_record.make(split="train", path="gs://bucket/set")
    cloud.rm_file(shard)
    with pytest.raises(UserError, match=r"gs://bucket/set/.* is missing"):
        array_record.make(split="train", path="gs://bucket/set")
    with pytest.raises(UserError, match=r"gs://bucket/other"):
        array_record.make(split="train", path="gs://bucket/other")


@pytest.fixture
def copy(data, tmp_path):
    """The prepared folder of classes, to be damaged."""
    out = tmp_path / "copy"
    out.mkdir()
    for file in (data / "folder.out").iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    return out


def change_index(out, **values):
    index = json.loads((out / "index.json").read_text()) | values
    (out / "index.json").write_text(json.dumps(index))


def shard(out):
    return out / "train-00001-of-00002.array_record"


DAMAGES = {
    "no folder": (lambda out: [file.unlink() for file in out.iterdir()], r"has no index\.json; is it the --out folder"),
    "cut index": (lambda out: (out / "index.json").write_text("{"), "is not whole JSON"),
    "other index": (lambda out: change_index(out, format="x"), "is not the index of a data set by `mapjax prepare`"),
    "other version": (lambda out: change_index(out, version=2), "is of version 2 .* reads version 1; prepare the data"),
    "other skeleton": (lambda out: change_index(out, skeleton=[[0, 1]]), "'skeleton' is no list of pairs of keypoints"),
    "other sigmas": (lambda out: change_index(out, keypoints=["a"], sigmas=[0]), "'sigmas' are no numbers above 0"),
    "no shard": (lambda out: shard(out).unlink(), r"train-00001-of-00002\.array_record is missing; run the command"),
    "short shard": (lambda out: shard(out).write_bytes(b"short"), "is cut short: 5 of 131,072 bytes; run the command"),
    "long shard": (lambda out: shard(out).write_bytes(bytes(199_999)), "is not the file that was prepared"),
    "no labels": (lambda out: (out / "train.labels.npz").unlink(), r"train\.labels\.npz is missing"),
    "damaged labels": (lambda out: flip(out / "train.labels.npz"), r"train\.labels\.npz is damaged: its checksum"),
}


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_told_when_it_is_opened(copy, damage):
    do, message = DAMAGES[damage]
    do(copy)
    with pytest.raises(UserError, match=message):
        array_record.make(split="train", path=str(copy))


def test_a_split_that_was_not_prepared_is_told(copy):
    with pytest.raises(NoSuchSplit, match="no split 'test'; there is: train, val"):
        array_record.make(split="test", path=str(copy))


def test_a_damaged_shard_is_found_by_its_checksum_and_met_in_training(copy):
    source = array_record.make(split="train", path=str(copy), verify=True)
    data = bytearray(shard(copy).read_bytes())
    at = data.index(source.records[4]["image"])
    data[at + 40] ^= 1
    shard(copy).write_bytes(data)
    with pytest.raises(UserError, match=r"00001-of-00002\.array_record is damaged: its checksum is wrong"):
        array_record.make(split="train", path=str(copy), verify=True)
    source = array_record.make(split="train", path=str(copy))
    with pytest.raises(UserError, match=r"00001-of-00002\.array_record cannot be read at record 4 .*hash mismatch"):
        source.records[4]
    with pipeline.train_batches(source, LABELLED, batch=6, seed=0) as made:
        assert 4 not in np.asarray(next(made)["index"]) and list(made.replaced) == [name_of(source, 4)]
    with pipeline.eval_batches(source, crops.make(size=(8, 8)), batch=6) as made:
        np.testing.assert_array_equal(next(made)["mask"], [True, True, True, True, False, True])


def test_a_record_of_another_form_is_told(data, monkeypatch):
    _, prepared = pair(data, "folder")
    monkeypatch.setattr(array_record.Shards, "__getitem__", lambda self, index: b"something else")
    with pytest.raises(UserError, match=r"cannot be read at record 3 of its split .it does not begin as a record"):
        prepared.records[3]


def test_a_million_images_need_no_shard_to_open(tmp_path):
    """100,000 records in 40 shards that are holes: only the index, the labels and the sizes are looked at."""
    count, each = 100_000, 2500
    names = np.char.add("train/", np.char.zfill(np.arange(count).astype(str), 8)).tolist()
    arrays = truth.pack([{"id": n, "file": name, "label": n % 7} for n, name in enumerate(names)])
    labels = prepare._write_labels(tmp_path, "train", arrays)
    shards = [
        {"file": f"{n}.array_record", "records": each, "bytes": 10**9, "sha256": ""} for n in range(count // each)
    ]
    for one in shards:
        with open(tmp_path / one["file"], "wb") as file:
            file.truncate(10**9)
    split = {"records": count, "fingerprint": "f", "labels": labels, "shards": shards, "dropped": {}}
    index = {"format": array_record.FORMAT, "version": array_record.VERSION, "classes": list("abcdefg")}
    index |= {"category_ids": [*range(1, 8)], "splits": {"train": split}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    source = array_record.make(split="train", path=str(tmp_path), hold_out=0)
    assert len(source.records) == count and name_of(source, 99_999) == "train/00099999"
    assert quality.inspect(source, 0).per_class["a"] == 14286
    assert pathlib.Path(tmp_path / "train.labels.npz").stat().st_size < 31 * count
    assert encoding.decode(encoding.encode(truth_of(source, 5) | {"image": b"x"}))["label"] == 5
