"""Durations and learning-rate schedules.

A duration in a config is a number and a unit: "1200 steps", "12 epochs", "90000 examples", or "5 %" of the
whole training. `Clock` turns them into steps.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optax

from mapjax.config import schema
from mapjax.errors import UserError, near

UNITS = ("steps", "epochs", "examples", "%")


class Clock(NamedTuple):
    """What turns durations into steps: global batch size, examples per epoch, and the total (0: not known yet)."""

    batch: int
    examples: int
    total: int = 0

    def steps(self, duration: str | int, key: str = "duration") -> int:
        """Convert a duration to a whole number of steps, rounded up, at least 1 unless it is zero.

        Raises:
          UserError: not a number with one of the known units; `key` is named.
        """
        found = re.fullmatch(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[0-9]+)?)\s*([a-z]+|%)?\s*", str(duration))
        unit = (found.group(2) or "steps") if found else ""
        unit = unit if unit in UNITS or not unit else next((u for u in UNITS if u == unit + "s"), unit)
        if not found or unit not in UNITS:
            raise UserError(f"{key}={duration!r} is no duration; write for example '500 steps'.{near(unit, UNITS)}")
        if unit == "%" and not self.total:
            raise UserError(f"{key}={duration!r}: the whole training itself cannot be given in %; use steps or epochs.")
        per_unit = {
            "steps": 1.0,
            "epochs": self.examples / self.batch,
            "examples": 1 / self.batch,
            "%": self.total / 100,
        }
        return math.ceil(round(float(found.group(1)) * per_unit[unit], 6))

    def epoch(self, step: int) -> float:
        """Say how many times the training split has been seen after `step` steps."""
        return step * self.batch / max(self.examples, 1)


def cosine(peak: float, total: int, *, final: float) -> optax.Schedule:
    """Fall from `peak` to `final * peak` along half a cosine (SGDR, Loshchilov & Hutter 2017)."""
    return optax.cosine_decay_schedule(peak, max(total, 1), alpha=final)


def steps(peak: float, total: int, *, warmup: int, at: Sequence[float], factor: float) -> optax.Schedule:
    """Multiply by `factor` at each fraction of the training in `at`.

    The fractions are of the whole training; of it, `total` steps come after `warmup` steps.
    """
    places = (max(1, round(fraction * (warmup + total)) - warmup) for fraction in at)
    return optax.piecewise_constant_schedule(peak, dict.fromkeys(places, factor))


def linear(peak: float, total: int, *, final: float) -> optax.Schedule:
    """Fall from `peak` to `final * peak` along a line; after a warm-up this is the one-cycle shape (Smith 2018)."""
    return optax.linear_schedule(peak, final * peak, max(total, 1))


def polynomial(peak: float, total: int, *, power: float, final: float) -> optax.Schedule:
    """Fall from `peak` to `final * peak` as (1 - share)^power (Chen et al. 2017, for segmentation)."""
    return optax.polynomial_schedule(peak, final * peak, power, max(total, 1))


def constant(peak: float, total: int) -> optax.Schedule:
    """Stay at `peak`."""
    del total
    return optax.constant_schedule(peak)


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "cosine": cosine,
    "linear": linear,
    "steps": steps,
    "polynomial": polynomial,
    "constant": constant,
}


def make(node: Mapping[str, Any], *, peak: float, clock: Clock) -> optax.Schedule:
    """Make a learning-rate schedule over steps: a linear warm-up from 0, then the named decay.

    Args:
      node: keys of `schedule` in config/schema.py; of the decays each takes what is its own.
      peak: the learning rate after the warm-up.
      clock: with the total number of steps.

    Raises:
      UserError: an unknown schedule or key, or a value that cannot be.
    """
    options = schema.group("schedule")
    for word in node:
        if word not in options:
            raise UserError(f"schedule.{word} is not known.{near(word, options)}")
    options |= node
    name, warmup = options["name"], clock.steps(options["warmup"], "schedule.warmup")
    if "%" in str(options["warmup"]) and warmup > clock.total:
        raise UserError(f"schedule.warmup={options['warmup']!r} must be at most 100 % of the training.")
    if name not in SCHEDULES:
        raise UserError(f"schedule.name={name!r} is not known.{near(name, SCHEDULES)}")
    takes = inspect.signature(SCHEDULES[name]).parameters
    options = {word: value for word, value in (options | {"warmup": warmup}).items() if word in takes}
    try:
        decay = SCHEDULES[name](peak, clock.total - warmup, **options)
    except TypeError as error:
        raise UserError(f"schedule {name!r}: {error}.") from error
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup), decay], [warmup])
