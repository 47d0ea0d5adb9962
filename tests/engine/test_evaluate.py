"""Evaluation counts every image once, on any number of processes, and none that could not be read."""

import inspect
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from mapjax.data import pipeline
from mapjax.data.formats import scenes
from mapjax.data.records import Records
from mapjax.data.transforms import boxes
from mapjax.engine import evaluate
from mapjax.metrics import precision
from mapjax.sharding import mesh as shard
from mapjax.task import Result, Variables

ROOT = pathlib.Path(__file__).parents[2]


def source(length: int):
    return scenes.make(split="val", size=(32, 32), digit_size=(8.0, 14.0), val_length=length)


def answer(variables: Variables, batch) -> Result:
    """The truth, displaced by a pixel for every other image, with scores that differ."""
    shift = jnp.where(batch["index"] % 2 == 0, 0.0, 1.0)[:, None, None]
    return {
        "boxes": batch["boxes"] + shift,
        "scores": 0.5 + 0.01 * batch["index"][:, None] + 0.001 * jnp.arange(batch["boxes"].shape[1]),
        "classes": batch["classes"],
        "valid": batch["valid"],
    }


def evaluated(data, batch: int) -> evaluate.Evaluation:
    mesh = shard.make_mesh({"data": -1})
    transform = boxes.make(size=(32, 32), max_boxes=8)
    batches = pipeline.eval_batches(
        data, transform, batch=batch, sharding=shard.batch_sharding(mesh, batch, "eval_batch")
    )
    with batches:
        return evaluate.evaluate(jax.jit(answer), {}, batches, precision.make(data))


@pytest.mark.parametrize("batch", [1, 3, 7, 8])
def test_the_batch_size_changes_nothing(batch):
    one, other = evaluated(source(7), 7), evaluated(source(7), batch)
    assert one.images == other.images == 7
    assert one.metrics == other.metrics
    assert 0.5 < one.metrics["AP"] < 1


@pytest.mark.parametrize(
    ("sizes", "batch", "data"),
    [({"data": -1}, 1, 1), ({"data": -1}, 3, 3), ({"data": -1}, 32, 8), ({"data": 4, "fsdp": 2}, 1, 4)],
)
def test_devices_that_would_have_none_of_a_batch_are_left_out(monkeypatch, sizes, batch, data):
    """Of 8; but not where parameters are split over them."""

    def made(sizes, devices=None):
        found = [8 if sizes.get(axis) == -1 else sizes.get(axis, 1) for axis in shard.AXES]
        return AbstractMesh(tuple(found), shard.AXES)

    monkeypatch.setattr(shard, "make_mesh", made)
    assert inspect.unwrap(evaluate.make_mesh)(sizes, batch).shape["data"] == data


def test_an_unreadable_image_is_not_counted():
    data = source(4)

    def broken(index: int):
        record = data.records[index]
        return record | {"image": b"no image"} if index == 1 else record

    found = evaluated(data._replace(records=Records(4, broken)), 2)
    assert found.images == 3
    assert sorted(found.counts) == [0, 2, 3]


WORKER = """
import json, sys
import jax
sys.path[:0] = ["{root}", "{root}/tests/engine"]
jax.distributed.initialize("localhost:{port}", {count}, int(sys.argv[1]))
import test_evaluate
found = test_evaluate.evaluated(test_evaluate.source({length}), 4)
print(json.dumps([jax.process_count(), found.metrics, found.images, sorted(found.counts)]))
"""


@pytest.mark.process
@pytest.mark.parametrize(("count", "length"), [(2, 7), (4, 2)])  # of four processes, two have nothing but padding
def test_several_processes_agree_with_one(count, length):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = WORKER.format(root=ROOT, port=port, count=count, length=length)
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(k)], text=True, stdout=subprocess.PIPE, env={**os.environ})
        for k in range(count)
    ]
    outputs = [worker.communicate(timeout=200)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count
    alone = evaluated(source(length), 4)
    for output in outputs:
        processes, metrics, images, indices = json.loads(output.splitlines()[-1])
        assert processes == count
        assert metrics == pytest.approx(alone.metrics, abs=0)
        assert images == length
        assert indices == list(range(length))
        assert all(np.isfinite(list(metrics.values())))


def test_rows_that_several_processes_hold_are_counted_by_the_one_with_the_first_copy():
    """Rows 0–1 are here twice, once as the first copy; rows 4–6 are another process's first."""
    found = evaluate._first_copies([(4, 3, 1), (0, 2, 2), (0, 2, 0)])
    np.testing.assert_array_equal(found, [True, True, False, False, False])
