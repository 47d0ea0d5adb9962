"""The train step of a config: its optimizer, and the one program that trains, is planned and is timed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from mapjax.engine import optimizer, schedule, step
from mapjax.runs import networks
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Model, State, Task


class Program(NamedTuple):
    """The train step of a config on a mesh, and the state that it takes.

    init(batch) -> the state of step 0.
    places: where its parts are.
    like: their shapes, with these placements.
    compile(batch) -> step(state, batch), compiled for batches of that shape; the state is donated.
    """

    init: Callable[[Batch], State]
    places: State
    like: State
    compile: Callable[[Batch], Any]


def make(
    config: Any, model: Model, task: Task, batch: Batch, clock: schedule.Clock, mesh: Mesh
) -> tuple[Program, optax.Schedule]:
    """Make the one program that trains, is planned and is timed, and its learning rate by step.

    Args:
      batch: the shapes of one.
    """
    settings: Any = config
    tx, rate, frozen = make_optimizer(config, task, batch, clock)

    def init(batch: Batch) -> State:
        return step.init_state(task, tx, batch, seed=settings.seed, ema=settings.ema)

    shapes = jax.eval_shape(init, batch)
    places = make_places(config, model, shapes, mesh)
    like = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places)
    made = step.make_step(
        task, tx, seed=settings.seed, frozen=frozen, accumulate=settings.accumulate, ema=settings.ema,
        places=places.params if mesh.shape["fsdp"] > 1 else None, skip_non_finite=may_skip(config) > 0,
        total=clock.total,
    )  # fmt: skip
    jitted = jax.jit(made, donate_argnums=0, out_shardings=(places, None))

    def compiled(batch: Batch) -> Any:
        with jax.set_mesh(mesh), networks.fitting(config):
            return jitted.lower(like, batch).compile()

    return Program(init, places, like, compiled), rate


def make_places(config: Any, model: Model, shapes: State, mesh: Mesh) -> State:
    """Say where each part of the state is: by `config.rules`, or else by those of the network.

    Raises:
      UserError: rules that do not fit the network, or devices that would have nothing to do.
    """
    rules = shard.read_rules(config.rules)
    places = shard.placement(shapes, mesh, rules or model.rules, strict=bool(rules))
    shard.require_used(places, mesh)
    return places


def make_optimizer(
    config: Any, task: Task, batch: Batch, clock: schedule.Clock
) -> tuple[optax.GradientTransformation, optax.Schedule, PyTree | None]:
    """Make the optimizer, its learning rate over steps, and which parameters are frozen (None: none)."""
    rate = schedule.make(config.schedule.to_dict(), peak=config.optimizer.learning_rate, clock=clock)
    params = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    tx = optimizer.make(config.optimizer.to_dict(), params=params, schedule=rate)
    return tx, rate, optimizer.frozen(params, config.optimizer.freeze) if config.optimizer.freeze else None


def flops(compiled: Any) -> float | None:
    """Give the floating-point operations of a compiled step on one device by the compiler's count; None: not known."""
    found = (compiled.cost_analysis() or {}).get("flops", -1.0)
    return float(found) if found > 0 else None


def may_skip(config: Any) -> int:
    """Give how many steps may be left out because they are not finite."""
    return int(config.skip_non_finite)
