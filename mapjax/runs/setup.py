"""A run's parts from its config, and a trained run from its folder.

Nothing receives the whole config but these functions and `fit`; each part gets its own node.
"""

import contextlib
import inspect
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from mapjax import stages
from mapjax.config import load as configs
from mapjax.config import parts
from mapjax.data import pipeline, sampling, splits
from mapjax.data.checks import quality
from mapjax.data.source import Source, labels_of, largest_size
from mapjax.data.transforms import corruptions
from mapjax.engine import evaluate, optimizer, schedule
from mapjax.engine import step as train
from mapjax.errors import NoSuchSplit, UserError, near
from mapjax.runtime import checkpoint, distributed, workdir
from mapjax.runtime import log as logs
from mapjax.sharding import mesh as shard
from mapjax.sharding import tensor
from mapjax.task import Batch, State, Task, Variables

DTYPES = ("float32", "bfloat16", "float16")


class Loaded(NamedTuple):
    """A trained task: what predicts, evaluates, explains and exports starts from."""

    config: Any
    classes: tuple[str, ...]
    task: Task
    variables: Variables
    step: int


def make_source(config: Any, kind: str, split: str | None = None) -> Source:
    """Open the "train" or the "eval" split that the config names, or another one by name.

    Nothing is held out of "train" for a "val" that is not asked for. The images of "eval" are changed by
    `config.shift`, if there is any (data/shifted.py).
    """
    node = config.data.to_dict()
    needs = getattr(inspect.getmodule(parts.find("tasks", config.task.name)), "NEEDS", "boxes")
    if kind == "train" and config.splits.eval not in splits.VALIDATION:
        node = splits.without_hold_out(node)
    source = parts.make("data.formats", node, split=split or config.splits[kind], needs=needs)
    changes: Any = config.get("shift")
    return corruptions.shift(source, changes.to_dict()) if kind == "eval" and changes else source


def open_sources(config: Any) -> tuple[Any, Source, Source]:
    """Open the train and the eval split; the config comes back with the names of those two.

    Where `config.splits` names several of each, the first pair that the data set has both of is taken.

    Raises:
      UserError: no such splits, or the two have other classes.
    """
    names = [(one,) if isinstance(one, str) else tuple(one) for one in (config.splits.train, config.splits.eval)]
    longest = max(map(len, names))
    if any(len(one) not in (1, longest) for one in names):
        raise UserError(f"splits.train={names[0]} and splits.eval={names[1]} must name as many splits, in pairs.")
    trains, evals = (one * longest if len(one) == 1 else one for one in names)
    for number, (learnt, held) in enumerate(zip(trains, evals), 1):
        chosen = configs.from_dict(configs.to_dict(config) | {"splits": {"train": learnt, "eval": held}})
        try:
            sources = make_source(chosen, "eval"), make_source(chosen, "train")
        except NoSuchSplit:
            if number == longest:
                raise
            continue
        break
    held_out, seen = sources
    if seen.classes != held_out.classes:
        raise UserError(
            f"{seen.name}: split {seen.split!r} has the classes {', '.join(seen.classes)}, and split "
            f"{held_out.split!r} has {', '.join(held_out.classes)}; they must be the same."
        )
    return chosen, seen, held_out


def require_sound(config: Any, mesh: Mesh) -> None:
    """Check the values that concern the run as a whole; each part checks its own.

    Raises:
      UserError: one that cannot be, with its key.
    """
    for key in ("batch", "eval_batch", "accumulate"):
        if int(config[key]) < 1:  # type: ignore[arg-type]
            raise UserError(f"{key}={config[key]} must be at least 1.")
    size = config.image_size
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f"image_size={size} must be height and width in pixels, as in (480, 640).")
    if config.dtype not in DTYPES:
        raise UserError(f"dtype={config.dtype!r} is not known.{near(config.dtype, DTYPES)}")
    if may_skip(config) < 0:
        raise UserError(f"skip_non_finite={may_skip(config)} must be how many steps may be left out, or 0.")
    if config.seed < 0:
        raise UserError(f"seed={config.seed} must not be negative.")
    shard.batch_sharding(mesh, config.batch)
    if config.batch % (shard.ways(mesh) * config.accumulate):
        raise UserError(
            f"batch={config.batch} does not divide by accumulate={config.accumulate} on {mesh.size} devices."
        )


def make_task(
    config: Any,
    classes: tuple[str, ...],
    class_counts: Callable[[], np.ndarray] | None = None,
    pixel_counts: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Task:
    """Make the task with its network; the counts, of the training split, are for tasks that weigh classes."""
    size = config.image_size
    model = parts.make("models", config.model.to_dict(), classes=len(classes), dtype=config.dtype, image_size=size)
    offered = {"model": model, "classes": classes, "image_size": size, "class_counts": class_counts}
    offered["pixel_counts"] = pixel_counts
    return parts.make("tasks", config.task.to_dict(), **offered)


def make_transform(
    config: Any, *, augment: bool, size: tuple[int, int] | None = None, scored: Source | None = None
) -> Callable[..., Any]:
    """Make the transform of records to examples of `size` (by default as the config says).

    Args:
      scored: the source whose examples are to be scored; None for training, and for images without truth.
    """
    node = config.transform.to_dict()
    if augment:
        return parts.make("data.transforms", node, size=size or config.image_size)
    chosen = size or config.get("eval_size") or config.image_size
    canvas = None if scored is None else partial(largest_size, scored)
    return parts.make("data.transforms", {**node, "augment": None}, size=chosen, canvas=canvas)


def make_clock(config: Any, examples: int) -> schedule.Clock:
    """Make the clock of a config's training on so many examples an epoch.

    Raises:
      UserError: a duration that is none, or shorter than one step.
    """
    settings: Any = config
    clock = schedule.Clock(settings.batch, examples)
    clock = clock._replace(total=clock.steps(settings.duration))
    if clock.total < 1:
        raise UserError(f"duration={settings.duration!r} must be at least one step.")
    return clock


def make_transforms(config: Any, clock: schedule.Clock) -> list[tuple[int, Callable[..., Any]]]:
    """Make the transforms of training, each with the step from which on it holds.

    More than one where `config.sizes` lets the images grow: ((0.0, (128, 128)), (0.6, (192, 192))) are shares of the
    training and sizes (progressive resizing: Touvron et al. 2019; Tan & Le 2021).

    Raises:
      UserError: sizes that are no such pairs, or do not begin at 0 and go up.
    """
    sizes: Any = config.get("sizes") or ((0.0, config.image_size),)
    try:
        pairs = [(float(share), (int(size[0]), int(size[1]))) for share, size in sizes]
        starts = [share for share, _ in pairs]
        good = starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < 1 and min(min(s) for _, s in pairs) > 0
    except (TypeError, ValueError, IndexError):
        good = False
    if not good:
        raise UserError(
            f"sizes={sizes} must be pairs of a share (0 first) and a size: ((0, (96, 96)), (0.5, (128, 128)))."
        )
    return [(round(share * clock.total), make_transform(config, augment=True, size=size)) for share, size in pairs]


def make_sampler(config: Any, source: Source) -> sampling.Sampler:
    """Make what says which records an epoch shows, in which order."""
    kind = str(config.get("sampling", "uniform"))
    return sampling.make(kind, None if kind == "uniform" else labels_of(source), len(source.records), config.seed)


def class_counts(config: Any, source: Source, sampler: sampling.Sampler) -> np.ndarray:
    """Count the examples of each class that an epoch shows."""
    if config.get("sampling", "uniform") == "uniform":
        return quality.class_counts(source)
    return np.bincount(labels_of(source)[sampler.order(0)], minlength=len(source.classes))


def make_places(config: Any, shapes: State, mesh: Mesh) -> State:
    """Say where each part of the state is: by `config.rules`, or else by what is known of the network.

    Raises:
      UserError: rules that do not fit the network, or devices that would have nothing to do.
    """
    rules = shard.read_rules(config.get("rules", ()))
    places = shard.placement(shapes, mesh, rules or tensor.rules(shapes.params), strict=bool(rules))
    shard.require_used(places, mesh)
    return places


class Program(NamedTuple):
    """The train step of a config on a mesh, and the state that it takes.

    init(batch) -> the state of step 0. places: where its parts are. like: their shapes, with these placements.
    compile(batch) -> step(state, batch), compiled for batches of that shape; the state is donated.
    """

    init: Callable[[Batch], State]
    places: State
    like: State
    compile: Callable[[Batch], Any]


def make_program(
    config: Any, task: Task, tx: optax.GradientTransformation, frozen: PyTree | None, batch: Batch, mesh: Mesh
) -> Program:
    """Make the one program that trains, is planned and is timed; `batch` gives the shapes."""
    settings: Any = config

    def init(batch: Batch) -> State:
        return train.init_state(task, tx, batch, seed=settings.seed, ema=settings.ema)

    shapes = jax.eval_shape(init, batch)
    places = make_places(config, shapes, mesh)
    like = jax.tree.map(lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), shapes, places)
    step = train.make_step(
        task, tx, seed=settings.seed, frozen=frozen, accumulate=settings.accumulate, ema=settings.ema,
        places=places.params if mesh.shape["fsdp"] > 1 else None, skip_non_finite=may_skip(config) > 0,
    )  # fmt: skip
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(places, None))

    def compiled(batch: Batch) -> Any:
        with jax.set_mesh(mesh):
            return jitted.lower(like, batch).compile()

    return Program(init, places, like, compiled)


def flops(compiled: Any) -> float | None:
    """Give the floating-point operations of a compiled step on one device by the compiler's count; None: not known."""
    found = (compiled.cost_analysis() or {}).get("flops", -1.0)
    return float(found) if found > 0 else None


def may_skip(config: Any) -> int:
    """Give how many steps may be left out because they are not finite."""
    return int(config.get("skip_non_finite", 0))


def make_optimizer(
    config: Any, task: Task, batch: Batch, clock: schedule.Clock
) -> tuple[optax.GradientTransformation, optax.Schedule, PyTree | None]:
    """Make the optimizer, its learning rate over steps, and which parameters are frozen (None: none)."""
    rate = schedule.make(config.schedule.to_dict(), peak=config.optimizer.learning_rate, clock=clock)
    params = jax.eval_shape(task.init, jax.random.key(0), batch)["params"]
    tx = optimizer.make(config.optimizer.to_dict(), params=params, schedule=rate)
    return tx, rate, optimizer.frozen(params, config.optimizer.freeze) if config.optimizer.freeze else None


def abstract_batch(source: Source, transform: Callable[..., Any], batch: int, sharding: NamedSharding) -> Batch:
    """Give the shapes of a batch, from the first record that can be read; its keys are checked against stages.py."""
    for index in range(len(source.records)):
        with contextlib.suppress(UserError):
            example = {**transform(source.records[index], np.random.default_rng(0)), "index": np.int32(0)}
            stages.check("example", example)
            rows = {**example, "mask": np.bool_(True)}
            return {
                name: jax.ShapeDtypeStruct((batch, *np.shape(value)), np.asarray(value).dtype, sharding=sharding)
                for name, value in rows.items()
            }
    raise UserError(f"{source.name}: none of the {len(source.records)} images of {source.split!r} can be read.")


def make_evaluation(
    config: Any, task: Task, source: Source, mesh: Mesh, log: logs.Log
) -> Callable[[Variables], evaluate.Evaluation]:
    """Make `evaluation(variables)` over a held-out split; it compiles once."""
    answer = shard.within(mesh, evaluate.make_answer(task))
    metric = task.metric(source)
    transform = make_transform(config, augment=False, scored=source)
    batch, sharding = eval_batch(config, mesh)
    total = -(-len(source.records) // batch)

    def evaluation(variables: Variables) -> evaluate.Evaluation:
        batches = pipeline.eval_batches(source, transform, batch=batch, sharding=sharding, threads=config.input.threads)
        return evaluate.evaluate(answer, variables, log.track(batches, f"evaluate {source.split}", total), metric)

    return evaluation


def eval_batch(config: Any, mesh: Mesh) -> tuple[int, NamedSharding]:
    """Give the size of an evaluation batch and its placement: padding is masked out, so it is rounded up to fit."""
    ways = shard.ways(mesh)
    batch = -(-config.eval_batch // ways) * ways
    return batch, shard.batch_sharding(mesh, batch, "eval_batch")


def trained_variables(state: State) -> Variables:
    """Give the variables to answer with: the averaged parameters where there are any."""
    return {"params": state.params if state.ema is None else state.ema, "stats": state.stats}


def load(folder: str | pathlib.Path, *, which: str = "last", overrides: Mapping[str, str] | None = None) -> Loaded:
    """Load a trained run.

    Args:
      folder: its workdir.
      which: "last", "best" (by the task's metric) or a step number.
      overrides: dotted key → value as text, of its config: how it answers, such as "task.views".

    Raises:
      UserError: no run there, no checkpoint that can be read, or a key that its config has not.
    """
    folder = pathlib.Path(folder)
    config: Any = configs.from_dict(workdir.read_json(folder / "config.json"))
    configs.override_all(config, overrides or {})
    classes = tuple(workdir.read_json(folder / "classes.json"))
    task = make_task(config, classes)
    keeper = checkpoint.Checkpoints(folder / "checkpoints", keep=config.keep, read_only=True)
    with contextlib.closing(keeper):
        # Of several processes, the first says which: another may not see the newest yet.
        step = int(distributed.share("step", str(_pick(keeper, folder, which) if distributed.is_chief() else 0)))
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
