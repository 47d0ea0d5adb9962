"""A detector by the size of objects, and which classes, or the background, it takes for which."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mapjax.data.source import Source
from mapjax.metrics import best_f1, detection_errors
from mapjax.metrics.precision import SIZES, Curve
from mapjax.report import confusion, plots, tables
from mapjax.report.detection_images import SCORE
from mapjax.report.section import Section
from mapjax.task import Counts

PAIRS = 20
BACKGROUND = "background"
EDGES = (0, 32**2, 96**2, np.inf)  # of COCO's sizes, in pixels


def sizes(
    truth: Source, counts: Counts, metrics: Mapping[str, Any], curves: Mapping[str, Mapping[str, Curve]]
) -> Section:
    """Tabulate AP and AR by the size of objects, beside the mean precision of the classes over recall.

    Args:
      truth: the split; of its records the labels.
      curves: by size and class, as metrics.precision.curves_by_size gives them.
    """
    objects = [(areas[~crowd]) for areas, crowd in (_areas(truth.records[index]) for index in sorted(counts))]
    areas = np.concatenate([np.zeros(0), *objects])
    numbers = {"all": len(areas)} | {
        size: int(((areas >= low) & (areas < high)).sum()) for size, low, high in zip(SIZES[1:], EDGES, EDGES[1:])
    }
    rows = []
    for size, name in zip(SIZES, ("AP", "APs", "APm", "APl")):
        recall = "AR100" if size == "all" else name.replace("AP", "AR")
        rows.append([size, f"{numbers[size]:,}", *(_figure(metrics.get(one, -1.0)) for one in (name, recall))])
    table = tables.figures(("text", "number", "number", "number"), ("objects", "truths", "AP", "AR"), rows, {})
    series = []
    for size in SIZES:
        known = [curve for curve in curves[size].values() if curve.average >= 0]
        if known:
            series.append(plots.Series(size, known[0].recall, np.mean([curve.precision for curve in known], axis=0)))
    chart = plots.lines(series, x_label="recall", y_label="precision", x_range=(0.0, 1.0), y_range=(0.0, 1.02))
    note = (
        "Objects are small below 32² pixels, and large from 96² on. AP and AR are means over IoU 0.5 to 0.95; "
        "the curves are of IoU 0.5, the mean of the classes."
    )
    return Section("Sizes of objects", f'<div class="split">{table}{chart}</div>', note)


def confused(source: Source, counts: Counts, metrics: Mapping[str, Any]) -> Section:
    """Draw which truths are found as which class, with the background; of many classes list the pairs.

    Args:
      metrics: "threshold/CLASS", from which detections count.
    """
    stored = (float(metrics.get(f"{best_f1.FIGURE}/{name}", -1.0)) for name in source.classes)
    least = np.array([SCORE if value < 0 else value for value in stored])
    matrix = detection_errors.confusion(source, counts, least)
    names = (*source.classes, BACKGROUND)
    note = (
        "From the threshold of each class on, at IoU 0.5. Rows are the truth; the last row is what was found where "
        "nothing is, the last column what was not found."
    )
    if len(source.classes) <= confusion.MOST_CLASSES:
        return Section("Confusion", confusion.heat_map(matrix, names), note)
    columns = {"truth": "text", "found as": "text", "objects": "number", "of the truth": "number"}
    rows = [
        [
            tables.text(names[one.truth]),
            tables.text(names[one.predicted]),
            f"{one.number:,}",
            f"{100 * one.share:.1f} %",
        ]
        for one in confusion.pairs(matrix, PAIRS)
    ]
    body = tables.listed(columns, rows) if rows else "<p>Nothing was taken for anything else.</p>"
    return Section("Confusion", body, "From the threshold of each class on, at IoU 0.5; the most frequent first.")


def _areas(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(record["areas"], np.float64).reshape(-1), np.asarray(record["crowd"], bool).reshape(-1)


def _figure(value: float) -> str:
    return "–" if value < 0 else f"{value:.3f}"
