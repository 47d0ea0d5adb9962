"""A plan as tables, to print with rich."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table

from mapjax.plan.step import Compiled
from mapjax.plan.summary import Plan, Share
from mapjax.runtime import log

FEW = 16  # parts of a step that are listed
WIDTH = 130


def plan(found: Plan) -> Group:
    """Lay out a plan: memory, work, collectives, where the time goes."""
    return Group(_memory(found), "", _work(found), "", _collectives(found), "", *_shares(found), *_notes(found))


def ranking(plans: Sequence[Plan], refused: Sequence[tuple[str, str]]) -> Group:
    """Lay out the plans of several meshes, the best first, and why others cannot be."""
    table = _table("mesh", "step at least", "estimate", "bound by", "bubble", "memory", "sent a step")
    for one in plans:
        bound, sent = one.bound, sum(collective.traffic for collective in one.sent)
        times = (seconds(bound.step), seconds(bound.estimate), bound.binding or "–")
        bubble = _percent(one.bubble, 1) if one.bubble else "–"
        table.add_row(mesh_name(one.mesh), *times, bubble, size(one.compiled.peak), size(sent))
    return Group(table, *[f"{name}: {why}" for name, why in refused])


def wide() -> Console:
    """Make a console as wide as the tables: where the terminal is narrower its lines wrap, but no figure is cut."""
    return Console(width=max(log.console.width, WIDTH), highlight=False, soft_wrap=True, markup=False)


def mesh_name(mesh: dict[str, int]) -> str:
    """Write a mesh as the command line takes it, axes of one device left out."""
    return ",".join(f"{axis}={length}" for axis, length in mesh.items() if length > 1) or "data=1"


def size(count: float | int) -> str:
    """Write a number of bytes in units of 1,024."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def amount(count: float | int) -> str:
    """Write a large number with the prefix of its thousands."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(count) < 1000:
            return f"{count:.3g} {prefix}"
        count /= 1000
    return f"{count:.3g} P"


def seconds(time: float | int | None) -> str:
    """Write a time with a fitting unit; – where there is none."""
    if time is None:
        return "–"
    for unit, scale in (("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if time >= scale:
            return f"{time / scale:.3g} {unit}"
    return f"{time * 1e6:.3g} µs" if time >= 1e-7 else "0"


def _table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False)
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number else "left", no_wrap=True)
    return made


def _memory(found: Plan) -> RenderableType:
    compiled = found.compiled
    held, hbm = compiled.shares, found.place.chip.hbm
    table = _table("memory of one chip", "", "")
    rows = [
        ("parameters", held.parameters),
        ("optimizer", held.optimizer),
        ("moving average", held.average),
        ("statistics", held.statistics),
        ("batch", held.batch),
        ("padding of these", max(0, compiled.arguments - held.total)),
        ("of these not used by the step", min(0, compiled.arguments - held.total)),
        ("activations, gradients, temporaries", compiled.temporaries),
        ("results that replace nothing", compiled.outputs - compiled.aliased),
        ("program", compiled.code),
        ("peak", compiled.peak),
    ]
    for name, count in rows:
        if count:
            table.add_row(name, size(count), f"{100 * count / hbm:.1f} %" if hbm else "")
    if hbm:
        table.add_row("of", size(hbm), "fits" if found.fits else "DOES NOT FIT")
    return table


def _work(found: Plan) -> RenderableType:
    compiled, bound = found.compiled, found.bound
    table = _table("one step", "", "at least")
    table.add_row("products and convolutions", f"{amount(found.flops)}FLOP", seconds(bound.compute))
    table.add_row("main memory read and written", size(found.bytes), seconds(bound.memory))
    table.add_row("sent to other chips", size(sum(one.traffic for one in found.sent)), seconds(bound.network))
    table.add_row(
        "instruction by instruction", f"bound by {bound.binding}" if bound.binding else "", seconds(bound.step)
    )
    estimated = "the compiler's estimate, nothing hidden" if found.place.chip.clock else "the same, sending not hidden"
    table.add_row(estimated, "", seconds(bound.estimate))
    epoch = None if bound.step is None else bound.step * compiled.steps
    table.add_row("an epoch", f"{compiled.steps:,.0f} steps", seconds(epoch))
    if found.bubble:
        table.add_row("of that idle in the pipeline's bubble", f"{100 * found.bubble:.1f} %", "")
    return table


def _collectives(found: Plan) -> RenderableType:
    if not found.sent:
        return "no collectives"
    table = _table("collectives of a step", "over", "chips", "runs", "bytes", "to send")
    for one in found.sent:
        over = "×".join(one.axes) or "–"
        table.add_row(one.kind, over, str(one.size), f"{one.count:,}", size(one.bytes), size(one.traffic))
    return table


def _shares(found: Plan) -> list[RenderableType]:
    return [_parts("by source file", found.shares), "", _parts("by kind of work", found.kinds)]


def _parts(name: str, shares: Sequence[Share]) -> RenderableType:
    bounds, estimates = sum(one.bound or 0 for one in shares), sum(one.estimate or 0 for one in shares)
    table = _table(name, "instructions", "FLOP", "bytes", "at least", "share", "estimate", "share")
    for one in shares[:FEW]:
        row = (str(one.instructions), amount(one.flops), size(one.bytes))
        bound = (seconds(one.bound), _percent(one.bound, bounds))
        table.add_row(one.part, *row, *bound, seconds(one.estimate), _percent(one.estimate, estimates))
    if rest := shares[FEW:]:
        table.add_row(f"{len(rest)} others", str(sum(one.instructions for one in rest)))
    return table


def _percent(part: float | None, whole: float | int) -> str:
    return "–" if part is None or not whole else f"{100 * part / whole:.1f} %"


def _notes(found: Plan) -> list[str]:
    notes = []
    if found.bound.step is None:
        notes.append(f"no time: nothing is published of a {found.place.chip.name}; name a --topology for one.")
    if found.unknown:
        notes.append(
            f"{found.unknown} instructions are in loops whose turns depend on data; each such loop counts as one turn."
        )
    return ["", *notes] if notes else []


def compiled_line(compiled: Compiled) -> str:
    """Say how large the network is, and how long its step took to compile."""
    return f"{compiled.parameters:,} parameters; compiled in {compiled.seconds:.0f} s"
