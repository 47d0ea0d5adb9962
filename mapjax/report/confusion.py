"""Which classes are taken for which: the confusion matrix as a heat map, and its most confused pairs."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

MOST_CLASSES = 30  # of a heat map that can be read
_LETTERS = 16  # of a class name beside it


class Pair(NamedTuple):
    """A class, the one that it is taken for, how many images, and their share of the class."""

    truth: int
    predicted: int
    number: int
    share: float


def pairs(matrix: Int[np.ndarray, "c c"], most: int) -> list[Pair]:
    """List the pairs of classes confused most often, each way for itself; of equals the larger share first."""
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    shares = wrong / np.maximum(matrix.sum(1, keepdims=True), 1)
    rows, columns = np.nonzero(wrong)
    order = np.lexsort((-shares[rows, columns], -wrong[rows, columns]))[:most]
    return [Pair(int(a), int(b), int(wrong[a, b]), float(shares[a, b])) for a, b in zip(rows[order], columns[order])]


def heat_map(matrix: Int[np.ndarray, "c c"], names: Sequence[str]) -> str:
    """Draw the matrix as SVG: truths are rows, predictions columns, the shade a cell's share of its row."""
    number = len(names)
    cell = int(np.clip(480 // max(number, 1), 18, 60))
    longest = max((len(_short(name)) for name in names), default=0)
    slanted = longest > cell // 8
    left, side = 34 + 7 * longest, cell * number
    width, height = left + side + 8, side + 26 + (12 + 5 * longest if slanted else 16)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    numbered = 8 * len(str(matrix.max(initial=0))) <= cell
    parts = [f'<rect class="empty" x="{left}" y="0" width="{side}" height="{side}"/>']
    for a, b in np.argwhere(matrix > 0).tolist():
        share, place = float(shares[a, b]), (left + b * cell, a * cell, cell)
        title = f"{names[a]} → {names[b]}: {matrix[a, b]:,} ({100 * share:.1f} % of {names[a]})"
        parts.append(_cell(*place, right=a == b, share=share, title=title))
        if numbered:
            parts.append(_number(*place, int(matrix[a, b]), dark=_shade(a == b, share) > 0.55))
    for k, name in enumerate(names):
        middle = (k + 0.5) * cell
        x, y = left + middle, side + 14
        turned = f'transform="rotate(-45 {x:.1f} {y})" text-anchor="end"' if slanted else 'text-anchor="middle"'
        parts.append(_label(name, f'x="{left - 6}" y="{middle:.1f}" dy=".35em" text-anchor="end"'))
        parts.append(_label(name, f'x="{x:.1f}" y="{y}" {turned}'))
    parts.append(
        f'<text class="title" x="{left + side / 2:.1f}" y="{height - 5}" text-anchor="middle">predicted</text>'
    )
    turned = f'transform="rotate(-90 12 {side / 2:.1f})"'
    parts.append(f'<text class="title" x="12" y="{side / 2:.1f}" {turned} text-anchor="middle">truth</text>')
    svg = f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img">{"".join(parts)}</svg>'
    return f'<div class="plot confusion">{svg}</div>'


def _cell(x: int, y: int, side: int, *, right: bool, share: float, title: str) -> str:
    place = f'x="{x + 0.5}" y="{y + 0.5}" width="{side - 1}" height="{side - 1}"'
    shade = f'class="{"right" if right else "wrong"}" fill-opacity="{_shade(right, share):.2f}"'
    return f"<rect {shade} {place}><title>{html.escape(title)}</title></rect>"


def _number(x: int, y: int, side: int, number: int, *, dark: bool) -> str:
    place = f'x="{x + side / 2:.1f}" y="{y + side / 2:.1f}" dy=".35em" text-anchor="middle"'
    return f'<text class="number{" dark" if dark else ""}" {place}>{number}</text>'


def _label(name: str, place: str) -> str:
    return f"<text {place}><title>{html.escape(name)}</title>{html.escape(_short(name))}</text>"


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"


def _shade(right: bool, share: float) -> float:
    """Choose an opacity; mistakes, whose shares are small, by the root."""
    return share if right else 0.1 + 0.9 * share**0.5
