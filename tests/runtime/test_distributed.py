"""What processes have in common and share; that each reads its own rows of the same batches."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from mapjax.data import pipeline
from mapjax.data.source import Source
from mapjax.engine import loop
from mapjax.errors import UserError
from mapjax.runtime import distributed
from mapjax.sharding import mesh

ROOT = pathlib.Path(__file__).parents[2]


def test_differences_are_named_by_process_and_key():
    same = {"config.batch": "4", "jax": "1"}
    assert distributed.difference([same, dict(same)]) == ""
    found = distributed.difference([same, same, {"config.batch": "8", "jax": "2"}])
    assert found.startswith("process 2 differs from process 0 in config.batch: 8, not 4 (and 1 more differ); start all")
    assert "in jax: missing, not 1;" in distributed.difference([same, {"config.batch": "4"}])
    assert "in more: 1, not missing;" in distributed.difference([same, {**same, "more": "1"}])


def test_alone_nothing_is_exchanged_and_jax_is_not_imported():
    assert distributed.exchange("key", "value") == ["value"]
    assert distributed.share("key", "value") == "value"
    distributed.require_same("facts", {"a": 1})
    assert distributed.is_chief() and not distributed.begun() and distributed.name() == ""
    program = (
        "import argparse, sys; from mapjax.runtime import cluster, distributed; parser = argparse.ArgumentParser(); "
        "cluster.add_arguments(parser); distributed.start(parser.parse_args([]), preemption=True); "
        "sys.exit('jax' in sys.modules)"
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "OMPI", "JAX"))}
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, check=False).returncode == 0


def test_a_folder_that_is_not_shared(tmp_path):
    with pytest.raises(UserError, match=r"config\.json, which process 0 has made, is not seen by process 0 on .*share"):
        distributed.require_seen(tmp_path / "config.json", seconds=0.01)


WORKER = """
import argparse, json, sys
import numpy as np
sys.path[:0] = ["{root}", "{root}/tests/runtime"]
from mapjax.runtime import distributed
flags = dict(coordinator="127.0.0.1:{port}", processes={count}, process=int(sys.argv[1]), wait=100)
distributed.start(argparse.Namespace(**flags), preemption=False)
import test_distributed
read, seen, told = test_distributed.train_order()
print(json.dumps([read, distributed.exchange("seen", json.dumps(seen)), told]))
sys.stdout.flush()
distributed.leave(0)
"""


def run_together(program: str, count: int, **fields: str) -> list[tuple[str, str]]:
    """Run a program, its fields filled in, as `count` processes that must end well; give each one's stdout, stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = program.format(root=ROOT, port=port, count=count, **fields)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen([sys.executable, "-c", program, str(k)], text=True, **pipes) for k in range(count)]
    outputs = [worker.communicate(timeout=200) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count, outputs
    return outputs


def source() -> Source:
    return Source("test", "train", ("a",), (1,), [{"id": i, "file": f"{i}.png"} for i in range(20)], {}, "")


def train_order(steps: int = 6) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Take batches of 8 of 20 records: which this process has read, its rows of every batch, and what is told of it."""
    read = []

    def note(record, rng):
        read.append(record["id"])
        return {"image": rng.integers(0, 255, (2, 2, 3), np.uint8)}

    sharding = mesh.batch_sharding(mesh.make_mesh({"data": -1}), 8)
    options = {"batch": 8, "seed": 3, "sharding": sharding, "threads": 1, "prefetch": 1}
    with contextlib.closing(pipeline.train_batches(source(), note, **options)) as batches:
        taken = [next(batches)["index"] for _ in range(steps)]
    rows = [sorted(batch.addressable_shards, key=lambda part: part.index[0].start or 0) for batch in taken]
    seen = [np.concatenate([np.asarray(part.data) for part in parts]).tolist() for parts in rows]
    return read, seen, [loop._indices(batch) for batch in taken]


@pytest.mark.process
@pytest.mark.parametrize("count", [2, 4])
def test_every_process_reads_only_its_own_rows_of_the_same_batches(count):
    outputs = run_together(WORKER, count)
    _, whole, told = train_order()
    assert told == [sorted(set(rows)) for rows in whole]
    for number, (output, _) in enumerate(outputs):
        read, seen, there = json.loads(output.splitlines()[-1])
        assert there == told  # a step that goes wrong is told with all records of its batch
        parts = [json.loads(text) for text in seen]
        np.testing.assert_array_equal(
            np.concatenate(parts, axis=1), np.array(whole)
        )  # the order is that of one process
        own = np.array(parts[number]).ravel().tolist()
        assert read[: len(own)] == own  # nothing else was decoded, but ahead
        rows = 8 // count
        assert len(read) <= len(own) + 8 * rows


LATE = """
import argparse, sys, time
sys.path.insert(0, "{root}")
from mapjax.runtime import distributed
number = int(sys.argv[1])
flags = dict(coordinator="127.0.0.1:{port}", processes={count}, process=number, wait=100)
distributed.start(argparse.Namespace(**flags), preemption=True)
late = getattr(distributed, "{late}")
setattr(distributed, "{late}", lambda *given: (time.sleep(number), late(*given)))
distributed.leave(0)
"""


@pytest.mark.process
@pytest.mark.parametrize("late", ["_take_leave", "_exit"])
def test_whoever_is_late_to_leave_is_not_aborted(late):
    """Process 0 holds the service, at whose end JAX aborts those that still hang on it."""
    outputs = run_together(LATE, 3, late=late)
    assert [errors for _, errors in outputs[1:]] == [""] * 2
