"""Charts of a study as inline SVG: differences with their intervals, a metric against a cost, curves over seeds."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mapjax.report import plots
from mapjax.study.statistics import Difference

ROW = 22  # pixels of a line of `differences`
NAMES = 150  # pixels for the names at its left


def differences(found: Mapping[str, Difference], title: str) -> str:
    """Draw each cell's difference to the baseline as a dot with its interval, one under the other; "" for none."""
    known = {name: one for name, one in found.items() if math.isfinite(one.value)}
    if not known:
        return ""
    ends = [edge for one in known.values() for edge in (one.value, one.low, one.high) if math.isfinite(edge)]
    low, high = plots.spread(min(0.0, *ends), max(0.0, *ends))
    room = 0.06 * (high - low)
    x = plots.Axis(low - room, high + room, NAMES, plots.WIDTH - plots.RIGHT)
    height = plots.TOP + ROW * len(known) + 24
    body = [f'<text class="title" x="4" y="14">{html.escape(title)}</text>']
    for value in plots.ticks(x.low, x.high, 4):
        body.append(f'<path class="grid" d="M{x(value):.1f} {plots.TOP}V{height - 20}"/>')
        body.append(f'<text x="{x(value):.1f}" y="{height - 6}" text-anchor="middle">{value:+.3g}</text>')
    body.append(f'<path class="axis dashed" d="M{x(0):.1f} {plots.TOP}V{height - 20}"/>')
    for row, (name, one) in enumerate(known.items()):
        y = plots.TOP + ROW * (row + 0.5)
        said = f"{name}: {one.value:+.4f}"
        if math.isfinite(one.low):
            body.append(f'<path class="axis" d="M{x(one.low):.1f} {y:.1f}H{x(one.high):.1f}"/>')
            said += f", {one.low:+.4f} to {one.high:+.4f}"
        short = name if len(name) < 22 else f"{name[:20]}…"
        body.append(f'<text x="{NAMES - 8}" y="{y:.1f}" dy=".33em" text-anchor="end">{html.escape(short)}</text>')
        body.append(
            f'<circle class="dot" style="--series:{plots.series_colour(0)}" cx="{x(one.value):.1f}" cy="{y:.1f}" '
            f'r="4"><title>{html.escape(said)}</title></circle>'
        )
    return f'<div class="plot"><svg viewBox="0 0 {plots.WIDTH} {height}" role="img">{"".join(body)}</svg></div>'


def scatter(points: Mapping[str, tuple[float, float]], *, x_label: str, y_label: str) -> str:
    """Draw a named dot for each cell; "" for fewer than two."""
    if len(points) < 2:
        return ""
    xs, ys = (np.array(values) for values in zip(*points.values()))
    sides = [plots.spread(values.min(), values.max()) for values in (xs, ys)]
    rooms = [0.08 * (high - low) for low, high in sides]
    x = plots.Axis(sides[0][0] - rooms[0], sides[0][1] + rooms[0], plots.LEFT, plots.WIDTH - plots.RIGHT)
    y = plots.Axis(sides[1][0] - rooms[1], sides[1][1] + rooms[1], plots.HEIGHT - plots.BOTTOM, plots.TOP)
    body, keys = [plots.frame(x, y, x_label, y_label)], {}
    for number, (name, (across, up)) in enumerate(points.items()):
        keys[name] = plots.series_colour(number)
        said = f"{name}: {plots.number_text(up)} at {plots.number_text(across)} {x_label}"
        body.append(
            f'<circle class="dot" style="--series:{keys[name]}" cx="{x(across):.1f}" cy="{y(up):.1f}" r="5">'
            f"<title>{html.escape(said)}</title></circle>"
        )
    return plots.figure("".join(body), keys)


def curve(name: str, number: int, runs: Sequence[Mapping[int, float]]) -> plots.Series | None:
    """Make the line of a cell: the mean over its seeds at each step that all have, in a band from least to greatest."""
    steps = sorted(set.intersection(*(set(one) for one in runs))) if runs else []
    if not steps:
        return None
    values = np.array([[one[step] for step in steps] for one in runs])
    middle, low, high = values.mean(0), values.min(0), values.max(0)
    return plots.Series(name, np.array(steps), middle, plots.series_colour(number), low, high)


def parallel(
    axes: Mapping[str, Sequence[float]], labels: Mapping[str, Mapping[float, str]], log: Sequence[str], direction: str
) -> str:
    """Draw a line for each trial through its places on parallel axes; the last axis is the score, which colours it.

    Args:
      axes: the value of each trial on every axis.
      labels: of axes whose values are only places of names.
      log: axes that are logarithmic.
      direction: "max" or "min", as a score is better.
    """
    width, height, top, bottom = 760, 300, 40, 260
    places = np.linspace(70, width - 90, len(axes))
    scales, body = {}, []
    for name, place in zip(axes, places):
        low, high = plots.spread(min(axes[name]), max(axes[name]))
        scales[name] = plots.Axis(low, high, bottom, top, name in log and low > 0)
        body.append(f'<path class="axis" d="M{place:.1f} {top}V{bottom}"/>')
        title = html.escape(name.rpartition(".")[2])
        body.append(f'<text x="{place:.1f}" y="{top - 14}" text-anchor="middle">{title}</text>')
        marks = labels.get(name) or {value: plots.number_text(value) for value in (low, high)}
        for value, text in marks.items():
            at = f'x="{place + 6:.1f}" y="{scales[name](value):.1f}" dy=".33em"'
            body.append(f"<text {at}>{html.escape(text)}</text>")
    *_, score = axes.values()
    order = np.argsort(np.argsort(np.asarray(score) * (1 if direction == "max" else -1)))
    for row, rank in enumerate(order):
        points = [(place, scales[name](values[row])) for (name, values), place in zip(axes.items(), places)]
        said = ", ".join(f"{name} {plots.number_text(values[row])}" for name, values in axes.items())
        style = f"--series:{plots.series_colour(0)};opacity:{0.15 + 0.85 * rank / max(len(order) - 1, 1):.2f}"
        body.append(
            f'<path class="line" style="{style}" d="{plots.path(points)}"><title>{html.escape(said)}</title></path>'
        )
    return f'<div class="plot wide"><svg viewBox="0 0 {width} {height}" role="img">{"".join(body)}</svg></div>'
