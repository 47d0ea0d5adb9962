"""The table of a study as Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mapjax.study import statistics, sweep
from mapjax.study.results import SIGNIFICANT, Compared, Row

ARROWS = {"max": "↑", "min": "↓"}


class Style(NamedTuple):
    """How a format writes a bold text, and a text that could be taken for its own signs."""

    bold: Callable[[str], str]
    plain: Callable[[str], str]


MARKDOWN = Style(lambda text: f"**{text}**", lambda text: text.replace("|", "\\|"))
_LATEX_SIGNS = str.maketrans(
    {sign: "\\" + sign for sign in "&%$#_{}"}
    | {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "±": r"$\pm$", "Δ": r"$\Delta$", "−": "$-$", "<": "$<$", "–": "--"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
LATEX = Style(lambda text: rf"\textbf{{{text}}}", lambda text: text.translate(_LATEX_SIGNS))


def markdown(study: sweep.Study, rows: Sequence[Row]) -> str:
    """Write the table, and under it how to read it."""
    head, *body = cells(study, rows, MARKDOWN)
    lines = [f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *body)]
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes(study, rows))])


def latex(study: sweep.Study, rows: Sequence[Row]) -> str:
    """Write the table for LaTeX with the package booktabs."""
    head, *body = cells(study, rows, LATEX)
    lines = [" & ".join(line) + r" \\" for line in body]
    under = [
        rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {LATEX.plain(note)}}}" for note in notes(study, rows)
    ]
    start = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    return "\n".join([r"% \usepackage{booktabs}", *start, *lines, r"\bottomrule", r"\end{tabular}", *under, ""])


def comma_separated(study: sweep.Study, rows: Sequence[Row]) -> str:
    """Write all figures as CSV, unrounded; what there is not is empty."""
    costs = cost_names(rows)
    over_images = (" low over images", " high over images", " p over images")
    parts = ("", " half interval", " difference", " low", " high", " p over seeds", *over_images, " seeds")
    head = ["cell", *(name + part for name in study.metrics for part in parts), *costs]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_inert, head))
    for row in rows:
        values: list[float | str] = []
        for one in (row.metrics.get(name) for name in study.metrics):
            if one is None:
                values += [math.nan] * (len(parts) - 1) + [0]
                continue
            seeds, images = one.seeds, one.images
            values += [one.mean.value, one.mean.half]
            values += [math.nan] * 4 if seeds is None else list(seeds)
            values += [math.nan] * 3 if images is None else [images.low, images.high, images.p]
            values += [one.mean.seeds]
        values += [row.costs.get(name, math.nan) for name in costs]
        writer.writerow([_inert(row.name), *("" if isinstance(v, float) and math.isnan(v) else v for v in values)])
    return text.getvalue()


def _inert(text: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def cells(study: sweep.Study, rows: Sequence[Row], style: Style) -> list[list[str]]:
    """Give the texts of the table, the head first."""
    costs = cost_names(rows)
    head = ["cell"]
    for name, direction in study.metrics.items():
        head += [f"{name} {ARROWS[direction]}", "Δ (p over seeds, images)"]
    table = [[style.plain(text) for text in (*head, *costs)]]
    for row in rows:
        line = [style.plain(row.name + remark(study, row))]
        for one in (row.metrics.get(name) for name in study.metrics):
            if one is None:
                line += [style.plain("–"), ""]
                continue
            mean = style.plain(mean_text(one))
            line += [style.bold(mean) if one.best else mean, style.plain(difference_text(one))]
        table.append(line + [style.plain(cost_text(row.costs.get(cost))) for cost in costs])
    return table


def remark(study: sweep.Study, row: Row) -> str:
    """Say beside a cell's name that it is the baseline, and of how few seeds its figures are."""
    found = " (baseline)" if row.name == study.baseline else ""
    seeds = len(study.seeds)
    return found + (f" ({seeds - len(row.missing)} of {seeds} seeds)" if row.missing else "")


def notes(study: sweep.Study, rows: Sequence[Row]) -> list[str]:
    """Say how to read the table."""
    level = f"{100 * statistics.LEVEL:.0f} %"
    seeds = ", ".join(map(str, study.seeds))
    means = f"Means over the seeds {seeds} ± half of Student's {level} interval"
    said = [
        f"{means if len(study.seeds) > 1 else f'Of seed {seeds} alone'}; Δ is the difference to {study.baseline}.",
        "p: of a paired t-test over the seeds, and where the metric is computed from answers to images, of a paired "
        f"bootstrap over those ({statistics.RESAMPLES} draws); each corrected by Holm's method for the "
        f"{len(rows) - 1} comparisons of its metric.",
        f"Bold: the best cell of those with all seeds, where it is better and each of its p is below {SIGNIFICANT:g}.",
        *(sentence for row in rows for sentence in row.unreported),
    ]
    for row in rows:
        seeds = f"seed {', '.join(map(str, row.missing))}"
        if row.missing and row.name == study.baseline:
            said.append(f"{row.name}, the baseline, has no figures of {seeds}: differences are of the other seeds.")
        elif row.missing and row.metrics:
            said.append(f"{row.name} has no figures of {seeds}: its means and differences are of fewer seeds.")
        elif row.missing:
            said.append(
                f"{row.name} has no figures at all: its runs have failed, were ended early, or are not finished."
            )
    return said


def cost_names(rows: Sequence[Row]) -> list[str]:
    """List the costs that any cell has."""
    return list(dict.fromkeys(name for row in rows for name in row.costs))


def mean_text(one: Compared) -> str:
    """Write a mean and its interval."""
    half = "" if math.isnan(one.mean.half) else f" ± {one.mean.half:.4f}"
    return f"{one.mean.value:.4f}{half}"


def difference_text(one: Compared) -> str:
    """Write the difference to the baseline with its p; "" where there is none."""
    tests = [test for test in (one.seeds, one.images) if test is not None]
    if not tests:
        return ""
    ps = ", ".join(_p(test.p) for test in tests)
    return f"{tests[0].value:+.4f} ({ps})".replace("-", "−")


def cost_text(value: float | None) -> str:
    """Write a cost with three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
