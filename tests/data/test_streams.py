"""Several streams in a batch, and transforms that draw companions: each element a function of its number and seed."""

import inspect
import itertools
import os
import pathlib
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mapjax import stages
from mapjax.data import labelled, pipeline, streams
from mapjax.data.source import Records, Source
from mapjax.data.transforms import boxes, crops, mixed_boxes
from mapjax.errors import UserError
from mapjax.sharding import mesh as shard


def digits(name, count):
    rng = np.random.default_rng(count)
    images, labels = rng.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8), np.arange(count, dtype=np.int32) % 3
    files = [f"{name}/{k}" for k in range(count)]
    return labelled.make_source(name, "train", ("a", "b", "c"), files, labels, images, dropped={})


def boxed(count=7, broken=()):
    def at(index):
        if index in broken:
            raise UserError(f"{index} is broken")
        own = np.random.default_rng(index)
        corner = own.uniform(0, 20, (2, 2))
        return {
            "id": index,
            "file": f"{index}.png",
            "image": own.integers(0, 256, (32, 32, 3)).astype(np.uint8),
            "size": np.array([32, 32], np.int32),
            "boxes": np.concatenate([corner, corner + 8], 1).astype(np.float32),
            "classes": np.array([index, index], np.int32) % 3,
            "crowd": np.zeros(2, bool),
            "areas": np.full(2, 64, np.float32),
        }

    names = [f"{k}.png" for k in range(count)]
    return Source("boxed", "train", ("a", "b", "c"), (1, 2, 3), Records(count, at, names=names), {}, "0")


LABELLED, UNLABELLED = digits("labelled", 10), digits("unlabelled", 23)
TRANSFORM = crops.make(size=(6, 6), fit="stretch", augment={"translate": 0.2, "noise": 8.0})
MIXED = mixed_boxes.make(size=(32, 32), max_boxes=3, augment={"flip_horizontal": 0.5}, probability=0.7)


def two_streams(start=0, **options):
    further = [streams.make("unlabelled", UNLABELLED, TRANSFORM, batch=6, seed=5)]
    return pipeline.train_batches(LABELLED, TRANSFORM, batch=4, seed=5, further=further, start=start, **options)


def mixing(start=0, source=None, **options):
    return pipeline.train_batches(source or boxed(), MIXED, batch=4, seed=2, start=start, **options)


def taken(batches, count):
    with batches:
        return [jax.tree.map(np.asarray, batch) for batch in itertools.islice(batches, count)]


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("make", [two_streams, mixing])
def test_going_on_in_the_middle_gives_the_same_batches(make):
    whole = taken(make(), 7)
    assert_same(taken(make(start=4, threads=1, prefetch=1), 3), whole[4:])
    assert any((one["image"] != other["image"]).any() for one, other in itertools.pairwise(whole))


# In a process of its own: what is checked by shape here cannot be sent to a worker.
WORKERS = """
import test_streams as t

if __name__ == "__main__":
    t.assert_same(t.taken(t.two_streams(start=1, workers=1), 2), t.taken(t.two_streams(), 3)[1:])
    t.assert_same(t.taken(t.mixing(start=1, workers=1), 2), t.taken(t.mixing(), 3)[1:])
    print("the same")
"""


@pytest.mark.process
def test_worker_processes_change_nothing(tmp_path):
    (tmp_path / "workers.py").write_text(WORKERS)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])}
    command = [sys.executable, str(tmp_path / "workers.py")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr


def test_a_further_stream_stands_under_its_name_and_leaves_the_main_one_alone():
    whole = taken(two_streams(), 8)
    with pipeline.train_batches(LABELLED, TRANSFORM, batch=4, seed=5) as alone:
        for batch, plain in zip(whole, alone):
            beside = batch.pop("unlabelled")
            stages.check("batch", batch | {"unlabelled": beside})
            assert_same(batch, jax.tree.map(np.asarray, plain))
            assert beside["image"].shape == (6, 6, 6, 3) and beside["mask"].all()
    seen = [index for batch in taken(two_streams(), 8) for index in batch["unlabelled"]["index"].tolist()]
    assert sorted(seen[:23]) == list(range(23)) == sorted(seen[23:46])  # each once an epoch, in another order
    assert seen[:23] != seen[23:46]
    other = streams.make("other", UNLABELLED, TRANSFORM, batch=6, seed=5)
    assert [int(streams.element(other, 0, row)[0]["index"]) for row in range(6)] != seen[:6]


def test_every_device_has_its_rows_of_each_stream():
    mesh = shard.make_mesh({"data": 1}, jax.devices()[:1])
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    placed = taken(two_streams(sharding=sharding), 3)
    assert_same(placed, taken(two_streams(), 3))


def test_a_mix_is_the_average_of_two_examples_and_has_the_boxes_of_both():
    mixed = taken(mixing(), 12)
    counts = np.concatenate([batch["valid"].sum(1) for batch in mixed])
    assert set(counts.tolist()) == {2, 3}  # of four boxes three have room
    assert 0.5 < (counts == 3).mean() < 0.9  # of 48 elements 70 % are mixed
    record, other = (boxed().records[k] for k in (1, 4))
    base = mixed_boxes.make(size=(32, 32), max_boxes=3)  # as in evaluation: nothing is drawn
    one, two = (base(each, np.random.default_rng(0)) for each in (record, other))
    found = mixed_boxes.mix(one, two, 0.25)
    expected = 0.25 * record["image"].astype(float) + 0.75 * other["image"]
    assert np.abs(found["image"] - expected).max() <= 0.5
    np.testing.assert_array_equal(found["boxes"], [*record["boxes"], other["boxes"][0]])
    np.testing.assert_array_equal(found["classes"], [1, 1, 1])
    stages.check("example", found)


def test_a_mix_has_the_masks_and_keypoints_of_both():
    given, drawn = boxed().records, []
    for index in range(2):
        masks = np.zeros((2, 32, 32), bool)
        masks[:, index::2] = True
        points = np.full((2, 1, 3), 2.0 + index, np.float32)
        drawn.append(given[index] | {"masks": masks, "keypoints": points, "mirrored": np.zeros(1, np.int32)})
    base = mixed_boxes.make(size=(32, 32), max_boxes=3, mask_size=8)
    one, two = (base(record, np.random.default_rng(0)) for record in drawn)
    found = mixed_boxes.mix(one, two, 0.5)
    np.testing.assert_array_equal(found["box_masks"], [*one["box_masks"][:2], two["box_masks"][0]])
    assert found["box_masks"].any((1, 2)).all() and not np.array_equal(one["box_masks"], two["box_masks"])
    np.testing.assert_array_equal(found["keypoints"][:, 0, 0], [2, 2, 3])
    stages.check("example", found)


def test_a_mix_of_labels_that_only_one_has():
    """Keypoints of one of the two are not labelled for the objects of the other; images without boxes are averaged."""
    given = boxed().records
    points = np.full((2, 1, 3), 2.0, np.float32)
    posed = given[0] | {"keypoints": points, "mirrored": np.zeros(1, np.int32)}
    bare = {key: given[1][key] for key in ("id", "file", "image", "size")}
    base = mixed_boxes.make(size=(32, 32), max_boxes=5)
    first, second, nothing = (base(record, np.random.default_rng(0)) for record in (posed, given[1], bare))
    both, turned = mixed_boxes.mix(first, second, 0.5), mixed_boxes.mix(second, first, 0.5)
    np.testing.assert_array_equal(both["keypoints"][:, 0, 2], [2, 2, 0, 0, 0])
    np.testing.assert_array_equal(turned["keypoints"][:, 0, 2], [0, 0, 2, 2, 0])
    np.testing.assert_array_equal(turned["valid"], [True] * 4 + [False])
    for pair in ((first, nothing), (nothing, first)):
        found = mixed_boxes.mix(*pair, 0.5)
        np.testing.assert_array_equal(found["boxes"], first["boxes"])
        stages.check("example", found)
    assert mixed_boxes.mix(nothing, nothing, 0.5).keys() == nothing.keys()
    with pytest.raises(UserError, match="only some give keypoints cannot share a batch; give all the records"):
        pipeline.stack([first, second])


def test_evaluation_is_that_of_boxes():
    options = {"size": (32, 48), "max_boxes": 3, "fit": "shorter", "shorter": 24, "longest": 40, "multiple": 8}
    record = boxed().records[2]
    one, other = (make(**options)(record, np.random.default_rng(0)) for make in (boxes.make, mixed_boxes.make))
    assert one["image"].shape == (24, 24, 3)
    assert_same(other, one)


@pytest.mark.parametrize("make", [two_streams, mixing])
def test_processes_share_the_rows_of_each_stream(make, monkeypatch):
    whole, halves = taken(make(), 3), []
    for half in range(2):
        rows = partial(lambda half, batch, sharding: list(range(half * batch // 2, (half + 1) * batch // 2)), half)
        monkeypatch.setattr(pipeline, "_local_rows", rows)
        halves.append(taken(make(), 3))
    for batch, *parts in zip(whole, *halves):
        assert_same(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), batch)


def test_a_broken_companion_is_replaced_too():
    with mixing(source=boxed(broken={3})) as batches:
        found = list(itertools.islice(batches, 6))
        assert batches.replaced == {"3.png": "3 is broken"}  # whether it came as a companion or itself
    assert all(3 not in batch["index"] for batch in found)
    assert all(np.asarray(batch["mask"]).all() for batch in found)


@pytest.mark.parametrize(("count", "broken"), [(2, {1}), (2, {0}), (5, {0, 1, 3, 4})])
def test_of_few_records_one_that_can_be_read_is_enough(count, broken):
    stream = streams.make("", boxed(count, broken), MIXED, batch=4, seed=2)
    (whole,) = set(range(count)) - broken
    for number in range(100):
        found, replaced = streams.element(stream, *divmod(number, 4))
        assert found["index"] == whole and set(replaced) <= {f"{k}.png" for k in broken}
    assert_same(streams.element(stream, 24, 3)[0], found)
    nothing = streams.make("", boxed(count, set(range(count))), MIXED, batch=4, seed=2)
    with pytest.raises(UserError, match=f"{count} images of boxed in a row are unreadable, such as: . is broken"):
        streams.element(nothing, 0, 0)


def test_values_that_cannot_be():
    for options in ({"probability": 1.5}, {"probability": "x"}, {"alpha": 0}, {"alpha": "x"}):
        (value,) = options.values()
        with pytest.raises(UserError, match=f"={value!r} (must be from 0 to 1|above 0)"):
            inspect.unwrap(mixed_boxes.make)(size=(8, 8), max_boxes=2, **options)  # types are checked in tests only
    with pytest.raises(UserError, match="has no images in its split 'train'"):
        streams.make("x", digits("none", 0), TRANSFORM, batch=2, seed=0)
