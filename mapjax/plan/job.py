"""Planning from what a person asks to what is printed."""

import pathlib
from typing import Any, NamedTuple

import jax

from mapjax import distributed, log, run, shard, workdir
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.plan import search, step, summary, tables, topology
from mapjax.plan.step import Config

HERE = 0.85  # of the memory of local devices that a step may take


class Asked(NamedTuple):
    """What is to be planned: see launch/plan.py. mesh: sizes by axis; None takes the config's."""

    name: str
    config: Config
    topology: str | None
    mesh: dict[str, int] | None
    classes: int | None = None
    examples: int | None = None


def read_mesh(text: str) -> dict[str, int]:
    """Read "data=64,model=4".

    Raises:
      UserError: it is not written so, or names an axis twice.
    """
    sizes: dict[str, int] = {}
    for pair in text.split(","):
        axis, equals, number = pair.strip().partition("=")
        if not equals or not number.removeprefix("-").isdigit() or axis in sizes:
            raise UserError(f"--mesh {text}: {pair!r} is no AXIS=N; write each axis once, as in data=64,model=4.")
        sizes[axis] = int(number)
    return sizes


def plan(asked: Asked, *, largest: bool = False, program: pathlib.Path | None = None) -> dict[str, Any]:
    """Print the plan of one mesh, with the config's batch or with the largest that fits; give its figures.

    The text of the compiled program is written to `program`.

    Raises:
      UserError: the step does not fit, or what is asked cannot be.
    """
    say = log.Log(None).say
    place, config, source, note = _open(asked, say)
    mesh = shard.make_mesh(asked.mesh or config.mesh.to_dict(), place.devices)
    if largest:
        config, found = _largest(config, source, place, mesh, say)
    else:
        try:
            found = summary.make(config, source, place, mesh)
        except step.TooLarge as error:
            raise UserError(_does_not_fit(error, config.batch, place)) from error
    say(f"{tables.compiled_line(found.compiled)}\n")
    say(f"{asked.name} on {place.name}, mesh {tables.mesh_name(found.mesh)}, batch {found.batch}\n")
    tables.wide().print(tables.plan(found))
    if program is not None:
        program.write_text(found.compiled.text, encoding="utf-8")
        say(f"\nthe program is in {program}")
    return summary.as_dict(found, asked.name, note)


def local_batch(config: Config, folder: pathlib.Path) -> int:
    """Find the largest batch that the local devices can train with, or the one that `folder` has been trained with.

    Of several processes the first one's memory counts, and all learn its answer.

    Raises:
      UserError: no batch fits, or it is not known how much memory there is.
    """
    say = log.Log(None, quiet=jax.process_index() != 0).say
    if workdir.is_trained(folder):
        return int(workdir.read_json(folder / "config.json")["batch"])
    config, source, _ = run.open_sources(config)
    mesh = shard.make_mesh(config.mesh.to_dict())
    chosen, _ = _largest(config, source, topology.open_place(None), mesh, say)
    batch = int(distributed.share("batch", str(chosen.batch)))
    say(f"batch {batch} fits; the learning rate stays {config.optimizer.learning_rate:g}")
    return batch


def rank(asked: Asked) -> list[dict[str, Any]]:
    """Print the meshes of the devices, the one with the shortest estimate first; give the figures of all.

    Raises:
      UserError: no mesh can be.
    """
    say = log.Log(None).say
    place, config, source, note = _open(asked, say)
    plans, refused = [], []
    for sizes in search.meshes(len(place.devices), config.batch):
        name = tables.mesh_name(sizes)
        try:
            plans.append(summary.make(config, source, place, shard.make_mesh(sizes, place.devices)))
        except step.TooLarge as error:
            refused.append((name, _does_not_fit(error, config.batch, place)))
        except UserError as error:
            refused.append((name, str(error)))
        else:
            say(f"{name}: compiled in {plans[-1].compiled.seconds:.0f} s")
    if not plans:
        why = "; ".join(f"{name}: {reason}" for name, reason in refused) or "the batch divides over none of them"
        raise UserError(f"--mesh auto: no mesh of {len(place.devices)} devices takes batch={config.batch}: {why}")
    plans.sort(key=lambda one: (one.bound.estimate or 0, sum(sent.traffic for sent in one.sent), one.compiled.peak))
    say("")
    tables.wide().print(tables.ranking(plans, refused))
    return [summary.as_dict(one, asked.name, note) for one in plans]


def _open(asked: Asked, say: Any) -> tuple[topology.Place, Config, Source, str]:
    place = topology.open_place(asked.topology)
    config, source, note = step.find_source(asked.config, asked.classes, asked.examples)
    if note:
        say(note)
    return place, config, source, note


def _largest(config: Config, source: Source, place: topology.Place, mesh: Any, say: Any) -> tuple[Config, summary.Plan]:
    # Here the data, and what others hold of the memory, need some as well.
    limit = int(place.chip.hbm * HERE) if place.chip.hbm and place.local else place.chip.hbm
    if limit is None:
        raise UserError(f"--batch auto: how much memory a {place.chip.name} has is not known; name a --topology.")
    plans: dict[int, summary.Plan] = {}

    def with_batch(batch: int) -> Config:
        made = config.copy_and_resolve_references()
        made.batch = batch
        return made

    def attempt(batch: int) -> search.Tried:
        try:
            plans[batch] = summary.make(with_batch(batch), source, place, mesh)
        except step.TooLarge as error:
            say(f"batch {batch}: needs {tables.size(error.needed) if error.needed else 'too much memory'}")
            return search.Tried(error.needed, False)
        peak = plans[batch].compiled.peak
        fits = peak <= limit
        say(f"batch {batch}: {tables.size(peak)} of {tables.size(limit)}" + ("" if fits else ", too much"))
        return search.Tried(peak, fits)

    unit = shard.ways(mesh) * config.accumulate * summary.micro_batches(config, mesh)
    batch = search.largest_batch(attempt, unit, config.batch, limit)
    return with_batch(batch), plans[batch]


def _does_not_fit(error: step.TooLarge, batch: int, place: topology.Place) -> str:
    needs = (
        f"needs {tables.size(error.needed)} of {tables.size(error.limit)}" if error.needed else "needs too much memory"
    )
    return (
        f"batch={batch} on {place.name} {needs} a chip: it does not fit; try --batch auto, rematerialisation "
        "(remat=True of the network) or more chips."
    )
