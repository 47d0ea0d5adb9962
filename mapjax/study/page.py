"""A study as one self-contained HTML page."""

import html
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapjax.report import page, plots
from mapjax.report.section import Section
from mapjax.runtime import log, workdir
from mapjax.study import charts, sweep, tables
from mapjax.study.results import Row

_Classes = Mapping[int, Mapping[str, float]]  # figures of classes by seed, and by name: "recall/cat"


def render(study: sweep.Study, rows: Sequence[Row], folder: pathlib.Path, about: Mapping[str, Any]) -> str:
    """Lay out the page; links to the runs' reports are relative to the study's folder."""
    first = next(iter(study.metrics))
    whole, rows = rows, [row for row in rows if row.metrics]
    sign = 1 if study.metrics[first] == "max" else -1
    scored = [row for row in rows if first in row.metrics]
    best = max(scored, key=lambda row: sign * row.metrics[first].mean.value, default=None)
    headline = [
        page.Figure("cells", str(len(whole))),
        page.Figure("seeds", str(len(study.seeds))),
        *([page.Figure(f"{first} of {best.name}", f"{best.metrics[first].mean.value:.4f}")] if best else []),
        page.Figure("hours of training", f"{sum(_minutes(row) for row in rows) / 60:.1f}"),
    ]
    sections = [
        Section("Table", _table(study, whole, folder), " ".join(tables.notes(study, whole))),
        *_differences(study, rows),
        *_curves(study, rows),
        *_search(study, about.get("search", ())),
        *_costs(study, rows),
        *_by_class(study, rows),
        Section("Cells", _cells(whole), "What each changes in the experiment's config."),
        Section("Everything", f"<details><summary>study.json</summary><pre>{_json(about)}</pre></details>"),
    ]
    said = f"{study.experiment} · {study.data or 'its own data'} · revision {about['revision']}"
    return page.render(folder.resolve().name, said, headline, sections)


def _table(study: sweep.Study, rows: Sequence[Row], folder: pathlib.Path) -> str:
    names = tables.cost_names(rows)
    heads = ["cell"]
    for name, direction in study.metrics.items():
        heads += [f"{name} {tables.ARROWS[direction]}", "Δ (p)"]
    body = []
    for row in rows:
        cells = [f"<th>{html.escape(row.name + tables.remark(study, row))} {_links(row, folder)}</th>"]
        for one in (row.metrics.get(name) for name in study.metrics):
            if one is None:
                cells += ["<td>–</td>", "<td></td>"]
                continue
            text = html.escape(tables.mean_text(one))
            cells.append(_number(f"<b>{text}</b>" if one.best else text, one.mean.value))
            value = one.seeds.value if one.seeds else None
            cells.append(_number(html.escape(tables.difference_text(one)), value))
        cells += [_number(tables.cost_text(row.costs.get(name)), row.costs.get(name)) for name in names]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _sortable([*heads, *names], body)


def _number(text: str, value: float | None) -> str:
    """Write a cell that is sorted by a number; one without stays last."""
    known = value is not None and math.isfinite(value)
    return f'<td data-value="{value if known else "none"}">{text}</td>'


def _sortable(heads: Sequence[str], body: Sequence[str]) -> str:
    head = "".join(f'<th><button type="button">{html.escape(name)}</button></th>' for name in heads)
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _links(row: Row, folder: pathlib.Path) -> str:
    """Link to the report of each seed."""
    found = ((seed, os.path.relpath(path / "report.html", folder)) for seed, path in row.folders.items())
    links = " ".join(f'<a href="{html.escape(target)}">{seed}</a>' for seed, target in found)
    return f'<span class="note">seeds {links}</span>'


def _differences(study: sweep.Study, rows: Sequence[Row]) -> list[Section]:
    drawn = []
    for name in study.metrics:
        tested = {row.name: row.metrics[name].seeds for row in rows if name in row.metrics}
        drawn.append(charts.differences({cell: test for cell, test in tested.items() if test is not None}, name))
    note = f"To {study.baseline}, with the interval over seeds."
    return [Section("Differences", f'<div class="plots">{"".join(drawn)}</div>', note)] if any(drawn) else []


def _curves(study: sweep.Study, rows: Sequence[Row]) -> list[Section]:
    """Draw the loss, and the first metric where it was measured more than once."""
    history = {row.name: [log.read(path / "metrics.jsonl") for path in row.folders.values()] for row in rows}
    drawn = []
    for kind, name in (("train", "loss"), *(("eval", metric) for metric in study.metrics if "@" not in metric)):
        lines = []
        for number, (cell, runs) in enumerate(history.items()):
            found = [
                {line["step"]: line[name] for line in run if line["kind"] == kind and name in line} for run in runs
            ]
            lines.append(charts.curve(cell, number, found))
        known = [line for line in lines if line is not None and len(line.x) > 1]
        drawn.append(plots.lines(known, x_label="step", y_label=name))
    note = "Means over the seeds that are there; the bands reach from the least to the greatest."
    return [Section("Learning curves", f'<div class="plots">{"".join(drawn)}</div>', note)] if any(drawn) else []


def _costs(study: sweep.Study, rows: Sequence[Row]) -> list[Section]:
    first = next(iter(study.metrics))
    drawn = []
    for cost in tables.cost_names(rows):
        both = [row for row in rows if cost in row.costs and first in row.metrics]
        points = {row.name: (row.costs[cost], row.metrics[first].mean.value) for row in both}
        if len({across for across, _ in points.values()}) > 1:
            drawn.append(charts.scatter(points, x_label=cost, y_label=first))
    return [Section("Cost", f'<div class="plots">{"".join(drawn)}</div>')] if any(drawn) else []


def _search(study: sweep.Study, tried: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Draw the trials of a search over all that was chosen, and how much each choice mattered."""
    scored = [one for one in tried if one["value"] is not None]
    if len(scored) < 2:
        return []
    first, direction = next(iter(study.metrics.items()))
    axes: dict[str, list[float]] = {}
    labels: dict[str, dict[float, str]] = {}
    for name, (kind, *values) in study.ranges.items():
        given = [one["values"][name] for one in scored]
        axes[name] = [float(values.index(value)) if kind == "choice" else float(value) for value in given]
        if kind == "choice":
            labels[name] = {float(place): str(value) for place, value in enumerate(values)}
    axes[first] = [one["value"] for one in scored]
    drawn = charts.parallel(
        axes, labels, [name for name, (kind, *_) in study.ranges.items() if kind == "log"], direction
    )
    importance = tried[0]["importance"]
    bars = "".join(
        f'<li><i style="width:{100 * share:.0f}%;background:var(--accent)"></i><span>{html.escape(name)}</span>'
        f"<b>{share:.2f}</b></li>"
        for name, share in importance.items()
    )
    ended = sum(one["state"] == "ended early" for one in tried)
    note = f"{len(tried)} trials, of which {ended} were ended early; the darker a line, the better its {first}."
    shares = f'<h3>Importance (fANOVA)</h3><ul class="bars">{bars}</ul>' if bars else ""
    return [Section("Search", drawn + shares, note)]


def _by_class(study: sweep.Study, rows: Sequence[Row]) -> list[Section]:
    """Tabulate each class's figure and the differences to the baseline."""
    figures = {row.name: _class_figures(row) for row in rows}
    base, family = figures.get(study.baseline, {}), study.by_class
    others = [row.name for row in rows if row.name != study.baseline]
    names = dict.fromkeys(name for by_seed in base.values() for name in by_seed if name.startswith(f"{family}/"))
    body = []
    for name in names:
        mean = np.mean([by_seed[name] for by_seed in base.values() if name in by_seed])
        cells = [f"<th>{html.escape(name.partition('/')[2])}</th>", f"<td>{mean:.3f}</td>"]
        cells += [_change(name, figures[other], base) for other in others]
        body.append(f"<tr>{''.join(cells)}</tr>")
    if not body:
        return []
    heads = ["class", f"{family} of {study.baseline}", *others]
    return [
        Section(
            "Classes",
            _sortable(heads, body),
            f"Differences of {family} to {study.baseline}, means over the seeds of which both have been measured.",
        )
    ]


def _change(name: str, figures: _Classes, base: _Classes) -> str:
    """Write how much better or worse a class is than in the baseline, over the seeds that both have of it."""
    both = [seed for seed in figures if name in figures[seed] and name in base.get(seed, {})]
    if not both:
        return _number("–", None)
    change = float(np.mean([figures[seed][name] - base[seed][name] for seed in both]))
    tone, share = "good" if change > 0 else "bad", min(100.0, 400 * abs(change))
    style = f"background: color-mix(in srgb, var(--{tone}) {share:.0f}%, transparent)"
    return f'<td style="{style}" data-value="{change}">{change:+.3f}</td>'


def _class_figures(row: Row) -> _Classes:
    """Give each class's figures by seed, where it has been measured (-1 is not measured)."""
    results = {seed: workdir.read_json(path / "result.json")["metrics"] for seed, path in row.folders.items()}
    return {
        seed: {name: value for name, value in metrics.items() if "/" in name and value != -1}
        for seed, metrics in results.items()
    }


def _cells(rows: Sequence[Row]) -> str:
    texts = ((html.escape(row.name), html.escape(_changes(row.overrides)) or "nothing") for row in rows)
    lines = [f'<tr><th>{name}</th><td class="text">{changes}</td></tr>' for name, changes in texts]
    return f'<div class="scroll"><table class="listed">{"".join(lines)}</table></div>'


def _changes(overrides: Mapping[str, Any]) -> str:
    return "; ".join(f"{key} = {_short(value)}" for key, value in overrides.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _minutes(row: Row) -> float:
    return row.costs.get("minutes", 0.0) * len(row.folders)


def _json(about: Mapping[str, Any]) -> str:
    return html.escape(json.dumps(about, indent=1, ensure_ascii=False))
