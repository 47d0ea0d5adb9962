"""Tables for a page: of classes, sorted by any column, and of whatever else has rows."""

import html
from collections.abc import Mapping, Sequence
from typing import Any


def by_class(
    classes: Sequence[str], counts: Mapping[str, Sequence[int]], metrics: Mapping[str, Any], figures: Mapping[str, str]
) -> str:
    """Tabulate the classes: whole numbers, then figures from 0 to 1, the first of them with a bar.

    Args:
      classes: their names.
      counts: the numbers of each class by the head of their column.
      metrics: "FIGURE/CLASS", -1 (shown as –) where there is nothing to measure.
      figures: the head of the column by the name of the figure.
    """
    heads = ["class", *counts, *figures.values()]
    head = "".join(f'<th><button type="button">{html.escape(name)}</button></th>' for name in heads)
    rows = []
    for k, name in enumerate(classes):
        cells = [f"<td>{values[k]:,}</td>" for values in counts.values()]
        values = [float(metrics.get(f"{figure}/{name}", -1.0)) for figure in figures]
        cells += [f"<td>{'–' if value < 0 else f'{value:.3f}'}</td>" for value in values]
        bar = f'<td class="share"><i class="good" style="width:{100 * max(values[0], 0):.1f}%"></i></td>'
        label = html.escape(name)
        rows.append(f'<tr><th title="{label}">{label}</th>{"".join(cells)}{bar}</tr>')
    return (
        f'<div class="scroll"><table class="classes sortable"><thead><tr>{head}<th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def listed(columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> str:
    """Tabulate rows of cells, HTML already; `columns` says of what kind each is: "text", "number",
    "images" or "file".
    """
    head = "".join(f'<th class="{kind}">{html.escape(name)}</th>' for name, kind in columns.items())
    cells = ("".join(f'<td class="{kind}">{cell}</td>' for kind, cell in zip(columns.values(), row)) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return (
        f'<div class="scroll"><table class="listed"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def figures(kinds: Sequence[str], head: Sequence[str], rows: Sequence[Sequence[str]], marks: Mapping[str, str]) -> str:
    """Tabulate plain cells below a head, all rows at once; the first of each names it.

    Args:
      kinds: of each column: "text" or "number".
      marks: the class of a cell by its text.
    """
    top = "".join(f'<th class="{kind}">{html.escape(name)}</th>' for kind, name in zip(kinds, head, strict=True))
    body = []
    for first, *rest in rows:
        cells = zip(kinds[1:], rest, strict=True)
        drawn = "".join(f'<td class="{kind} {marks.get(cell, "")}">{html.escape(cell)}</td>' for kind, cell in cells)
        body.append(f"<tr><th>{html.escape(first)}</th>{drawn}</tr>")
    return (
        f'<div class="scroll whole"><table class="sheet"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def text(name: str) -> str:
    """Write a cell that may be cut to fit, and shows all of it on hover."""
    return f'<span title="{html.escape(name)}">{html.escape(name)}</span>'
