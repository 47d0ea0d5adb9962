"""Checkpoints on real file systems that become full or read-only, where this machine lets one be mounted."""

import gc
import os
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.checkpointers import async_checkpointer

from mapjax.runtime import checkpoint
from mapjax.task import State

# What Orbax raises in wait() it raises in its own threads too.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MiB in memory; gives its folder, and what mounts it again otherwise."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> str:
        command = ["mount", "-t", "tmpfs", "-o", options, "mapjax-test", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    if refused := mount("size=4m"):
        pytest.skip(f"no disk can be mounted here: {refused.strip()}")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def keeper(disk):
    made = checkpoint.Checkpoints(disk[0] / "checkpoints")
    yield made
    made.close()
    gc.collect()  # what Orbax leaves behind complains here and not in another test


def state_at(step: int) -> State:
    kernel = jax.random.normal(jax.random.key(step), (1000, 40))
    return State(jnp.int32(step), {"kernel": kernel}, {}, {}, None)


def saved(keeper: checkpoint.Checkpoints, step: int) -> bool:
    return keeper.save(state_at(step), meta={}) and keeper.wait()


def require_restored(folder: pathlib.Path, step: int) -> None:
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0))
    again = checkpoint.Checkpoints(folder)
    state, _ = again.restore(like)
    again.close()
    assert int(state.step) == step
    jax.tree.map(np.testing.assert_array_equal, state, state_at(step))


def fill(folder: pathlib.Path, leave: int) -> pathlib.Path:
    """Write until only `leave` bytes are free."""
    path = folder / "filler"
    free = os.statvfs(folder)
    path.write_bytes(b"x" * (free.f_bavail * free.f_frsize - leave))
    return path


@pytest.mark.parametrize("leave", [0, 50_000])  # not even the folder; some files, but not the arrays
def test_a_full_disk_loses_nothing(disk, keeper, leave):
    assert saved(keeper, 1)
    filler = fill(disk[0], leave)
    assert not saved(keeper, 2)
    keeper.score(1, 0.5)
    assert set(keeper.failed) == {"No space left on device"}
    assert keeper.steps() == [1]
    require_restored(keeper.folder, 1)
    filler.unlink()
    assert saved(keeper, 3)
    assert keeper.steps() == [1, 3]
    require_restored(keeper.folder, 3)


def test_errors_of_a_save_that_come_late_are_not_those_of_the_next(disk, keeper, monkeypatch):
    threads = async_checkpointer._AsyncManager
    commit = threads._thread_func
    monkeypatch.setattr(threads, "_thread_func", lambda *given: (time.sleep(1), commit(*given)))
    filler = fill(disk[0], 0)
    assert not saved(keeper, 1)
    filler.unlink()
    assert saved(keeper, 2)
    assert keeper.steps() == [2]


def test_a_disk_that_becomes_read_only_loses_nothing(disk, keeper):
    folder, remount = disk
    assert saved(keeper, 1)
    assert remount("ro") == ""
    assert not saved(keeper, 2)
    keeper.score(1, 0.5)
    assert set(keeper.failed) == {"Read-only file system"}
    assert keeper.steps() == [1]
    assert remount("rw") == ""
    assert saved(keeper, 3)
    assert keeper.steps() == [1, 3]
    require_restored(keeper.folder, 3)
    assert not list(folder.glob(f"checkpoints/*{checkpoint.UNFINISHED}"))
