"""What a report shows of a classifier that gives an image any number of classes."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from mapjax.data.source import Source
from mapjax.metrics import calibration, multilabel
from mapjax.metrics.multilabel import THRESHOLD, Answers
from mapjax.report import plots, tables, thumbnails
from mapjax.report.section import Section
from mapjax.report.thumbnails import Card
from mapjax.task import Counts

IMAGES, MISTAKES, BARS = 16, 16, 4
FIGURES = {"AP": "AP", "f1": "F1", "precision": "precision", "recall": "recall"}


def sections(source: Source, counts: Counts, metrics: Mapping[str, Any]) -> list[Section]:
    """Make the sections of the report.

    Args:
      source: the evaluated split; an image that cannot be read is left out and counted.
      counts: its answers, as mapjax.metrics.multilabel counts them.
      metrics: "AP/CLASS", … for the table of classes.
    """
    found = multilabel.answers(source, counts)
    taken = found.probabilities >= THRESHOLD
    return [
        classes(source, found, taken, metrics),
        examples(source, found, taken),
        mistakes(source, found, taken),
        reliability(found),
    ]


def classes(source: Source, found: Answers, taken: Bool[np.ndarray, "n c"], metrics: Mapping[str, Any]) -> Section:
    """Tabulate the classes."""
    numbers = {"truths": found.labels.sum(0).tolist(), "predicted": taken.sum(0).tolist()}
    note = f"A class counts as predicted from probability {THRESHOLD} on. Click on the head of a column to sort by it."
    return Section("Classes", tables.by_class(source.classes, numbers, metrics, FIGURES), note)


def examples(source: Source, found: Answers, taken: Bool[np.ndarray, "n c"]) -> Section:
    """Show images from evenly through the split with their classes and the most probable ones."""
    cards = []
    for row in thumbnails.evenly(len(found.labels), IMAGES):
        truth = np.flatnonzero(found.labels[row]).tolist()
        bars = thumbnails.bars(source.classes, found.probabilities[row], truth, BARS)
        names = html.escape(", ".join(source.classes[k] for k in truth) or "no class")
        right = bool((taken[row] == found.labels[row]).all())
        cards.append(Card(int(found.indexes[row]), names, bars, right=right))
    body, unread = thumbnails.gallery(source, cards)
    note = "The truth, and below it the most probable classes; bars of the truth are green."
    return Section("Images", body, note + thumbnails.unread(unread))


def mistakes(source: Source, found: Answers, taken: Bool[np.ndarray, "n c"]) -> Section:
    """Show the surest mistakes of both kinds; a label that is wrong or missing often is the reason."""
    wrong = {
        "Predicted, but not in the truth": (taken & ~found.labels, -found.probabilities),
        "In the truth, but not predicted": (~taken & found.labels, found.probabilities),
    }
    body, unread = "", 0
    for title, (cells, rank) in wrong.items():
        rows, columns = np.nonzero(cells)
        order = np.argsort(rank[rows, columns], kind="stable")[:MISTAKES]
        cards = [
            Card(int(found.indexes[a]), f"{html.escape(source.classes[b])} · {found.probabilities[a, b]:.2f}")
            for a, b in zip(rows[order].tolist(), columns[order].tolist())
        ]
        if cards:
            shown, lost = thumbnails.gallery(source, cards)
            body, unread = f"{body}<h3>{title}: {len(rows):,}</h3>{shown}", unread + lost
    note = "The surest first, with the probability of the class. Look here for labels that are wrong or missing."
    return Section("Mistakes", body or "<p>None.</p>", (note if body else "") + thumbnails.unread(unread))


def reliability(found: Answers) -> Section:
    """Draw how often a class is true over its probability, and how probabilities are spread."""
    chance, truth = found.probabilities.ravel(), found.labels.ravel()
    grouped, edges = calibration.bins(chance, truth), np.linspace(0, 1, 21)
    spread = {name: np.histogram(chance[keep], edges)[0] for name, keep in (("true", truth), ("not", ~truth))}
    tones = ("var(--good)", "var(--mute)")
    charts = plots.reliability(grouped, x_label="probability", y_label="share that is true") + plots.histogram(
        spread, edges, x_label="probability", y_label="decisions", colours=tones
    )
    error = calibration.expected_error(grouped)
    note = f"All classes of all images together; the expected calibration error is {error:.3f}." if error >= 0 else ""
    return Section("Calibration", f'<div class="plots">{charts}</div>' if charts else "<p>No image.</p>", note)
