"""Speeds over revisions: a JSON-lines file that grows with each measurement, and its plot: a lost 10 % is seen."""

import datetime
import html
import json
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapjax import regular
from mapjax.errors import UserError
from mapjax.report import plots
from mapjax.report.page import render
from mapjax.report.section import Section


def append(path: pathlib.Path, device: str, revision: str | None, figures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Add a line of figures (what was timed → images a second, or how many times as fast as a peer); give all lines.

    Raises:
      UserError: the file cannot be read or written, or is of something else.
    """
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    line = {"time": now, "device": device, "revision": revision, "figures": dict(figures)}
    found = read(path) if path.exists() else []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"--history {path} cannot be written ({error.strerror}); name another file.") from error
    return [*found, line]


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read all lines; errors as for `append`."""
    try:
        lines = [json.loads(text) for text in regular.read_text(path).splitlines() if text.strip()]
    except OSError as error:
        raise UserError(f"--history {path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--history {path} is no file of measurements ({error}); name another.") from error
    for number, line in enumerate(lines, 1):
        figures = line.get("figures") if isinstance(line, dict) else None
        if not isinstance(figures, dict) or not all(isinstance(one, int | float) for one in figures.values()):
            raise UserError(f"--history {path}, line {number}, is no measurement of mapjax bench; name another file.")
    return lines


def lost(lines: Sequence[Mapping[str, Any]], share: float = 0.1) -> list[str]:
    """Say which figures of the last line are lower by more than a share than the best before it on this device."""
    *before, last = lines
    alike = [line["figures"] for line in before if line["device"] == last["device"]]
    said = []
    for name, value in last["figures"].items():
        best = max((figures[name] for figures in alike if name in figures), default=0.0)
        if value < (1 - share) * best:
            less = 100 * (1 - value / best)
            said.append(f"{name}: {value:.4g}, {less:.0f} % less than the best before on this device, {best:.4g}")
    return said


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """Draw every figure over the measurements, by device."""
    by_device: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_device[str(line["device"])].append(line)
    sections = [Section(device, _plots(ones), _revisions(ones)) for device, ones in by_device.items()]
    return render("Speeds over revisions", f"{len(lines)} measurements", [], sections)


def _revisions(lines: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{number}: {line['revision']}" for number, line in enumerate(lines, 1))


def _plots(lines: Sequence[Mapping[str, Any]]) -> str:
    drawn = []
    for name in dict.fromkeys(name for line in lines for name in line["figures"]):
        known = [(k, line["figures"][name]) for k, line in enumerate(lines, 1) if name in line["figures"]]
        x, y = (np.asarray(values, np.float64) for values in zip(*known))
        top = float(y.max()) or 1.0
        chart = plots.lines([plots.Series(name, x, y)], x_label="measurement", y_label=name, y_range=(0.0, top))
        drawn.append(f"<figure><figcaption>{html.escape(name)}</figcaption>{chart}</figure>")
    return "".join(drawn)
