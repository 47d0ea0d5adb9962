"""What a check found: a table for the terminal, JSON, and a page to look at."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table

from mapjax.check import feed, judge, speed, steps
from mapjax.report import tables as sheets
from mapjax.report.page import Figure, render
from mapjax.report.section import Section


class Found(NamedTuple):
    """All verdicts of a check, and what it ran on."""

    device: str
    kernels: list[judge.Verdict]
    steps: list[steps.Verdict]
    speeds: list[speed.Speed]
    feeds: list[feed.Feed]
    environment: dict[str, Any]

    @property
    def wrong(self) -> list[str]:
        """Name what is not within its tolerance, not resumed to the bit, or takes other memory than predicted."""
        kernels = [f"{one.kernel} in {one.precision}" for one in self.kernels if not one.right]
        memory = [f"memory of {one.name}" for one in self.speeds if one.unforeseen > speed.MEMORY]
        return kernels + [f"two steps of {one.task}" for one in self.steps if not one.right] + memory

    @property
    def restless(self) -> list[str]:
        """Name what gave other bits when it was run again."""
        kernels = [f"{one.kernel} in {one.precision}" for one in self.kernels if not one.repeats]
        return kernels + [f"two steps of {one.task}" for one in self.steps if not one.repeats]


TEXTS = ("goal", "operation")  # columns of words
MARKS = {"right": "good", "met": "good", "WRONG": "bad", "MISSED": "bad", "NO": "bad"}  # word → how it is drawn
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
            "Goals",
            "of an H200",
            ["step", "goal", "at least", "measured", ""],
            [_goal(one.name, goal) for one in found.speeds for goal in one.goals],
        ),
        (
            "Input",
            "of images from memory and from JPEGs, decoded, cropped and flipped by one thread for each core",
            ["from", "images/s", *(f"× what {one.name} takes" for one in found.speeds[:1])],
            [
                [one.place, f"{one.images:,.1f}", *(f"{one.images / step.images:.2f}" for step in found.speeds[:1])]
                for one in found.feeds
            ],
        ),
        (
            "Where the time goes",
            "the slowest operations of each, by JAX's profiler",
            ["step", "share", "operation"],
            [
                ["" if number else one.name, _share(share), name]
                for one in found.speeds
                for number, (name, share) in enumerate(one.slowest)
            ],
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
        cells.append(", ".join(map(_small, errors)) or "–")
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


def _goal(name: str, goal: speed.Goal) -> list[str]:
    figures = ("–" if value is None else f"{value:,.4g}" for value in (goal.wanted, goal.found))
    return [name, goal.measure, *figures, "not measured" if goal.found is None else "met" if goal.met else "MISSED"]


def table(found: Found) -> Group:
    """Write everything for a terminal."""
    sheets = []
    for title, note, head, body in rows(found):
        sheet = Table(title=f"{title}, {note}", title_justify="left")
        for number, name in enumerate(head):
            sheet.add_column(name, justify="left" if number == 0 or name in TEXTS else "right")
        for line in body:
            sheet.add_row(*line)
        sheets.append(sheet)
    return Group(*sheets, *conclusions(found))


def conclusions(found: Found) -> list[str]:
    """Say in sentences what came out."""
    said = [f"WRONG: {', '.join(found.wrong)}." if found.wrong else "Everything is within its tolerance."]
    if found.restless:
        said.append(f"Other bits when it was run again: {', '.join(found.restless)}.")
    return said


def as_json(found: Found) -> dict[str, Any]:
    """Give everything as plain JSON values."""
    parts = {"kernels": found.kernels, "steps": found.steps, "speeds": found.speeds, "feeds": found.feeds}
    listed: dict[str, Any] = {name: [one._asdict() for one in part] for name, part in parts.items()}
    return {"device": found.device, "wrong": found.wrong, "restless": found.restless, **listed, **found.environment}


def page(found: Found) -> str:
    """Write everything as a self-contained page."""
    figures = [
        Figure("comparisons of kernels and of steps", f"{len(found.kernels) + len(found.steps)}"),
        Figure("wrong", f"{len(found.wrong)}"),
    ]
    sections = [Section(title, _sheet(head, body), note) for title, note, head, body in rows(found)]
    return render(f"{found.device}: right and fast?", " ".join(conclusions(found)), figures, sections)


def _sheet(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return sheets.figures(["text" if name in TEXTS else "number" for name in head], head, body, MARKS)


def _marks(one: judge.Verdict | steps.Verdict) -> list[str]:
    return [_yes(one.repeats), "right" if one.right else "WRONG"]


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if value else "0"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
