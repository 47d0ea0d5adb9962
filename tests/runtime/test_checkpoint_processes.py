"""Checkpoints of several processes: parameters in parts, damage that only one of them sees, a save that is refused."""

import errno
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mapjax.runtime import checkpoint, distributed
from mapjax.sharding import mesh as shard
from mapjax.task import State

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[2]
WORKER = """
import argparse, json, pathlib, sys
sys.path[:0] = ["{root}", "{root}/tests/runtime"]
from mapjax.runtime import distributed
flags = dict(coordinator="127.0.0.1:{port}", processes=2, process=int(sys.argv[1]), wait=100)
distributed.start(argparse.Namespace(**flags), preemption=False)
import test_checkpoint_processes
print(json.dumps(test_checkpoint_processes.{part}(pathlib.Path("{folder}"))), flush=True)
distributed.leave(0)
"""


def in_two(part: str, folder: pathlib.Path) -> list:
    """Run a function of this module in two processes; give what each returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = WORKER.format(root=ROOT, port=port, part=part, folder=folder)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(number)],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ},
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=200) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def values_at(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {"kernel": rng.normal(size=(8, 4)).astype(np.float32), "bias": rng.normal(size=4).astype(np.float32)}


def places() -> dict[str, NamedSharding]:
    """The kernel in parts over `fsdp`, of as many devices as there are."""
    mesh = shard.make_mesh({"data": 1, "fsdp": jax.device_count()})
    return {"kernel": NamedSharding(mesh, PartitionSpec("fsdp")), "bias": NamedSharding(mesh, PartitionSpec())}


def state_at(step: int) -> State:
    def put(values, place):
        return jax.make_array_from_callback(values.shape, place, lambda part: values[part])

    params = jax.tree.map(put, values_at(step), places())
    number = put(np.array(step, np.int32), places()["bias"])
    return State(number, params, {}, {"momentum": params}, None)


def restored(keeper: checkpoint.Checkpoints) -> int:
    """The step that is restored, once each of its parts that is here has the bits it should."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0))
    found = keeper.restore(like)
    assert found is not None
    state, meta = found
    step = int(state.step)
    assert meta == {"step": step}
    for params in (state.params, state.opt["momentum"]):
        for name, values in values_at(step).items():
            for part in params[name].addressable_shards:
                np.testing.assert_array_equal(part.data, values[part.index])
    return step


def saved(keeper: checkpoint.Checkpoints, step: int) -> bool:
    return keeper.save(state_at(step), meta={"step": step}) and keeper.wait()


def save_three(folder: pathlib.Path) -> list:
    """Save, on a disk that is read-only for a while, and full for another; only the first process finds it so."""
    keeper = checkpoint.Checkpoints(folder)
    assert saved(keeper, 1)
    make = os.mkdir

    def refused(path, *args, **options):
        if str(folder) in os.fspath(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        make(path, *args, **options)

    if distributed.is_chief():
        os.mkdir = refused
    assert not saved(keeper, 2)
    os.mkdir = make
    usage = shutil.disk_usage
    if distributed.is_chief():
        shutil.disk_usage = lambda path: usage(path)._replace(free=100)
    assert not saved(keeper, 2)
    shutil.disk_usage = usage
    assert saved(keeper, 3)
    keeper.close()
    return [keeper.failed, keeper.steps()]


def go_on(folder: pathlib.Path) -> list:
    """Go on where the second process still sees only the newest checkpoint, which is damaged."""
    keeper = checkpoint.Checkpoints(folder)
    if not distributed.is_chief():
        keeper.steps = lambda: [5]
    step = restored(keeper)
    assert saved(keeper, 5)
    keeper.__dict__.pop("steps", None)
    keeper.close()
    return [step, keeper.steps(), keeper.is_scored(4)]


def test_two_processes_then_one_then_two(tmp_path):
    folder = tmp_path / "checkpoints"
    told = in_two("save_three", folder)
    assert told == [[["Read-only file system", "No space left on device"], [1, 3]]] * 2
    assert {path.name for path in folder.iterdir()} == {"1", "3"}
    # One process has the same bits as the two, and saves for them.
    keeper = checkpoint.Checkpoints(folder)
    assert restored(keeper) == 3
    assert saved(keeper, 4) and saved(keeper, 5)
    keeper.score(4, 0.5)
    keeper.close()
    largest = max((folder / "5" / "state").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:50])
    assert in_two("go_on", folder) == [[4, [4, 5], True]] * 2
    assert {path.name for path in folder.iterdir()} == {"4", "5", "5.broken", "scores.json"}
    keeper = checkpoint.Checkpoints(folder)
    assert restored(keeper) == 5
    keeper.close()
