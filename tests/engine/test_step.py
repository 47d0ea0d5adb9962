"""The step and the loop, on the smallest task there is: least squares."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mapjax.engine import loop, optimizer
from mapjax.engine import step as train
from mapjax.errors import UserError
from mapjax.task import Task


def squares(noise: float = 0.0) -> Task:
    """Fit y = x·w + b; `noise` makes the loss depend on the key."""

    def init(key, batch):
        kernel = jax.random.normal(key, (batch["image"].shape[-1],))
        return {"params": {"kernel": kernel, "bias": jnp.zeros(())}, "stats": {"seen": jnp.zeros(())}}

    def loss(variables, batch, context):
        params = variables["params"]
        error = batch["image"] @ params["kernel"] + params["bias"] - batch["truth"]
        value = jnp.mean(error**2) + noise * jax.random.normal(context.key) * params["bias"]
        return value, ({"seen": variables["stats"]["seen"] + 1}, {"loss": value})

    def nothing(*_):
        return {}

    return Task("", nothing, init, loss, nothing, nothing, ())


def batch_of(number: int, size: int = 8) -> dict:
    rng = np.random.default_rng(number)
    image = rng.normal(size=(size, 3)).astype(np.float32)
    truth = image @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3
    index = np.arange(number * size, (number + 1) * size, dtype=np.int32)
    return {"image": jnp.asarray(image), "truth": jnp.asarray(truth), "index": jnp.asarray(index)}


def poisoned(number: int) -> dict:
    """A batch with one image that is not finite."""
    batch = batch_of(number)
    return batch | {"image": batch["image"].at[3, 1].set(jnp.nan)}


def run(task, *, steps, start=None, ema=0.0, accumulate=1, frozen=None, skip=False, batches=batch_of, **options):
    batch = batch_of(0)
    params = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    node = {"name": "sgd", "weight_decay": 0.0, "clip": 0.0, **options}
    tx = optimizer.make(node, params=params, schedule=optax.constant_schedule(0.05))
    state = train.init_state(task, tx, batch, seed=0, ema=ema) if start is None else start
    step = jax.jit(
        train.make_step(task, tx, seed=0, frozen=frozen, accumulate=accumulate, ema=ema, skip_non_finite=skip)
    )
    for number in range(int(state.step), steps):
        state, scalars = step(state, batches(number))
    assert step._cache_size() == 1
    return state, scalars


def test_it_learns():
    state, scalars = run(squares(), steps=400)
    np.testing.assert_allclose(state.params["kernel"], [1.0, -2.0, 0.5], atol=1e-3)
    np.testing.assert_allclose(state.params["bias"], 0.3, atol=1e-3)
    assert float(scalars["loss"]) < 1e-5
    assert int(state.step) == 400 == int(state.stats["seen"])


def test_going_on_gives_the_same_bits():
    whole, _ = run(squares(noise=0.1), steps=20, ema=0.9)
    half, _ = run(squares(noise=0.1), steps=9, ema=0.9)
    rest, _ = run(squares(noise=0.1), steps=20, start=half, ema=0.9)
    jax.tree.map(np.testing.assert_array_equal, whole, rest)


def test_the_key_differs_from_step_to_step():
    def noise(steps: int) -> float:
        """What the key's draw adds to the gradient of the bias in the last of so many steps."""
        before, _ = run(squares(noise=0.0), steps=steps - 1, momentum=0.0)
        with_noise, _ = run(squares(noise=1.0), steps=steps, start=before, momentum=0.0)
        without, _ = run(squares(noise=0.0), steps=steps, start=before, momentum=0.0)
        return float(without.params["bias"] - with_noise.params["bias"]) / 0.05

    drawn = [float(jax.random.normal(jax.random.fold_in(jax.random.key(0), step))) for step in (1, 2, 3)]
    np.testing.assert_allclose([noise(steps) for steps in (2, 3, 4)], drawn, rtol=1e-3)
    assert len(set(drawn)) == 3


def test_accumulation_is_the_same_mathematics():
    whole, a = run(squares(), steps=5)
    parts, b = run(squares(), steps=5, accumulate=4)
    np.testing.assert_allclose(whole.params["kernel"], parts.params["kernel"], rtol=1e-5)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    np.testing.assert_allclose(a["gradient_norm"], b["gradient_norm"], rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_that_is_not_finite_changes_only_the_step_number(accumulate):
    """Parameters, moments, statistics and average are those of a run that never saw that batch."""

    def some(number):
        return poisoned(number) if number == 3 else batch_of(number)

    with_it, scalars = run(squares(), steps=6, ema=0.9, accumulate=accumulate, skip=True, batches=some)
    assert int(with_it.step) == 6 and np.isfinite(scalars["loss"])
    before, lost = run(squares(), steps=4, ema=0.9, accumulate=accumulate, skip=True, batches=some)
    assert not np.isfinite(lost["loss"])
    three, _ = run(squares(), steps=3, ema=0.9, accumulate=accumulate, skip=True)
    jax.tree.map(np.testing.assert_array_equal, before, three._replace(step=jnp.int32(4)))
    # From there on it is a run from that state with the batches that follow.
    rest, _ = run(squares(), steps=6, start=before, ema=0.9, accumulate=accumulate)
    jax.tree.map(np.testing.assert_array_equal, with_it, rest)


def test_skipping_changes_no_step_that_is_finite():
    skipping, _ = run(squares(noise=0.1), steps=5, ema=0.9, skip=True)
    plain, _ = run(squares(noise=0.1), steps=5, ema=0.9)
    jax.tree.map(np.testing.assert_array_equal, skipping, plain)


def test_frozen_parameters_stay_even_under_decay():
    batch = batch_of(0)
    params = jax.eval_shape(squares().init, jax.random.key(0), batch)["params"]
    frozen = optimizer.frozen(params, ["kernel"])
    state, _ = run(squares(), steps=5, frozen=frozen, freeze=["kernel"], weight_decay=0.1)
    before = squares().init(jax.random.key(0), batch)["params"]
    np.testing.assert_array_equal(state.params["kernel"], before["kernel"])
    assert float(state.params["bias"]) != 0


def test_decay_and_multipliers_choose_by_path():
    plain, _ = run(squares(), steps=1, momentum=0.0)
    scaled, _ = run(squares(), steps=1, momentum=0.0, lr_multipliers=[("bias", 0.5)])
    decayed, _ = run(squares(), steps=1, momentum=0.0, weight_decay=0.1)
    start = squares().init(jax.random.key(0), batch_of(0))["params"]
    np.testing.assert_allclose(scaled.params["bias"], plain.params["bias"] * 0.5, rtol=1e-6)
    np.testing.assert_allclose(
        decayed.params["kernel"], plain.params["kernel"] - 0.05 * 0.1 * start["kernel"], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(decayed.params["bias"], plain.params["bias"])


def test_clipping_bounds_the_update():
    state, scalars = run(squares(), steps=1, momentum=0.0, clip=0.01)
    before = squares().init(jax.random.key(0), batch_of(0))["params"]
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before))
    np.testing.assert_allclose(moved, 0.05 * 0.01, rtol=1e-3)
    assert float(scalars["gradient_norm"]) > 0.01


def test_the_average_follows_by_its_formula():
    state, _ = run(squares(), steps=2, ema=0.999)
    one, _ = run(squares(), steps=1)
    before = squares().init(jax.random.key(0), batch_of(0))["params"]
    expected = before["kernel"] + (1 - 1 / 10) * (one.params["kernel"] - before["kernel"])
    expected = expected + (1 - 2 / 11) * (state.params["kernel"] - expected)
    np.testing.assert_allclose(state.ema["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "adamm"}, "Did you mean 'adamw'"),
        ({"name": "sgd", "momentun": 0.1}, "optimizer.momentun is not known. Did you mean 'momentum'"),
        ({"name": "sgd", "lr_multipliers": ("kernel", 0.1)}, "optimizer.lr_multipliers=.*write pairs"),
        ({"name": "sgd", "freeze": ["bakbone"]}, "optimizer.freeze: 'bakbone' matches no parameter"),
    ],
)
def test_optimizer_mistakes(node, message):
    params = {"kernel": jnp.zeros(3), "bias": jnp.zeros(())}
    with pytest.raises(UserError, match=message):
        optimizer.make(node, params=params, schedule=optax.constant_schedule(0.1))


class Calls:
    """Hooks that note what they were called for."""

    def __init__(self, stop_at=None, allowed=0):
        self.stop_at, self.allowed, self.logged, self.judged, self.saved = stop_at, allowed, [], [], []
        self.skipped, self.spikes = [], []
        self.hooks = loop.Hooks(
            tick=lambda step: step == self.stop_at,
            log=lambda step, means: self.logged.append((step, means.get("loss"))),
            evaluate=lambda state: self.judged.append(int(state.step)),
            save=lambda state: self.saved.append(int(state.step)),
            non_finite=self.non_finite,
            spike=self.spikes.append,
        )

    def non_finite(self, found):
        if len(self.skipped) == self.allowed:
            raise found
        self.skipped.append((found.step, found.indices))


def counting(state, batch):
    return state._replace(step=state.step + 1), {"loss": batch["loss"]}


def losses(values):
    return ({"loss": jnp.float32(v), "index": jnp.arange(i, i + 2)} for i, v in enumerate(values))


BLANK = train.State(jnp.zeros((), jnp.int32), {}, {}, {}, None)


def looped(values, calls, total, start=0):
    state = BLANK._replace(step=jnp.int32(start))
    return loop.train(
        counting,
        state,
        itertools.islice(losses(values), start, None),
        start=start,
        total=total,
        hooks=calls.hooks,
        log=loop.Due(3, total),
        evaluate=loop.Due(4, total),
        save=loop.Due(2, total),
    )


def test_the_loop_calls_what_is_due():
    calls = Calls()
    state, stopped = looped(range(10), calls, total=7)
    assert int(state.step) == 7
    assert not stopped
    assert calls.logged == [(3, 1.0), (6, 4.0), (7, 6.0)]
    assert calls.judged == [4, 7]
    assert calls.saved == [2, 4, 6, 7]


def test_a_signal_saves_and_leaves():
    calls = Calls(stop_at=5)
    state, stopped = looped(range(10), calls, total=9)
    assert stopped
    assert int(state.step) == 5
    assert calls.saved[-1] == 5


def test_a_loss_that_is_not_finite_stops_before_it_is_saved():
    calls = Calls()
    with pytest.raises(loop.NonFinite) as caught:
        looped([1, 2, 3, float("nan"), 5, 6], calls, total=6)
    assert caught.value.step == 4
    assert caught.value.indices == [3, 4]
    assert calls.saved == [2]


def test_steps_that_are_not_finite_are_left_out_of_the_means_and_counted():
    nan = float("nan")
    calls = Calls(allowed=4)
    state, _ = looped([1, nan, 3, nan, nan, float("inf"), 7], calls, total=7)
    assert int(state.step) == 7
    assert calls.skipped == [(2, [1, 2]), (4, [3, 4]), (5, [4, 5]), (6, [5, 6])]
    assert calls.logged == [(3, 2.0), (6, None), (7, 7.0)]
    with pytest.raises(loop.NonFinite):
        looped([1, nan, 3, nan, nan, 6, 7], Calls(allowed=2), total=7)


def test_a_loss_far_above_the_median_is_told():
    steady = [1.0 + number / 100 for number in range(25)]
    calls = Calls()
    looped([*steady, 5.5, 5.7, 1.0, 60.0], calls, total=29)
    medians = [np.median([*steady]), np.median([*steady, 5.5])]
    assert 5.5 < 5 * medians[0] < 5.7
    assert [(spike.step, spike.loss, spike.indices) for spike in calls.spikes] == [
        (27, pytest.approx(5.7), [26, 27]),
        (29, 60.0, [28, 29]),
    ]
    assert calls.spikes[0].median == pytest.approx(medians[1])
    early = Calls()
    looped([1.0] * 10 + [100.0], early, total=11)
    assert early.spikes == []  # a median of ten says little


def test_a_loss_sees_its_step_its_progress_and_the_average():
    """Its parameters are pulled to the average of before, the harder the further the training is."""
    seen = squares()

    def loss(variables, batch, context):
        gap = optax.tree.norm(jax.tree.map(jnp.subtract, variables["params"], context.ema))
        return seen.loss(variables, batch, context)[0] + context.progress * gap, (
            variables["stats"],
            {"step": context.step, "progress": context.progress, "gap": gap},
        )

    task, batch = seen._replace(loss=loss), batch_of(0)
    tx = optax.sgd(0.05)
    step = jax.jit(train.make_step(task, tx, seed=0, ema=0.5, total=4))
    state, lines = train.init_state(task, tx, batch, seed=0, ema=0.5), []
    for number in range(3):
        gap = np.sqrt(
            sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(*map(jax.tree.leaves, (state.params, state.ema))))
        )
        state, scalars = step(state, batch_of(number))
        np.testing.assert_allclose(float(scalars["gap"]), gap, atol=1e-6)
        lines.append((int(scalars["step"]), float(scalars["progress"])))
    assert lines == [(0, 0.0), (1, 0.25), (2, 0.5)]
