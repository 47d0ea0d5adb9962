import gc
import logging
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mapjax import checkpoint
from mapjax.errors import UserError
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
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow beyond this: what a full disk does
    try:
        big = state_at(2, size=300_000)
        big = big._replace(params={"conv": {"kernel": jax.random.normal(jax.random.key(0), (300_000, 2))}})
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
