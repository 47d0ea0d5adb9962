"""A run's report as one self-contained HTML page: headline figures, curves, the task's own sections, the config."""

import html
import importlib.resources
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.data.source import Source
from mapjax.report import plots
from mapjax.report.section import Section
from mapjax.runtime.names import ESCAPED
from mapjax.task import Counts


class Figure(NamedTuple):
    """A headline figure: what it is and its value as text."""

    name: str
    value: str


def write(
    path: str | os.PathLike,
    *,
    title: str,
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    source: Source,
    counts: Counts,
    sections: Callable[[Source, Counts, Mapping[str, Any]], Sequence[Section]],
) -> None:
    """Write the report of a run.

    Args:
      path: the HTML file.
      result: what result.json holds; `metrics` in the order in which they matter.
      config: the run's config, nested.
      history: the lines of metrics.jsonl, possibly none.
      source: the evaluated split, and `counts`, what its metric counted.
      sections: makes the sections of its metrics, of source, counts and result["metrics"].
    """
    metrics = result.get("metrics", {})
    parts = [*training(history), *sections(source, counts, metrics), *facts(result, config)]
    text = render(title, _about(result, source), figures(result), parts)
    pathlib.Path(path).write_text(text, encoding="utf-8", errors=ESCAPED)


def render(title: str, about: str, headline: Sequence[Figure], sections: Sequence[Section]) -> str:
    """Lay out a page. `title`, `about` and figures are plain text; a section's body is HTML already."""
    files = importlib.resources.files("mapjax.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = "".join(f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a>' for s in sections)
    cards = "".join(
        f"<div><dd>{html.escape(figure.value)}</dd><dt>{html.escape(figure.name)}</dt></div>" for figure in headline
    )
    body = "".join(
        f'<section id="{_anchor(s.title)}"><h2>{html.escape(s.title)}</h2>'
        + (f'<p class="note">{html.escape(s.note)}</p>' if s.note else "")
        + f"{s.body}</section>"
        for s in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{html.escape(title)}</title><style>{style}</style></head><body><header>'
        f'<h1>{html.escape(title)}</h1><p class="note">{html.escape(about)}</p><dl class="figures">{cards}</dl>'
        f"<nav>{links}</nav></header><main>{body}</main><script>{script}</script></body></html>\n"
    )


def figures(result: Mapping[str, Any]) -> list[Figure]:
    """Choose the headline: the first three metrics, then steps, time, memory and waiting."""
    metrics = [(name, value) for name, value in result.get("metrics", {}).items() if "/" not in name]
    shown = [Figure(name, _score(value)) for name, value in metrics[:3]]
    forms: dict[str, tuple[str, Callable[[Any], str]]] = {
        "steps": ("steps", plots.number_text),
        "wall_s": ("wall time", _duration),
        "peak_rss_mb": ("peak memory", lambda mb: f"{mb / 1024:.1f} GB"),
        "input_wait": ("waiting for input", lambda share: f"{100 * share:.1f} %"),
    }
    return shown + [Figure(n, form(result[key])) for key, (n, form) in forms.items() if _is_number(result.get(key))]


def training(history: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Draw the losses, the main metrics over the steps, the learning rate, the gradient norm and the speed."""
    train = [line for line in history if line.get("kind") == "train"]
    evals = [line for line in history if line.get("kind") == "eval"]
    losses = [name for name in (train[0] if train else {}) if name == "loss" or name.startswith("loss_")]
    metrics = [
        name for name in (evals[0] if evals else {}) if "/" not in name and name not in ("kind", "step", "epoch")
    ]
    scores = [name for name in metrics if all(_within_unit(line.get(name)) for line in evals)][:3]
    charts = [
        plots.lines(_series(train, losses), x_label="step", y_label="loss"),
        plots.lines(_series(evals, scores), x_label="step", y_label="score", y_range=(0.0, 1.0))
        if len(evals) > 1  # of one evaluation the headline says it all
        else "",
        plots.lines(_series(train, ["learning_rate"]), x_label="step", y_label="learning rate"),
        plots.lines(_series(train, ["gradient_norm"]), x_label="step", y_label="gradient norm", log=True),
        plots.lines(_series(train, ["examples_per_s"]), x_label="step", y_label="images per second"),
    ]
    body = "".join(chart for chart in charts if chart)
    return [Section("Training", f'<div class="plots">{body}</div>')] if body else []


def facts(result: Mapping[str, Any], config: Mapping[str, Any]) -> list[Section]:
    """Tabulate all metrics, what the run ran on, and its configuration."""
    metrics = {name: _score(value) for name, value in result.get("metrics", {}).items() if "/" not in name}
    about = {name: value for name, value in result.items() if name != "metrics"}
    body = [_table(metrics), _table({name: _plain(value) for name, value in _flat(about).items()})]
    text = html.escape(json.dumps(_jsonable(config), indent=2, ensure_ascii=False))
    return [
        Section("All figures", f'<div class="tables">{"".join(body)}</div>'),
        Section("Configuration", f"<pre>{text}</pre>"),
    ]


def _series(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[plots.Series]:
    found = []
    for name in names:
        # -1 is COCO's word for "nothing to measure".
        pairs = [(line["step"], line[name]) for line in lines if _is_number(line.get(name)) and line[name] != -1]
        array = np.asarray(pairs, np.float64).reshape(-1, 2)
        found.append(plots.Series(name, array[:, 0], array[:, 1]))
    return found


def _about(result: Mapping[str, Any], source: Source) -> str:
    parts = [f"{source.name}, {source.split} split: {len(source.records):,} images, {len(source.classes)} classes"]
    parts += [str(result[key]) for key in ("device", "revision") if result.get(key)]
    return " · ".join(parts)


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items()
    )
    return f"<table>{cells}</table>" if rows else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return plots.number_text(value) if _is_number(value) else str(value)


def _score(value: Any) -> str:
    """Write a metric; -1 is COCO's word for "nothing to measure"."""
    return "–" if not _is_number(value) or value == -1 else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within_unit(value: Any) -> bool:
    return _is_number(value) and (0 <= value <= 1 or value == -1)


def _anchor(title: str) -> str:
    return html.escape("".join(c if c.isalnum() else "-" for c in title.lower()))
