"""A study as one self-contained HTML page."""

import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mapjax import log, workdir
from mapjax.report import page, plots
from mapjax.report.section import Section
from mapjax.study import charts, sweep, tables
from mapjax.study.results import Row


def render(study: sweep.Study, rows: Sequence[Row], folder: pathlib.Path, about: Mapping[str, Any]) -> str:
    """Lay out the page; links to the runs' reports are relative to the study's folder."""
    first = next(iter(study.metrics))
    whole, rows = rows, [row for row in rows if row.metrics]
    best = max(rows, key=lambda row: (1 if study.metrics[first] == "max" else -1) * row.metrics[first].mean.value)
    headline = [
        page.Figure("cells", str(len(whole))),
        page.Figure("seeds", str(len(study.seeds))),
        page.Figure(f"{first} of {best.name}", f"{best.metrics[first].mean.value:.4f}"),
        page.Figure("hours of training", f"{sum(_minutes(row) for row in rows) / 60:.1f}"),
    ]
    sections = [
        Section("Table", _table(study, rows, folder), " ".join(tables.notes(study, whole))),
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
        cells = [f"<th>{html.escape(row.name)} {_links(row, folder)}</th>"]
        for one in row.metrics.values():
            text = html.escape(tables.mean_text(one))
            cells.append(f'<td data-value="{one.mean.value}">{f"<b>{text}</b>" if one.best else text}</td>')
            value = one.seeds.value if one.seeds else ""
            cells.append(f'<td data-value="{value}">{html.escape(tables.difference_text(one))}</td>')
        for name in names:
            value = row.costs.get(name)
            cells.append(f'<td data-value="{"" if value is None else value}">{tables.cost_text(value)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _sortable([*heads, *names], body)


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
        tested = {row.name: row.metrics[name].seeds for row in rows}
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
    note = "Means over the seeds; the bands reach from the least to the greatest."
    return [Section("Learning curves", f'<div class="plots">{"".join(drawn)}</div>', note)] if any(drawn) else []


def _costs(study: sweep.Study, rows: Sequence[Row]) -> list[Section]:
    first = next(iter(study.metrics))
    drawn = []
    for cost in tables.cost_names(rows):
        points = {row.name: (row.costs[cost], row.metrics[first].mean.value) for row in rows if cost in row.costs}
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
    body = []
    for name in (name for name in base if name.startswith(f"{family}/")):
        cells = [f"<th>{html.escape(name.partition('/')[2])}</th>", f"<td>{base[name]:.3f}</td>"]
        for other in others:
            change = figures[other].get(name, float("nan")) - base[name]
            share = min(100.0, 400 * abs(change))
            tone = "good" if change > 0 else "bad"
            style = f"background: color-mix(in srgb, var(--{tone}) {share:.0f}%, transparent)"
            cells.append(f'<td style="{style}" data-value="{change}">{change:+.3f}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    if not body:
        return []
    heads = ["class", f"{family} of {study.baseline}", *others]
    return [
        Section("Classes", _sortable(heads, body), f"Differences of {family} to {study.baseline}, means over seeds.")
    ]


def _class_figures(row: Row) -> dict[str, float]:
    """Average each class's figures over the seeds that have measured it (-1 is not measured)."""
    results = [workdir.read_json(path / "result.json")["metrics"] for path in row.folders.values()]
    found: dict[str, list[float]] = {}
    for metrics in results:
        for name, value in metrics.items():
            if "/" in name and value != -1:
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


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
