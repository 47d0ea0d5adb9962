"""Planning from what a person asks to what is printed."""

import json
import pathlib
from typing import Any, NamedTuple

import jax

from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.plan import search, step, summary, tables, topology
from mapjax.plan.step import Config
from mapjax.runs import sources
from mapjax.runtime import distributed, log, workdir
from mapjax.sharding import mesh as shard

HERE = 0.85  # of the memory of local devices that a step may take


class Asked(NamedTuple):
    """What is to be planned: see mapjax plan.

    mesh: sizes by axis; None takes the config's.
    """

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


def local_batches(config: Config, folder: pathlib.Path) -> dict[str, int]:
    """Find the largest "batch" that the local devices can train with, or the one that `folder` has been trained with.

    "eval_batch" stays the config's, or is halved until an evaluation fits beside the training's state. Of several
    processes that with the least memory counts.

    Raises:
      UserError: no batch fits, or it is not known how much memory there is.
    """
    say = log.Log(None, quiet=jax.process_index() != 0).say
    if workdir.is_trained(folder):
        before = workdir.read_json(folder / "config.json")
        return {name: int(before.get(name, config[name])) for name in ("batch", "eval_batch")}
    config, source, held_out = sources.open_sources(config)
    mesh = shard.make_mesh(config.mesh.to_dict())
    place = _of_all(topology.open_place(None))
    chosen, _ = _largest(config, source, place, mesh, say)
    evaluated = _scored(chosen, source, held_out, place, mesh, say)
    found = {"batch": chosen.batch, "eval_batch": evaluated}
    shared = json.loads(distributed.share("batch", json.dumps(found)))
    say(f"batch {shared['batch']} fits; the learning rate stays {config.optimizer.learning_rate:g}")
    return shared


def _of_all(place: topology.Place) -> topology.Place:
    """Take the least memory that any process has for a device, so that all of them search alike."""
    every = [int(text) for text in distributed.exchange("memory", str(place.chip.hbm or 0))]
    return place._replace(chip=place.chip._replace(hbm=min(every) or None))


def _scored(config: Config, source: Source, held_out: Source, place: topology.Place, mesh: Any, say: Any) -> int:
    """Halve `eval_batch` until scoring fits beside the training's state."""
    limit, ways, batch = _limit(place), shard.ways(mesh), config.eval_batch
    while True:
        try:
            peak = step.evaluation_peak(_with(config, eval_batch=batch), source, held_out, mesh)
        except step.TooLarge as error:
            peak = max(error.needed, limit + 1)
        if peak <= limit:
            say(f"eval_batch {batch}: {tables.size(peak)} of {tables.size(limit)}")
            return batch
        say(f"eval_batch {batch}: {tables.size(peak)} of {tables.size(limit)}, too much")
        if batch <= ways:
            raise UserError(
                f"eval_batch={batch} does not fit while a state is trained; shard it (--config.mesh.fsdp=…)."
            )
        batch = max(ways, batch // 2)


def rank(asked: Asked) -> list[dict[str, Any]]:
    """Print the meshes of the devices, the one with the shortest estimate first; give the figures of all.

    What is in the way of a mesh is a line under the table.

    Raises:
      UserError: no mesh can be.
    """
    say = log.Log(None).say
    place, config, source, note = _open(asked, say)
    plans, refused = [], []
    for sizes in search.meshes(len(place.devices), stacked=bool(config.model.get("stacked"))):
        name = tables.mesh_name(sizes)
        try:
            plans.append(summary.make(config, source, place, shard.make_mesh(sizes, place.devices)))
        except step.TooLarge as error:
            refused.append((name, _does_not_fit(error, config.batch, place)))
        except Exception as error:  # what one mesh does to a compiler must not cost the figures of the others
            refused.append((name, _reason(error)))
        else:
            say(f"{name}: compiled in {plans[-1].compiled.seconds:.0f} s")
    if not plans:
        reasons = dict.fromkeys(reason for _, reason in refused)
        why = "; ".join(reasons if len(reasons) == 1 else (f"{name}: {reason}" for name, reason in refused))
        raise UserError(f"--mesh auto: no mesh of {len(place.devices)} devices takes batch={config.batch}: {why}")
    plans.sort(key=_cost)
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
    limit = _limit(place)
    plans: dict[int, summary.Plan] = {}

    def attempt(batch: int) -> search.Tried:
        try:
            plans[batch] = summary.make(_with(config, batch=batch), source, place, mesh)
        except step.TooLarge as error:
            say(f"batch {batch}: needs {tables.size(error.needed) if error.needed else 'too much memory'}")
            return search.Tried(error.needed, False)
        peak = plans[batch].compiled.peak
        fits = peak <= limit
        say(f"batch {batch}: {tables.size(peak)} of {tables.size(limit)}" + ("" if fits else ", too much"))
        return search.Tried(peak, fits)

    unit = shard.ways(mesh) * config.accumulate * summary.micro_batches(config, mesh)
    batch = search.largest_batch(attempt, unit, config.batch, limit)
    return _with(config, batch=batch), plans[batch]


def _limit(place: topology.Place) -> int:
    """Give the bytes that a step may take of a device; here the data, and what others hold, need some as well."""
    hbm = place.chip.hbm
    if not hbm:
        raise UserError(f"--batch auto: how much memory a {place.chip.name} has is not known; name a --topology.")
    return int(hbm * HERE) if place.local else hbm


def _with(config: Config, **values: int) -> Config:
    """Give a copy of a config with other values."""
    made = config.copy_and_resolve_references()
    made.update(values)
    return made


def _cost(one: summary.Plan) -> tuple[Any, ...]:
    """What meshes are ranked by: if the step fits, its estimate, and where there is none, what it sends and holds."""
    sent = sum(sent.traffic for sent in one.sent)
    return one.fits is False, one.bound.estimate or 0, sent, one.compiled.peak


def _reason(error: Exception) -> str:
    """Give a sentence of why a mesh cannot be; of what is no mistake of the user, the first line with its kind."""
    if isinstance(error, UserError):
        return str(error)
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def _does_not_fit(error: step.TooLarge, batch: int, place: topology.Place) -> str:
    needs = (
        f"needs {tables.size(error.needed)} of {tables.size(error.limit)}" if error.needed else "needs too much memory"
    )
    return (
        f"batch={batch} on {place.name} {needs} a chip: it does not fit; try --batch auto, rematerialisation "
        "(remat=True of the network) or more chips."
    )
