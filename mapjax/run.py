"""A run's parts from its config, and a trained run from its folder.

Nothing receives the whole config but these functions and `fit`; each part gets its own node.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree
from ml_collections import ConfigDict

from mapjax import checkpoint, evaluate, optimize, parts, schedule, shard, stages, workdir
from mapjax import config as configs
from mapjax import log as logs
from mapjax.data import pipeline
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.task import Batch, Counts, State, Task, Variables


class Evaluation(NamedTuple):
    """What an evaluation found: the scalars, and the counts they come from."""

    metrics: dict[str, float]
    counts: Counts
    seconds: float


class Loaded(NamedTuple):
    """A trained task: what predicts, evaluates, explains and exports starts from."""

    config: ConfigDict
    classes: tuple[str, ...]
    task: Task
    variables: Variables
    step: int


def make_source(config: ConfigDict, kind: str, split: str | None = None) -> Source:
    """Open the "train" or the "eval" split that the config names, or another one by name."""
    return parts.make("data", config.data.to_dict(), split=split or config.splits[kind])


def make_task(config: ConfigDict, classes: tuple[str, ...]) -> Task:
    """Make the task with its network."""
    model = parts.make("models", config.model.to_dict(), classes=len(classes), dtype=config.dtype)
    return parts.make("tasks", config.task.to_dict(), model=model, classes=classes, image_size=config.image_size)


def make_transform(config: ConfigDict, *, augment: bool) -> Callable[..., Any]:
    """Make the transform of records to examples."""
    node = config.transform.to_dict()
    return parts.make("data", node if augment else {**node, "augment": None}, size=config.image_size)


def make_optimizer(
    config: ConfigDict, task: Task, batch: Batch, clock: schedule.Clock
) -> tuple[optax.GradientTransformation, optax.Schedule, PyTree | None]:
    """Make the optimizer, its learning rate over steps, and which parameters are frozen (None: none)."""
    rate = schedule.make(config.schedule.to_dict(), peak=config.optimizer.learning_rate, clock=clock)
    params = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    tx = optimize.make(config.optimizer.to_dict(), params=params, schedule=rate)
    return tx, rate, optimize.frozen(params, config.optimizer.freeze) if config.optimizer.freeze else None


def abstract_batch(source: Source, transform: Callable[..., Any], batch: int, sharding: NamedSharding) -> Batch:
    """Give the shapes of a batch, from the first record that can be read; its keys are checked against stages.py."""
    for record in source.records:
        with contextlib.suppress(UserError):
            example = {**transform(record, np.random.default_rng(0)), "index": np.int32(0)}
            stages.check("example", example)
            rows = {**example, "mask": np.bool_(True)}
            return {
                name: jax.ShapeDtypeStruct((batch, *np.shape(value)), np.asarray(value).dtype, sharding=sharding)
                for name, value in rows.items()
            }
    raise UserError(f"{source.name}: none of the {len(source.records)} images of {source.split!r} can be read.")


def make_evaluation(
    config: ConfigDict, task: Task, source: Source, mesh: Mesh, log: logs.Log
) -> Callable[[Variables], Evaluation]:
    """Make `evaluation(variables)` over a held-out split; it compiles once."""
    answer = evaluate.make_answer(task)
    metric = task.metric(source)
    transform = make_transform(config, augment=False)
    # Padding is masked out, so an evaluation batch is simply rounded up to what the devices divide.
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = -(-config.eval_batch // ways) * ways
    sharding = shard.batch_sharding(mesh, batch, "eval_batch")
    total = -(-len(source.records) // batch)

    def evaluation(variables: Variables) -> Evaluation:
        began = time.perf_counter()
        batches = pipeline.eval_batches(source, transform, batch=batch, sharding=sharding, threads=config.input.threads)
        metrics, counts = evaluate.evaluate(
            answer, variables, log.track(batches, f"evaluate {source.split}", total), metric
        )
        return Evaluation(metrics, counts, time.perf_counter() - began)

    return evaluation


def trained_variables(state: State) -> Variables:
    """Give the variables to answer with: the averaged parameters where there are any."""
    return {"params": state.params if state.ema is None else state.ema, "stats": state.stats}


def load(folder: str | pathlib.Path, *, which: str = "last") -> Loaded:
    """Load a trained run.

    Args:
      folder: its workdir.
      which: "last", "best" (by the task's metric) or a step number.

    Raises:
      UserError: no run there, or no checkpoint that can be read.
    """
    folder = pathlib.Path(folder)
    config = configs.from_dict(workdir.read_json(folder / "config.json"))
    classes = tuple(workdir.read_json(folder / "classes.json"))
    task = make_task(config, classes)
    keeper = checkpoint.Checkpoints(folder / "checkpoints", keep=config.keep, read_only=True)
    with contextlib.closing(keeper):
        step = _pick(keeper, folder, which)
        saved = keeper.restore_variables(step)
    return Loaded(config, classes, task, saved, step)


def _pick(keeper: checkpoint.Checkpoints, folder: pathlib.Path, which: str) -> int:
    steps = keeper.steps()
    if not steps:
        raise UserError(f"{folder} holds no checkpoint yet; train it first with launch/main.py --workdir {folder}.")
    if which == "last":
        return steps[-1]
    if which == "best":
        return keeper.best_step() or steps[-1]
    if which.isdigit() and int(which) in steps:
        return int(which)
    raise UserError(f"--checkpoint {which}: {folder} holds {', '.join(map(str, steps))}; or say last or best.")
