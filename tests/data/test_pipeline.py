"""Batches: a pure function of (seed, step), complete, ahead of use, and not stopped by a bad image."""

import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from mapjax import stages
from mapjax.data import pipeline
from mapjax.data.source import Source
from mapjax.errors import UserError

BROKEN = {3, 4}


def source(length=10):
    records = [
        {
            "id": i,
            "file": f"{i}.png",
            "image": np.full((4, 6, 3), i, np.uint8),
            "size": np.array([4, 6], np.int32),
            "boxes": np.array([[0, 0, 1 + i, 4]], np.float32),
            "classes": np.zeros(1, np.int32),
            "crowd": np.zeros(1, bool),
        }
        for i in range(length)
    ]
    return Source("test", "train", ("a",), (1,), records, {}, "")


def transform(record, rng):
    """Keep the image and add one random number, so that the randomness can be seen."""
    return {
        "image": record["image"],
        "boxes": np.concatenate([record["boxes"], rng.random((1, 4), np.float32)]),
        "valid": np.array([True, False]),
        "size": record["size"],
    }


def fragile(record, rng):
    if record["id"] in BROKEN and record["image"].any():
        raise UserError(f"{record['file']} is cut short")
    return transform(record, rng)


def take(count, change=transform, length=10, batch=4, seed=0, **options):
    with pipeline.train_batches(source(length), change, batch=batch, seed=seed, **options) as batches:
        return [jax.tree.map(np.asarray, next(batches)) for _ in range(count)], batches


def equal(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in zip(a, b)
    )


def test_batches_are_what_the_table_says_and_on_the_device():
    with pipeline.train_batches(source(), transform, batch=4, seed=0) as batches:
        batch = next(batches)
        assert all(isinstance(value, jax.Array) for value in batch.values())
        stages.check("batch", batch)
        assert batch["mask"].all() and batch["image"].dtype == np.uint8
        assert batches.waited_s > 0


def test_an_epoch_shows_every_record_once_and_each_in_another_order():
    batches, _ = take(10)
    index = np.concatenate([b["index"] for b in batches]).reshape(4, 10)
    for epoch in index:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in index}) == 4
    assert not np.array_equal(index[1], np.concatenate([b["index"] for b in take(5, seed=1)[0]])[:10])
    np.testing.assert_array_equal(batches[0]["image"][:, 0, 0, 0], batches[0]["index"])


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 4, "prefetch": 5}])
def test_threads_do_not_change_batches(options):
    assert equal(take(6)[0], take(6, **options)[0])


@pytest.mark.parametrize("start", [1, 2, 7])
def test_the_state_of_the_data_is_the_step(start):
    assert equal(take(9)[0][start:], take(9 - start, start=start)[0])


def test_randomness_differs_by_epoch_and_by_seed():
    drawn = [b["boxes"][:, 1] for b in take(10)[0]]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 40
    assert not np.array_equal(drawn[0], take(1, seed=1)[0][0]["boxes"][:, 1])


def test_a_sharded_batch_has_the_same_rows():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with pipeline.train_batches(source(), transform, batch=4, seed=0, sharding=sharding) as batches:
        found = [next(batches) for _ in range(3)]
    assert all(value.sharding == sharding for value in found[0].values())
    assert equal(take(3)[0], [jax.tree.map(np.asarray, b) for b in found])


def test_an_unreadable_image_is_replaced_and_reported(caplog):
    batches, state = take(10, fragile)
    index = np.concatenate([b["index"] for b in batches])
    assert not BROKEN & set(index.tolist())
    assert (index == 5).sum() == 12  # its own turns, and those of the two before it
    assert state.replaced == {"3.png": "3.png is cut short", "4.png": "4.png is cut short"}
    assert caplog.text.count("3.png") == 1
    assert all(b["mask"].all() for b in batches)


def test_when_nothing_is_readable_it_stops():
    def never(record, rng):
        raise UserError(f"{record['file']} is cut short")

    with (
        pipeline.train_batches(source(), never, batch=2, seed=0) as batches,
        pytest.raises(UserError, match=r"10 images of test in a row are unreadable, such as: \d\.png is cut short"),
    ):
        next(batches)


def test_a_bug_reaches_the_consumer():
    def wrong(record, rng):
        raise KeyError("a bug")

    with pipeline.train_batches(source(), wrong, batch=2, seed=0) as batches:
        with pytest.raises(KeyError, match="a bug"):
            next(batches)
        with pytest.raises(StopIteration):
            next(batches)


def test_closing_stops_all_threads():
    before = set(threading.enumerate())
    batches = pipeline.train_batches(source(), transform, batch=2, seed=0, threads=3)
    next(batches)
    batches.close()
    batches.close()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize(("length", "batch"), [(10, 4), (8, 4), (1, 4), (3, 1)])
def test_evaluation_shows_every_record_once_in_order(length, batch):
    batches = list(pipeline.eval_batches(source(length), transform, batch=batch))
    assert len(batches) == -(-length // batch)
    real = np.concatenate([b["index"][b["mask"]] for b in batches])
    np.testing.assert_array_equal(real, np.arange(length))
    assert all(len(b["mask"]) == batch for b in batches)
    stages.check("batch", batches[0])


def test_evaluation_passes_over_an_unreadable_image():
    batches = pipeline.eval_batches(source(), fragile, batch=4)
    found = list(batches)
    real = np.concatenate([b["index"][b["mask"]] for b in found])
    assert set(real.tolist()) == set(range(10)) - BROKEN
    assert set(batches.replaced) == {"3.png", "4.png"}


def test_an_empty_source_is_refused():
    with pytest.raises(UserError, match="no images"):
        pipeline.train_batches(source(0), transform, batch=2, seed=0)


WORKERS = """
import numpy as np
from mapjax.data import pipeline
from mapjax.data.formats import scenes
from mapjax.data.transforms import boxes as transforms

if __name__ == "__main__":
    source = scenes.make(split="train", size=(32, 32), digit_size=(8.0, 14.0), train_length=20)
    transform = transforms.make(size=(32, 32), max_boxes=8, augment={"flip_horizontal": 0.5, "rotate": 20.0})
    found = []
    for workers in (0, 2):
        with pipeline.train_batches(source, transform, batch=4, seed=3, start=2, workers=workers) as batches:
            found.append([next(batches) for _ in range(7)])
    for one, other in zip(*found):
        assert set(one) == set(other)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    print("equal", [batch["index"].tolist() for batch in found[1]][:1])
"""


@pytest.mark.process
def test_worker_processes_give_the_batches_of_threads(tmp_path):
    program = tmp_path / "workers.py"
    program.write_text(WORKERS)
    done = subprocess.run([sys.executable, str(program)], text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal")


class Killed:
    """A data set of numbers whose worker is killed before some of them, each time it comes there at first."""

    def __init__(self, kills: list[int], always: bool = False):
        self.kills, self.always, self.starts = list(kills), always, []

    def __call__(self, first: int):
        self.starts.append(first)
        return self._numbers(first)

    def _numbers(self, first: int):
        for number in range(first, 10):
            if number in self.kills:
                if not self.always:
                    self.kills.remove(number)
                raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search the logs.")
            yield {"number": np.array(number)}, {}


def test_killed_workers_are_started_again_where_they_were(caplog):
    dataset = Killed([0, 4, 4, 9])
    with pipeline.Batches(dataset, lambda arrays: arrays, 2) as batches:
        assert [int(batch["number"]) for batch in batches] == list(range(10))
    assert dataset.starts == [0, 0, 4, 4, 9]
    assert caplog.text.count("a data worker was killed; the workers are started again") == 4


def test_workers_that_are_killed_again_and_again_are_told():
    dataset = Killed([3], always=True)
    with pipeline.Batches(dataset, lambda arrays: arrays, 2) as batches:
        assert [int(next(batches)["number"]) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(UserError, match=r"data workers were killed 3 times .* lower input\.workers"):
            next(batches)
    assert dataset.starts == [0, 3, 3]


def test_another_error_of_the_pipeline_is_handed_on():
    def failing(first: int):
        raise RuntimeError("something else")
        yield

    with pipeline.Batches(failing, lambda arrays: arrays, 2) as batches, pytest.raises(RuntimeError, match="else"):
        next(batches)
