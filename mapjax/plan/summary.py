"""A step's plan: what the compiler says of it, put together for people and for other programs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from mapjax.config import keys
from mapjax.data.source import Source
from mapjax.plan import collectives, cost, frames, hlo, roofline, step
from mapjax.plan.collectives import Collective
from mapjax.plan.step import Config
from mapjax.plan.topology import Place
from mapjax.sharding import pipeline


class Share(NamedTuple):
    """What the instructions of one part of a step cost together: see cost.py; seconds by roofline.py.

    part: a source file, "backward" after it for what a gradient added; or a kind of work, see kinds.py.
    """

    part: str
    instructions: int
    flops: float
    bytes: float
    bound: float | None
    estimate: float | None


class Sent(NamedTuple):
    """The collectives of one kind over the same axes: how often one runs in a step, and bytes on one device."""

    kind: str
    axes: tuple[str, ...]
    size: int
    count: int
    bytes: int
    traffic: float


class Plan(NamedTuple):
    """What is to be expected of a step on a mesh; figures are of one chip.

    shares: by source file.
    kinds: the same by kind of work.
    unknown: instructions in loops whose turns depend on data; each such loop counts as one turn.
    bubble: the share of the step that a chip idles in a pipeline. Its idle turns are in all figures: there a chip works
      on nothing.
    """

    place: Place
    mesh: dict[str, int]
    batch: int
    compiled: step.Compiled
    bound: roofline.Bound
    sent: list[Sent]
    shares: list[Share]
    kinds: list[Share]
    flops: float
    bytes: float
    unknown: int
    bubble: float

    @property
    def fits(self) -> bool | None:
        """Whether the chip's memory holds it; None where that is not known."""
        return None if self.place.chip.hbm is None else self.compiled.peak <= self.place.chip.hbm


def make(config: Config, source: Source, place: Place, mesh: Mesh) -> Plan:
    """Compile the step of a config for a mesh, and say what is to be expected.

    Raises:
      TooLarge: the compiler finds no room for it.
      UserError: a config that cannot be on this mesh.
    """
    compiled = step.compile_step(config, source, mesh)
    module = hlo.parse(compiled.text)
    works, found = cost.of_module(module), collectives.of_module(module, mesh)
    return Plan(
        place=place,
        mesh={str(name): size for name, size in mesh.shape.items()},
        batch=config.batch,
        compiled=compiled,
        bound=roofline.bound(works, found, place.chip),
        sent=together(found),
        shares=shares(works, _files(works, compiled.text), place),
        kinds=shares(works, [one.kind for one in works], place),
        flops=sum(one.flops for one in works),
        bytes=sum(one.bytes for one in works),
        unknown=sum(not one.known for one in works),
        bubble=_bubble(config, mesh),
    )


def _bubble(config: Config, mesh: Mesh) -> float:
    """The share of its time that a chip idles in the pipeline; 0.0 without one."""
    return float(pipeline.bubble(mesh.shape["pipe"], micro_batches(config, mesh)))


def micro_batches(config: Config, mesh: Mesh) -> int:
    """Give the parts that the pipeline of a mesh cuts a batch into; 1 without a pipeline."""
    if mesh.shape["pipe"] == 1:
        return 1
    return int(config.model.get("micro_batches") or keys.optional(config.to_dict()).get("model.micro_batches", 1))


def together(found: Sequence[Collective]) -> list[Sent]:
    """Add up the collectives of the same kind and axes, those with the most bytes to send first."""
    groups: dict[tuple[str, tuple[str, ...], int], list[Collective]] = defaultdict(list)
    for one in found:
        groups[one.kind, one.axes, one.size].append(one)
    sums = [
        Sent(
            *key,
            count=sum(one.count for one in ones),
            bytes=sum(one.count * one.bytes for one in ones),
            traffic=sum(map(roofline.traffic, ones)),
        )
        for key, ones in groups.items()
    ]
    return sorted(sums, key=lambda sent: -sent.traffic)


def _files(works: Sequence[cost.Work], text: str) -> list[str]:
    """Name the source file of each instruction, and "backward" where a gradient added it.

    A fusion counts with the file of its last operation, a copy between two memories with what it is made for, and what
    else the compiler adds of itself as "compiler".
    """
    known = frames.files(text, callers="ops")
    found = []
    for work in works:
        one = work.serves or work.instruction
        file = frames.file_of(one.attributes, known) or "compiler"
        found.append(f"{file} backward" if "transpose(" in one.op_name else file)
    return found


def shares(works: Sequence[cost.Work], names: Sequence[str], place: Place) -> list[Share]:
    """Add up what the instructions of each name cost, the longest estimate first; `names` has one for each of them."""
    groups: dict[str, list[cost.Work]] = defaultdict(list)
    for one, name in zip(works, names, strict=True):
        groups[name].append(one)
    chip = place.chip
    timed = chip.flops is not None
    found = [
        Share(
            part,
            len(ones),
            sum(one.flops for one in ones),
            sum(one.bytes for one in ones),
            sum(roofline.seconds(one, chip) for one in ones) if timed else None,
            sum(roofline.estimated(one, chip) for one in ones) if timed else None,
        )
        for part, ones in groups.items()
    ]
    return sorted(found, key=lambda share: (-(share.estimate or 0), -share.bytes))


def as_dict(plan: Plan, config: str, note: str) -> dict[str, Any]:
    """Turn a plan into plain JSON values: bytes, FLOPs and seconds of one chip."""
    compiled, chip = plan.compiled, plan.place.chip
    return {
        "config": config,
        "place": plan.place.name,
        "devices": len(plan.place.devices),
        "chip": {
            "name": chip.name,
            "flops": chip.flops,
            "hbm": chip.hbm,
            "bandwidth": chip.bandwidth,
            "link": chip.link,
        },
        "mesh": plan.mesh,
        "batch": plan.batch,
        "assumed": note,
        "parameters": compiled.parameters,
        "memory": {
            **compiled.shares._asdict(),
            "padding": compiled.arguments - compiled.shares.total,
            "temporaries": compiled.temporaries,
            "outputs": compiled.outputs - compiled.aliased,
            "program": compiled.code,
            "peak": compiled.peak,
            "fits": plan.fits,
        },
        "flops": plan.flops,
        "bytes": plan.bytes,
        "flops_with_loop_bodies_once": compiled.flops,
        "instructions_in_loops_that_depend_on_data": plan.unknown,
        "collectives": [one._asdict() for one in plan.sent],
        "seconds": {**plan.bound._asdict(), "bound_by": plan.bound.binding},
        "steps_per_epoch": compiled.steps,
        "bubble": plan.bubble,
        "shares": [one._asdict() for one in plan.shares],
        "kinds": [one._asdict() for one in plan.kinds],
        "compile_s": compiled.seconds,
    }
