"""The loop around the train step: it never waits for the device except two steps behind it."""

import statistics
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mapjax.engine.step import Step
from mapjax.task import Batch, Scalars, State

SPIKE = 5.0  # a loss above this many times the running median is an anomaly
_WINDOW, _ENOUGH = 100, 20  # losses that the median is taken over, and how many it needs


class NonFinite(Exception):
    """The loss or the gradient of a step is not finite; holds the step, its scalars and the indices of its batch."""

    def __init__(self, step: int, scalars: dict[str, float], indices: list[int]):
        super().__init__(f"step {step}: the loss is not finite")
        self.step, self.scalars, self.indices = step, scalars, indices


class Spike(NamedTuple):
    """A step whose loss is far above the median of those before it, and the indices of its batch."""

    step: int
    loss: float
    median: float
    indices: list[int]


class Due(NamedTuple):
    """What a step number calls for: every so many steps (0: none), and at the end."""

    every: int
    total: int

    def __call__(self, step: int) -> bool:
        """Say whether it is due after `step` steps."""
        return (self.every > 0 and step % self.every == 0) or step == self.total


def _stop(found: NonFinite) -> None:
    raise found


class Hooks(NamedTuple):
    """What the loop calls; each may be slow only when it is due.

    tick(step) -> bool: called after every step is dispatched; True asks to save and leave.
    log(step, scalars): mean of each scalar since the last call; called two steps late, so the device need not wait.
    evaluate(state): called after the same state was saved.
    save(state)
    non_finite(NonFinite): a step was not finite; it raises what it is given unless such steps are skipped.
    spike(Spike): the loss of a step was far above the median of those before it.
    """

    tick: Callable[[int], bool]
    log: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[State], None]
    save: Callable[[State], None]
    non_finite: Callable[[NonFinite], None] = _stop
    spike: Callable[[Spike], None] = lambda _: None


def train(
    step: Step,
    state: State,
    batches: Iterator[Batch],
    *,
    start: int,
    total: int,
    hooks: Hooks,
    log: Due,
    evaluate: Due,
    save: Due,
) -> tuple[State, bool]:
    """Train from step `start` until `total`.

    Returns:
      The state, and whether it was stopped before the end (it is saved then).

    Raises:
      NonFinite: the loss is not finite (and `hooks.non_finite` skips no more); nothing is saved after the last good
        checkpoint.
    """
    recent = _Recent(hooks, log)
    for number in range(start + 1, total + 1):
        batch = next(batches)
        state, scalars = step(state, batch)
        recent.push(number, scalars, batch["index"])
        stopping = hooks.tick(number)
        judging = evaluate(number) and not stopping
        if save(number) or judging or stopping:
            recent.read_all()  # so that what is saved is finite
            hooks.save(state)
        if judging:
            hooks.evaluate(state)
        if stopping:
            return state, True
    return state, False


class _Recent:
    """Scalars of the steps since the last log; read two steps late, so the device never waits for the host."""

    def __init__(self, hooks: Hooks, due: Due) -> None:
        self._hooks, self._due = hooks, due
        self._pending: deque[tuple[int, Scalars, Any]] = deque()
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._sums: dict[str, float] = {}
        self._count = 0

    def push(self, step: int, scalars: Scalars, index: Any) -> None:
        self._pending.append((step, scalars, index))
        while len(self._pending) > 2:
            self._read()

    def read_all(self) -> None:
        while self._pending:
            self._read()

    def _read(self) -> None:
        step, scalars, index = self._pending.popleft()
        values = {name: float(value) for name, value in jax.device_get(scalars).items()}
        if all(np.isfinite(value) for value in values.values()):
            self._watch(step, values.get("loss", 0.0), index)
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        else:
            self._hooks.non_finite(NonFinite(step, values, _indices(index)))
        if self._due(step):
            self._hooks.log(step, {name: total / self._count for name, total in self._sums.items()})
            self._sums, self._count = {}, 0

    def _watch(self, step: int, loss: float, index: Any) -> None:
        """Tell of a loss that is far above the median of those before it."""
        if len(self._losses) >= _ENOUGH:
            median = statistics.median(self._losses)
            if 0 < median * SPIKE < loss:
                self._hooks.spike(Spike(step, loss, median, _indices(index)))
        self._losses.append(loss)


def _indices(index: jax.Array) -> list[int]:
    """Give the indices of the records of a batch; all processes ask at the same step, for all hold its scalars."""
    if not index.is_fully_addressable:
        from jax.experimental import multihost_utils

        index = multihost_utils.process_allgather(index, tiled=True)
    return sorted(set(np.asarray(index).tolist()))
