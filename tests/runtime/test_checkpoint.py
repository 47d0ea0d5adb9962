import errno
import gc
import itertools
import logging
import os
import resource
import shutil
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mapjax.errors import UserError
from mapjax.runtime import checkpoint, checksum
from mapjax.task import State


def state_at(step: int, size: int = 4) -> State:
    params = {"conv": {"kernel": jnp.full((size, 2), float(step)), "bias": jnp.arange(2.0)}}
    opt = optax.adamw(1e-3).init(params)
    return State(jnp.int32(step), params, {}, opt, jax.tree.map(lambda x: x + 0.5, params))


def like(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.fixture
def keeper(tmp_path):
    made = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=2)
    yield made
    made.close()


def test_the_state_comes_back_to_the_bit(keeper):
    state = state_at(3)
    assert keeper.save(state, meta={"spent_s": 1.5})
    assert keeper.wait()
    restored, meta = keeper.restore(like(state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert meta == {"spent_s": 1.5}
    variables = keeper.restore_variables(3)
    np.testing.assert_array_equal(variables["params"]["conv"]["kernel"], state.ema["conv"]["kernel"])
    assert variables["stats"] == {}


def test_nothing_saved_is_nothing_restored(keeper):
    assert keeper.restore(like(state_at(0))) is None
    assert keeper.best_step() is None


def test_the_last_and_the_best_are_kept(keeper):
    for step, score in [(1, 0.2), (2, 0.9), (3, 0.3), (4, 0.4), (5, 0.1)]:
        keeper.save(state_at(step), meta={})
        keeper.score(step, score)
    keeper.save(state_at(6), meta={})
    keeper.wait()
    assert keeper.steps() == [2, 5, 6]
    assert keeper.best_step() == 2
    assert checkpoint.Checkpoints(keeper.folder, read_only=True).best_step() == 2


def test_a_checkpoint_cut_short_is_set_aside(keeper, caplog):
    for step in (1, 2):
        keeper.save(state_at(step), meta={})
    keeper.wait()
    for file in (keeper.folder / "2" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        restored, _ = keeper.restore(like(state_at(0)))
    assert int(restored.step) == 1
    assert "checkpoint 2 cannot be read" in caplog.text
    assert keeper.steps() == [1]
    assert (keeper.folder / "2.broken").is_dir()
    assert keeper.save(state_at(2), meta={})  # the step can be saved again
    assert keeper.wait()
    assert keeper.steps() == [1, 2]


def files_of(folder):
    """Every file of a step that holds something, by its kind: the name without the random part."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        kind = name.rsplit("/", 1)[0] if "/d/" in name else name
        if path.is_file() and path.stat().st_size and kind not in found:
            found[kind] = path
    return found


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]


DAMAGE = {"cut": lambda data: data[: len(data) // 2], "flipped": flipped, "gone": None}


def test_damage_to_any_file_costs_only_that_checkpoint(tmp_path, caplog):
    """Whatever the kind of file and of damage: never another value, always the step before where one is lost."""
    saved = checkpoint.Checkpoints(tmp_path / "saved")
    states = {step: state_at(step, size=50) for step in (1, 2)}
    for step, state in states.items():
        saved.save(state, meta={"spent_s": step})
    saved.close()
    kinds = files_of(tmp_path / "saved" / "2")
    assert {"state/manifest.ocdbt", "state/_METADATA", "meta/metadata", "SHA256SUMS"} <= set(kinds)
    assert sum("/d" in kind for kind in kinds) >= 2
    for number, (kind, damage) in enumerate(itertools.product(kinds, DAMAGE)):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "saved", folder)
        path = folder / kinds[kind].relative_to(tmp_path / "saved")
        if DAMAGE[damage] is None:
            path.unlink()
        else:
            path.write_bytes(DAMAGE[damage](path.read_bytes()))
        keeper = checkpoint.Checkpoints(folder)
        caplog.clear()
        restored, meta = keeper.restore(like(states[1]))
        keeper.close()
        step = int(restored.step)
        jax.tree.map(np.testing.assert_array_equal, restored, states[step])
        assert meta == {"spent_s": step}
        if "/" not in kind:
            continue  # marks, times and the list itself: nothing of the state is in them
        assert step == 1, f"{kind} {damage}: not noticed"
        assert path.relative_to(folder / "2").as_posix() in caplog.text
        assert (folder / "2.broken").is_dir()


def test_the_checksums_are_those_of_sha256sum(keeper):
    keeper.save(state_at(1), meta={})
    keeper.wait()
    checked = subprocess.run(
        ["sha256sum", "-c", checksum.NAME], cwd=keeper.folder / "1", capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") > 8


def test_a_checkpoint_of_an_older_version_has_no_checksums(keeper):
    keeper.save(state_at(1), meta={})
    keeper.wait()
    (keeper.folder / "1" / checksum.NAME).unlink()
    restored, _ = keeper.restore(like(state_at(0)))
    assert int(restored.step) == 1


def test_damaged_parameters_are_not_answered_with(keeper):
    keeper.save(state_at(1), meta={})
    keeper.wait()
    path = next(path for kind, path in files_of(keeper.folder / "1").items() if "/d" in kind)
    path.write_bytes(flipped(path.read_bytes()))
    with pytest.raises(UserError, match=r"checkpoint .*/1 cannot be read \(state/.* has changed since it was written"):
        keeper.restore_variables(1)


# As for a full disk, below.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_file_system_that_becomes_read_only_leaves_no_thread_waiting(keeper, caplog, monkeypatch):
    """The end of the program waits for all threads."""
    keeper.save(state_at(1), meta={})
    keeper.wait()
    before = set(threading.enumerate())
    make = os.mkdir

    def refused(path, *args, **options):
        if str(keeper.folder) in os.fspath(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        make(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", refused)
        assert not (keeper.save(state_at(2), meta={}) and keeper.wait())
    limit = time.monotonic() + 10
    while (left := [one for one in set(threading.enumerate()) - before if not one.daemon]) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not left
    assert keeper.failed == ["Read-only file system"]
    assert "could not save a checkpoint" in caplog.text
    assert keeper.steps() == [1]
    assert keeper.save(state_at(3), meta={}) and keeper.wait()
    assert keeper.steps() == [1, 3]
    gc.collect()


def test_damaged_scores_cost_only_the_scores(keeper, caplog):
    keeper.save(state_at(1), meta={})
    keeper.score(1, 0.5)
    keeper.wait()
    assert checkpoint.Checkpoints(keeper.folder, read_only=True).is_scored(1)
    texts = ("{", "[]", '{"1": null}', '{"x": 1}', '{"1": NaN}', f'{{"1": 1{"0" * 400}}}', f'{{"1": 1{"0" * 5000}}}')
    for text in (*texts, "[" * 100_000):
        (keeper.folder / checkpoint.SCORES).write_text(text)
        again = checkpoint.Checkpoints(keeper.folder, read_only=True)
        assert again.best_step() == 1 and not again.is_scored(1)
    assert caplog.text.count("scores.json is damaged and passed over") == len(texts) + 1


def test_a_checkpoint_older_than_needed_is_never_preferred(keeper):
    """Neither a better one nor one written or touched later, nor what a kill left half written."""
    for step, score in [(5, 0.9), (10, 0.1)]:
        keeper.save(state_at(step), meta={})
        keeper.score(step, score)
    keeper.wait()
    os.utime(keeper.folder / "5")
    half = shutil.copytree(keeper.folder / "10", keeper.folder / ("15" + checkpoint.UNFINISHED))
    (half / checksum.NAME).unlink()
    again = checkpoint.Checkpoints(keeper.folder)
    restored, _ = again.restore(like(state_at(0)))
    assert int(restored.step) == 10
    assert not half.exists()


def test_training_waits_for_a_slow_disk_and_says_so_once(keeper, caplog, monkeypatch):
    written = checksum.write

    def slowly(*args, **options):
        time.sleep(0.2)
        written(*args, **options)

    monkeypatch.setattr(checksum, "write", slowly)
    monkeypatch.setattr(checkpoint, "SLOW_S", 0.1)
    for step in (1, 2, 3):
        assert keeper.save(state_at(step), meta={})
    assert caplog.text.count("training waits for it; save less often (every.save)") == 1
    assert 0.2 < keeper.waited_s < 10
    keeper.wait()
    assert keeper.steps() == [2, 3]


def test_a_checkpoint_without_its_state_is_told(keeper):
    keeper.save(state_at(1), meta={})
    keeper.wait()
    shutil.rmtree(keeper.folder / "1" / "state")
    with pytest.raises(UserError, match="none of the checkpoints"):
        keeper.restore(like(state_at(0)))
    assert keeper.steps() == [1]  # nothing is renamed while there is no other


def test_another_network_is_told_apart_from_damage(keeper):
    for step in (1, 2):
        keeper.save(state_at(step), meta={})
    keeper.wait()
    with pytest.raises(
        UserError, match=r"2 holds another network: ema/conv/kernel is \(4, 2\) there and \(5, 2\) here"
    ):
        keeper.restore(like(state_at(0, size=5)))
    assert keeper.steps() == [1, 2]
    again = checkpoint.Checkpoints(keeper.folder)  # as another process would
    restored, _ = again.restore(like(state_at(0)))
    assert int(restored.step) == 2
    with pytest.raises(UserError, match="another network"):
        again.restore(like(state_at(0, size=5)))


def test_a_step_may_break_twice(keeper):
    keeper.save(state_at(1), meta={})
    for _ in range(2):
        keeper.save(state_at(2), meta={})
        keeper.wait()
        shutil.rmtree(keeper.folder / "2" / "state")
        restored, _ = keeper.restore(like(state_at(0)))
        assert int(restored.step) == 1
    assert {path.name for path in keeper.folder.iterdir()} == {"1", "2.broken", "2.broken1"}


# Orbax also raises in its own thread what it raises in wait().
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_loses_nothing(keeper, caplog):
    keeper.save(state_at(1), meta={})
    keeper.wait()
    big = state_at(2, size=300_000)
    big = big._replace(params={"conv": {"kernel": jax.random.normal(jax.random.key(0), (300_000, 2))}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow beyond this: what a full disk does
    try:
        keeper.save(big, meta={})
        assert not keeper.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(keeper.failed) == 1
    assert "could not save a checkpoint" in caplog.text
    assert keeper.steps() == [1]
    assert [path.name for path in keeper.folder.iterdir()] == ["1"]
    assert keeper.save(state_at(3), meta={})
    assert keeper.wait()
    assert keeper.steps() == [1, 3]
    gc.collect()  # what Orbax leaves behind complains here and not in another test
