"""Where the time of a compiled program goes on the devices at hand: measured by JAX's profiler."""

import pathlib
import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from mapjax.plan import frames, hlo

_AROUND = ("while", "conditional", "call")  # their time is that of what they run


class Part(NamedTuple):
    """The time of the instructions of one kind from one source file, in one run of the program.

    where: the file, "backward" after it for what a gradient added.
    kind: of the instructions.
    runs: how many.
    seconds: added up over threads, so all parts together may be longer than the run.
    share: of all parts.
    """

    where: str
    kind: str
    runs: float
    seconds: float
    share: float


def parts(call: Callable[[], object], text: str, *, runs: int = 3) -> list[Part]:
    """Run a compiled program under the profiler, and say where its time goes, the longest part first.

    Args:
      call: runs the program once, to its end; it has been run before.
      text: `compiled.as_text()`.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                call()
        files = pathlib.Path(folder).rglob("*.xplane.pb")
        profiles = [jax.profiler.ProfileData.from_file(str(file)) for file in files]
    with warnings.catch_warnings():  # raised inside jaxlib's reader, as where warnings are errors, one crashes Python
        warnings.simplefilter("ignore")
        events = [event for profile in profiles for event in _operations(profile)]
    return together(events, text, runs)


def together(events: list[tuple[str, str, float]], text: str, runs: int) -> list[Part]:
    """Add up events (module, instruction, seconds) of `runs` runs of the program `text` by source file and kind."""
    module, known = hlo.parse(text), frames.files(text)
    instructions = {name: one for part in module.computations.values() for name, one in part.instructions.items()}
    name = re.match(r"HloModule ([\w.~-]+)", text)
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for program, operation, seconds in events:
        one = instructions.get(operation)
        if one is None or one.opcode in _AROUND or (name and program != name[1]):
            continue
        file = frames.file_of(one.attributes, known) or "compiler"
        backward = " backward" if "transpose(" in one.op_name else ""
        sums[file + backward, one.opcode].append(seconds)
    total = sum(sum(times) for times in sums.values())
    found = [
        Part(where, kind, len(times) / runs, sum(times) / runs, sum(times) / total)
        for (where, kind), times in sums.items()
    ]
    return sorted(found, key=lambda part: -part.seconds)


def _operations(profile: Any) -> Iterator[tuple[str, str, float]]:
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    yield str(stats.get("hlo_module", "")), str(stats["hlo_op"]), event.duration_ns / 1e9
