"""All that a run is made of, from its config: `build` is what training, plans, timing and probing start from.

Nothing receives the whole config but the functions of this room; each part gets its own node.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from mapjax import stages
from mapjax.config import load as configs
from mapjax.config import schema
from mapjax.data import box_masks, sampling
from mapjax.data.checks import map_quality
from mapjax.data.source import Source
from mapjax.data.streams import Stream
from mapjax.engine import schedule
from mapjax.errors import UserError
from mapjax.metrics import combine
from mapjax.runs import further, networks, program, sources
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Counts, Metric, Model, Task


class Setup(NamedTuple):
    """What a run is made of; fixed while it lasts.

    config: with the splits that were chosen.
    train, held_out: the two splits.
    sampler: which records an epoch shows.
    metric: against the truth of `held_out`; one for the whole run.
    streams: what a batch holds besides the main data.
    transforms: of training, each with the step from which on it holds.
    batches: the shapes of theirs, each shape once, that of the last transform last.
    rate: the learning rate by step.

    Example:
      >>> from mapjax.config import load
      >>> from mapjax.runs import setup
      >>> made = setup.build(load.load("classify", {"batch": "32"}))
      >>> made.train.classes[:3], made.batches[0]["image"].shape
      (('0', '1', '2'), (32, 8, 8, 3))
    """

    config: Any
    mesh: Mesh
    sharding: NamedSharding
    train: Source
    held_out: Source
    sampler: sampling.Sampler
    clock: schedule.Clock
    model: Model
    task: Task
    metric: Metric
    streams: tuple[Stream, ...]
    transforms: tuple[tuple[int, Callable[..., Any]], ...]
    batches: tuple[Batch, ...]
    rate: optax.Schedule
    program: program.Program


def build(
    config: Any,
    *,
    mesh: Mesh | None = None,
    opened: tuple[Any, Source, Source] | None = None,
    counts: Callable[[Source], np.ndarray] | None = None,
    stand_in: Callable[[Mapping[str, Any]], Source | None] = lambda data: None,
) -> Setup:
    """Make all that a run of a config is made of; nothing is compiled, and no parameter drawn.

    Args:
      mesh: other devices than the config's.
      opened: what `sources.open_sources` gave, or what stands in for data that is not here.
      counts: stands in for counting the training examples, and pixels, of each class, where only shapes matter.
      stand_in: gives what stands in for the data of a further stream that is not here, or None.

    Raises:
      UserError: something in the config, or in the data, that the user can mend.

    Example:
      >>> from mapjax.config import load
      >>> from mapjax.runs import setup
      >>> made = setup.build(load.load("classify"))
      >>> len(made.train.records), made.metric.best
      (1438, 'top1')
    """
    mesh = shard.make_mesh(config.mesh.to_dict()) if mesh is None else mesh
    require_sound(config, mesh)
    config, train, held_out = opened or sources.open_sources(config)
    sampler = sources.make_sampler(config, train)
    clock = make_clock(config, sampler.length)
    model = networks.make_model(config, len(train.classes))
    class_counts, pixel_counts = _counting(config, train, sampler, counts)
    task = networks.make_task(config, train.classes, model, class_counts, pixel_counts)
    sharding = shard.batch_sharding(mesh, config.batch)
    transforms = tuple(sources.make_transforms(config, clock))
    streams = further.make(config, train, stand_in)
    beside = {one.name: further.shapes(one, mesh, config.accumulate) for one in streams}
    batches = tuple(one | beside for one in sources.abstract_batches(train, transforms, config.batch, sharding))
    for batch in batches:
        stages.check("batch", batch)
    made, rate = program.make(config, model, task, batches[-1], clock, mesh)
    metric = make_metric(config, task, held_out)
    return Setup(
        config,
        mesh,
        sharding,
        train,
        held_out,
        sampler,
        clock,
        model,
        task,
        metric,
        streams,
        transforms,
        batches,
        rate,
        made,
    )


def _counting(config: Any, train: Source, sampler: sampling.Sampler, counts: Callable[[Source], np.ndarray] | None):
    """Make what counts the classes of the training split: examples, and pixels."""
    if counts is None:
        return partial(sources.class_counts, config, train, sampler), partial(map_quality.pixel_counts, train)
    number = counts(train)
    return lambda: number, lambda: (number, number)


def make_metric(config: Any, task: Task, source: Source) -> Metric:
    """Make the metrics that a config names, or the task's own, against the truth of a source."""
    asked: Any = config.metrics or task.metrics
    nodes = [node if isinstance(node, str) else dict(node.items()) for node in asked]
    metric = combine.named(nodes, source)

    def measure(results: Mapping[str, Any], batch: Batch) -> Counts:
        # Masks of the images' own sizes have no fixed shape, and are made here, on the host.
        found = {name: box_masks.finished(one, batch["size"]) for name, one in results.items()}
        return metric.measure(found, batch)

    return metric._replace(measure=measure) if task.needs == "masks" else metric


def require_sound(config: Any, mesh: Mesh) -> None:
    """Check the values that concern the run as a whole, also those that a program has set; each part checks its own.

    Raises:
      UserError: one that cannot be, with its key.
    """
    schema.require_known(configs.to_dict(config), "config")
    schema.require_parts(config, "config")
    shard.batch_sharding(mesh, config.batch)
    if config.batch % (shard.ways(mesh) * config.accumulate):
        raise UserError(
            f"batch={config.batch} does not divide by accumulate={config.accumulate} on {mesh.size} devices."
        )


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
