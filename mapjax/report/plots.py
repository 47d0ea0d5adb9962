"""Charts as inline SVG: lines, histograms and small curves, drawn with the page's own colours and fonts."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Shaped

from mapjax.metrics.calibration import Bins

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 30, 40
MOST_POINTS = 240  # a line of more points is drawn through the means of groups


class Series(NamedTuple):
    """One line: its name, x and y of equal length (entries that are not finite are left out), any CSS colour.

    low, high: of a band around the line, as long as it; every one finite.
    """

    name: str
    x: Shaped[np.ndarray, "n"]
    y: Shaped[np.ndarray, "n"]
    colour: str = ""
    low: Shaped[np.ndarray, "n"] | None = None
    high: Shaped[np.ndarray, "n"] | None = None


class Axis(NamedTuple):
    """A mapping from values to pixels with its ticks."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: SupportsFloat) -> float:
        values = self.low, self.high, float(value)
        low, high, at = map(math.log10, values) if self.log else values
        return self.start + (at - low) / (high - low) * (self.stop - self.start)


def lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    log: bool = False,
) -> str:
    """Draw lines over a common x, with a legend and the values on hover; "" without any finite point."""
    drawn = [s._replace(x=x, y=y) for s in series for x, y in [_finite(s.x, s.y, positive=log)] if len(x)]
    if not drawn:
        return ""
    xs, ys = np.concatenate([s.x for s in drawn]), np.concatenate([s.y for s in drawn])
    x = Axis(*(x_range or spread(xs.min(), xs.max())), LEFT, WIDTH - RIGHT)
    y = Axis(*(y_range or _extent(ys, log)), HEIGHT - BOTTOM, TOP, log)
    body = [frame(x, y, x_label, y_label)]
    for number, s in enumerate(drawn):
        colour = f"--series:{s.colour or series_colour(number)}"
        points = [(x(a), y(b)) for a, b in zip(*_thin(s.x, s.y))]
        name = html.escape(s.name)
        if s.low is not None and s.high is not None and len(points) > 1:
            ends = [[(x(a), y(b)) for a, b in zip(*_thin(s.x, edge))] for edge in (s.low, s.high)]
            body.append(f'<path class="band" style="{colour}" d="{path(ends[0] + ends[1][::-1])}Z"/>')
        if len(points) > 1:
            body.append(f'<path class="line" style="{colour}" d="{path(points)}"><title>{name}</title></path>')
        dots = range(0, len(s.x), max(1, len(s.x) // 40))
        kind = "dot" if len(s.x) <= 24 else "dot hidden"
        body += [
            f'<circle class="{kind}" style="{colour}" cx="{x(s.x[i]):.1f}" cy="{y(s.y[i]):.1f}" r="2.5">'
            f"<title>{name} {number_text(s.y[i])} at {html.escape(x_label)} {number_text(s.x[i])}</title></circle>"
            for i in dots
        ]
    keys = {s.name: s.colour or series_colour(k) for k, s in enumerate(drawn)} if len(drawn) > 1 else {}
    return figure("".join(body), keys)


def histogram(
    counts: Mapping[str, Shaped[np.ndarray, "n"]],
    edges: Shaped[np.ndarray, "n+1"],
    *,
    x_label: str,
    y_label: str,
    colours: Sequence[str] = (),
    log: bool = False,
) -> str:
    """Draw stacked bars, one stack a bin; "" without any count. `log`: a logarithmic x."""
    total = np.sum(list(counts.values()), axis=0)
    if not total.size or not total.max():
        return ""
    x = Axis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT, log)
    y = Axis(0.0, float(total.max()) * 1.05, HEIGHT - BOTTOM, TOP)
    body = [frame(x, y, x_label, y_label)]
    base = np.zeros(len(total))
    used = {name: colours[k] if k < len(colours) else series_colour(k) for k, name in enumerate(counts)}
    for name, values in counts.items():
        for i in np.flatnonzero(values):
            left, right, bottom, top = x(edges[i]), x(edges[i + 1]), y(base[i]), y(base[i] + values[i])
            span = f"{number_text(edges[i])} to {number_text(edges[i + 1])}"
            body.append(
                f'<rect class="bar" style="--series:{used[name]}" x="{left + 0.5:.1f}" y="{top:.1f}" '
                f'width="{max(right - left - 1, 0.5):.1f}" height="{bottom - top:.1f}">'
                f"<title>{html.escape(name)}: {int(values[i])} at {html.escape(x_label)} {span}</title></rect>"
            )
        base = base + values
    return figure("".join(body), used if len(used) > 1 else {})


def reliability(grouped: Bins, *, x_label: str, y_label: str) -> str:
    """Draw accuracy over confidence as bars, with the gap to where both are equal; "" without any answer.

    Bins of fewer than 10 answers, whose accuracy says little, are faint.
    """
    if not grouped.counts.any():
        return ""
    x, y = Axis(0.0, 1.0, LEFT, WIDTH - RIGHT), Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    body = [frame(x, y, x_label, y_label)]
    for i in np.flatnonzero(grouped.counts):
        count, confidence, accuracy = (float(v[i]) for v in (grouped.counts, grouped.confidence, grouped.accuracy))
        low, high = sorted((confidence, accuracy))
        place = f'x="{x(grouped.edges[i]) + 0.5:.1f}" width="{x(grouped.edges[i + 1]) - x(grouped.edges[i]) - 1:.1f}"'
        span = f"{number_text(grouped.edges[i])} to {number_text(grouped.edges[i + 1])}"
        title = f"{span}: {count:,.0f} answers, {html.escape(y_label)} {accuracy:.3f}, mean confidence {confidence:.3f}"
        faint = ' class="faint"' if count < 10 else ""
        body.append(
            f'<g{faint}><title>{title}</title><rect class="bar" style="--series:{series_colour(0)}" {place} '
            f'y="{y(accuracy):.1f}" height="{y(0) - y(accuracy):.1f}"/>'
            f'<rect class="gap" {place} y="{y(high):.1f}" height="{y(low) - y(high):.1f}"/></g>'
        )
    body.append(f'<path class="axis dashed" d="M{x(0):.1f} {y(0):.1f}L{x(1):.1f} {y(1):.1f}"/>')
    return figure("".join(body), {})


def small(x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "n"], colour: str) -> str:
    """Draw one curve over the unit square as a small image without axes, for a row of a table."""
    points = [(2 + 66 * float(a), 22 - 20 * float(b)) for a, b in zip(*_thin(*_finite(x, y), most=50))]
    return (
        '<svg class="small" viewBox="0 0 70 24" aria-hidden="true"><path class="axis" d="M2 2V22H68"/>'
        f'<path class="line" style="--series:{colour}" d="{path(points)}"/></svg>'
    )


def legend(keys: Mapping[str, str]) -> str:
    """List names with their CSS colours; "" for none."""
    entries = "".join(f'<li style="--series:{tone}"><i></i>{html.escape(name)}</li>' for name, tone in keys.items())
    return f'<ul class="legend">{entries}</ul>' if entries else ""


def series_colour(number: int) -> str:
    """Give the page's colour for the n-th line; they repeat after eight."""
    return f"var(--series-{number % 8 + 1})"


def number_text(value: SupportsFloat) -> str:
    """Write a number shortly: 1,234, 0.0123, 2e-06."""
    number = float(value)
    if not math.isfinite(number):
        return "–"
    if number == round(number) and abs(number) < 1e7:
        return f"{number:,.0f}"
    if abs(number) < 1e-3:
        digits, _, power = f"{number:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """List round numbers (1, 2 or 5 times a power of ten apart) from low to high, at most `most` + 1 of them."""
    rough = max((high - low) / most, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 5, 10)]
    wanted = next(place for place, step in enumerate(steps) if step >= rough * (1 - 1e-9))
    found: list[float] = []
    for step in (steps[wanted], steps[max(wanted - 1, 0)]):  # the finer where no multiple of the coarser lies between
        first = math.ceil(low / step - 1e-9)
        found = found or [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
    return found


def log_ticks(low: float, high: float) -> list[float]:
    """List powers of ten from low to high, with 2 and 5 times them where that leaves few, else round numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**p for p in powers for f in factors if low * (1 - 1e-9) <= f * 10.0**p <= high * (1 + 1e-9)]
        if len(found) >= 3:
            return found if len(found) <= 8 else found[:: math.ceil(len(found) / 8)]
    return [value for value in ticks(low, high, 4) if value > 0]  # less than a power of ten: as on a linear axis


def frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    """Draw the axes with their ticks and what they are."""
    parts = []
    for value in log_ticks(y.low, y.high) if y.log else ticks(y.low, y.high, 5):
        at = f"{y(value):.1f}"
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at}" dy=".33em" text-anchor="end">{number_text(value)}</text>')
    for value in log_ticks(x.low, x.high) if x.log else ticks(x.low, x.high, 6):
        at = f"{x(value):.1f}"
        parts.append(f'<path class="axis" d="M{at} {HEIGHT - BOTTOM}v4"/>')
        parts.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number_text(value)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(f'<text class="title" x="4" y="14">{html.escape(y_label)}</text>')
    return "".join(parts)


def figure(body: str, keys: Mapping[str, str]) -> str:
    """Put what is drawn into an image with a legend of names and their colours."""
    return f'<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{body}</svg>{legend(keys)}</div>'


def path(points: Sequence[tuple[float, float]]) -> str:
    """Write the way through points as SVG has it."""
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) if points else ""


def _finite(x: np.ndarray, y: np.ndarray, positive: bool = False) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    keep = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not positive))
    return x[keep], y[keep]


def _thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Replace many points by the means of at most `most` groups of neighbours."""
    if len(x) <= most:
        return x, y
    groups = np.array_split(np.arange(len(x)), most)
    return np.array([x[g].mean() for g in groups]), np.array([y[g].mean() for g in groups])


def spread(low: float, high: float) -> tuple[float, float]:
    """Keep a range from being empty."""
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(high) + 0.5)


def _extent(values: np.ndarray, log: bool) -> tuple[float, float]:
    """Choose a y range: from 0 (or, logarithmic, the least value) to a little above the greatest."""
    low, high = float(values.min()), float(values.max())
    if log:
        return (low / 1.2, high * 1.2)
    return spread(min(low, 0.0), high * 1.05 if high > 0 else max(high, 0.0))
