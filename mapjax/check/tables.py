"""What a check found: a table for the terminal, JSON, and a page to look at."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table

from mapjax.check import judge, speed, steps
from mapjax.report.page import Figure, render
from mapjax.report.section import Section
from mapjax.report.tables import listed


class Found(NamedTuple):
    """All verdicts of a check, and what it ran on."""

    device: str
    kernels: list[judge.Verdict]
    steps: list[steps.Verdict]
    speeds: list[speed.Speed]
    environment: dict[str, Any]

    @property
    def wrong(self) -> list[str]:
        """Name what is not within its tolerance, or not resumed to the bit."""
        kernels = [f"{one.kernel} in {one.precision}" for one in self.kernels if not one.right]
        return kernels + [f"two steps of {one.task}" for one in self.steps if not one.right]

    @property
    def restless(self) -> list[str]:
        """Name what gave other bits when it was run again."""
        kernels = [f"{one.kernel} in {one.precision}" for one in self.kernels if not one.repeats]
        return kernels + [f"two steps of {one.task}" for one in self.steps if not one.repeats]


Rows = tuple[str, str, list[str], list[list[str]]]  # title, what is in it, head, body


def rows(found: Found) -> list[Rows]:
    """Lay out the tables."""
    listed = [
        (
            "Kernels",
            "against float64 on the CPU, forward and gradient: the largest difference, as a share of the largest value",
            [
                "kernel",
                *(f"{name}, at most {most:.0e}" for name, most in judge.TOLERANCES.items()),
                "same bits again",
                "",
            ],
            [_kernel(name, found.kernels) for name in dict.fromkeys(one.kernel for one in found.kernels)],
        ),
        (
            "Two steps of training",
            "against the CPU's: the largest difference of a loss or of the gradient's norm, relative",
            ["task", "difference", "tolerance", "resumed to the bit", "same bits again", ""],
            [
                [one.task, _small(one.difference), _small(one.tolerance), _yes(one.resumes), *_marks(one)]
                for one in found.steps
            ],
        ),
        (
            "Speed",
            "of train steps; memory in MB, as the compiler predicts it and as the device has held it",
            ["step", "ms", "images/s", "of the peak", "of the roofline", "predicted", "held", "× torch.compile"],
            [_timed(one) for one in found.speeds],
        ),
        (
            "Where the time goes",
            "the slowest operations of each, by JAX's profiler",
            ["step", "operation", "share"],
            [[one.name, name, _share(share)] for one in found.speeds for name, share in one.slowest],
        ),
    ]
    return [one for one in listed if one[3]]


def _kernel(name: str, verdicts: Sequence[judge.Verdict]) -> list[str]:
    """Lay out the verdicts of one kernel, a column for each precision."""
    by_precision = {one.precision: one for one in verdicts if one.kernel == name}
    cells = []
    for precision in judge.TOLERANCES:
        one = by_precision.get(precision)
        errors = () if one is None else (one.forward,) if one.gradient is None else (one.forward, one.gradient)
        cells.append(" ".join(map(_small, errors)) or "–")
    ones = by_precision.values()
    return [
        name,
        *cells,
        _yes(all(one.repeats for one in ones)),
        "right" if all(one.right for one in ones) else "WRONG",
    ]


def _timed(one: speed.Speed) -> list[str]:
    held = "–" if one.used_mb is None else f"{one.used_mb:,.0f}"
    torch = "–" if one.torch is None else f"{one.torch / one.seconds:.2f}"
    figures = [f"{1e3 * one.seconds:.1f}", f"{one.images:,.1f}", _share(one.peak), _share(one.roofline)]
    return [one.name, *figures, f"{one.predicted_mb:,.0f}", held, torch]


def table(found: Found) -> Group:
    """Write everything for a terminal."""
    sheets = []
    for title, note, head, body in rows(found):
        sheet = Table(title=f"{title}, {note}", title_justify="left")
        for number, name in enumerate(head):
            sheet.add_column(name, justify="left" if number == 0 else "right")
        for line in body:
            sheet.add_row(*line)
        sheets.append(sheet)
    return Group(*sheets, *conclusions(found))


def conclusions(found: Found) -> list[str]:
    """Say in sentences what came out."""
    said = [f"WRONG: {', '.join(found.wrong)}" if found.wrong else "Everything is within its tolerance."]
    if found.restless:
        said.append(f"Other bits when it was run again: {', '.join(found.restless)}.")
    return said


def as_json(found: Found) -> dict[str, Any]:
    """Give everything as plain JSON values."""
    parts = {"kernels": found.kernels, "steps": found.steps, "speeds": found.speeds}
    listed: dict[str, Any] = {name: [one._asdict() for one in part] for name, part in parts.items()}
    return {"device": found.device, "wrong": found.wrong, "restless": found.restless, **listed, **found.environment}


def page(found: Found) -> str:
    """Write everything as a self-contained page."""
    figures = [Figure("kernels", f"{len(found.kernels)}"), Figure("wrong", f"{len(found.wrong)}")]
    sections = [Section(title, _sheet(head, body), note) for title, note, head, body in rows(found)]
    return render(f"{found.device}: right and fast?", " ".join(conclusions(found)), figures, sections)


def _sheet(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    columns = {name: "text" if number == 0 else "number" for number, name in enumerate(head)}
    return listed(columns, [[html.escape(cell) for cell in line] for line in body])


def _marks(one: judge.Verdict | steps.Verdict) -> list[str]:
    return [_yes(one.repeats), "right" if one.right else "WRONG"]


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if value else "0"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
