"""What a report shows of a classifier: its classes, what it confuses, its mistakes, and how far to believe it."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from mapjax.data import labels
from mapjax.data.source import Source
from mapjax.metrics import accuracy, calibration
from mapjax.metrics.accuracy import Answers
from mapjax.report import captions, confusion, multilabels, plots, tables, thumbnails
from mapjax.report.section import SAID, Section, Shown
from mapjax.report.thumbnails import Card
from mapjax.task import Counts

IMAGES, MISTAKES, SUSPECTS, PAIRS, PAIR_EXAMPLES = 16, 24, 20, 10, 6
PAIR_SIDE = 112  # pixels
DOUBT = 0.5  # a label that the network gives less may be wrong
FIGURES = {"f1": "F1", "precision": "precision", "recall": "recall"}


def sections(source: Source, counts: Counts, metrics: Mapping[str, Any]) -> list[Section]:
    """Make the sections of a classifier's report, for one class an image or for several.

    Args:
      source: the evaluated split; an image that cannot be read is left out and counted.
      counts: its answers, as mapjax.metrics.accuracy or .multilabel counts them.
      metrics: "precision/CLASS", … for the table of classes; "temperature" for the calibration.
    """
    if any(labels.has(answer, "labels") for answer in counts.values()):
        return multilabels.sections(source, counts, metrics)
    found = accuracy.answers(source, counts)
    predicted = found.probabilities.argmax(1)
    matrix = accuracy.confusion_matrix(found.labels, predicted, len(source.classes))
    return [
        classes(source, matrix, metrics),
        confused(source, found, predicted, matrix),
        examples(source, found, predicted),
        mistakes(source, found, predicted),
        suspects(source, found, predicted),
        reliability(found, predicted, metrics),
    ]


def classes(source: Source, matrix: Int[np.ndarray, "c c"], metrics: Mapping[str, Any]) -> Section:
    """Tabulate the classes, beside the confusion matrix unless they are too many for it."""
    numbers = {"truths": matrix.sum(1).tolist(), "predicted": matrix.sum(0).tolist()}
    table = tables.by_class(source.classes, numbers, metrics, FIGURES)
    if len(source.classes) > confusion.MOST_CLASSES:
        return Section("Classes", table, "Click on the head of a column to sort by it.")
    note = (
        "In the matrix rows are the truth, and a cell's shade is its share of the row: blue is right, red mistaken. "
        "Hover over a cell for its numbers; click on the head of a column to sort by it."
    )
    wide = len(source.classes) > 12 or max(map(len, source.classes)) > 12
    body = f"{table}{confusion.heat_map(matrix, source.classes)}"
    return Section("Classes", f'<div class="{"stack" if wide else "split"}">{body}</div>', note)


def confused(
    source: Source, found: Answers, predicted: Int[np.ndarray, " n"], matrix: Int[np.ndarray, "c c"]
) -> Section:
    """List the pairs of classes confused most often, with the most confident examples."""
    shown = confusion.pairs(matrix, PAIRS)
    if not shown:
        return Section("Most confused", "<p>No image was taken for another class.</p>")
    confidence = found.probabilities.max(1)
    examples = []
    for pair in shown:
        rows = np.flatnonzero((found.labels == pair.truth) & (predicted == pair.predicted))
        examples.append(found.indexes[rows[np.argsort(-confidence[rows], kind="stable")][:PAIR_EXAMPLES]].tolist())
    made = thumbnails.thumbnails(source, itertools.chain(*examples), PAIR_SIDE)
    rows = []
    for pair, indexes in zip(shown, examples):
        names = (tables.text(source.classes[k]) for k in (pair.truth, pair.predicted))
        images = "".join(made.get(index, "") for index in indexes)
        rows.append([*names, f"{pair.number:,}", f"{100 * pair.share:.1f} %", f'<div class="row">{images}</div>'])
    columns = {"truth": "text", "taken for": "text", "images": "number", "of the class": "number"}
    body = tables.listed({**columns, "the most confident": "images"}, rows)
    return Section("Most confused", body, thumbnails.unread(sum(map(len, examples)) - len(made)).strip())


def examples(source: Source, found: Answers, predicted: Int[np.ndarray, " n"]) -> Section:
    """Show images from evenly through the split with their truth and the most probable classes."""
    cards = []
    for row in thumbnails.evenly(len(found.labels), IMAGES):
        label = int(found.labels[row])
        bars = thumbnails.bars(source.classes, found.probabilities[row], [label])
        name = html.escape(source.classes[label])
        cards.append(Card(int(found.indexes[row]), name, bars, right=bool(predicted[row] == label)))
    body, unread = thumbnails.gallery(source, cards)
    note = "The truth, and below it the most probable classes; the bar of the truth is green."
    return Section("Images", body, note + thumbnails.unread(unread))


def mistakes(source: Source, found: Answers, predicted: Int[np.ndarray, " n"]) -> Section:
    """Show the mistakes that the network is surest of."""
    confidence = found.probabilities.max(1)
    wrong = np.flatnonzero(predicted != found.labels)
    if not len(wrong):
        return Section("Mistakes", "<p>None.</p>" if len(predicted) else "<p>No image was measured.</p>")
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    cards = []
    for row in chosen.tolist():
        truth, taken = (html.escape(source.classes[k]) for k in (found.labels[row], predicted[row]))
        cards.append(Card(int(found.indexes[row]), f"{truth} → {taken} · {confidence[row]:.2f}"))
    body, unread = thumbnails.gallery(source, cards)
    share = 100 * len(wrong) / len(predicted)
    note = (
        f"{len(wrong):,} of {len(predicted):,} images ({share:.1f} %) are mistaken. Those with the highest "
        "probability first: truth → prediction · its probability."
    )
    return Section("Mistakes", body, note + thumbnails.unread(unread))


def suspects(source: Source, found: Answers, predicted: Int[np.ndarray, " n"]) -> Section:
    """List the images whose label the network finds least likely: a wrong label often is the reason."""
    given = found.probabilities[np.arange(len(found.labels)), found.labels]
    chosen = [row for row in np.argsort(given, kind="stable")[:SUSPECTS].tolist() if given[row] < DOUBT]
    if not chosen:
        return Section("Labels in doubt", f"<p>Every label has a probability of at least {DOUBT}.</p>")
    made = thumbnails.thumbnails(source, found.indexes[chosen].tolist(), PAIR_SIDE)
    rows = []
    for row in chosen:
        index, best = int(found.indexes[row]), f"{found.probabilities[row].max():.2f}"
        if index in made:
            label, answer = (tables.text(source.classes[k]) for k in (found.labels[row], predicted[row]))
            file = tables.text(str(source.records[index]["file"]))
            rows.append([made[index], label, _small(given[row]), answer, best, file])
    columns = {"": "images", "label": "text", "its probability": "number"}
    columns |= {"the network says": "text", "with": "number", "file": "file"}
    note = (
        f"{int((given < DOUBT).sum()):,} labels have a probability below {DOUBT}. The least probable first: look here "
        "for labels that are wrong, and for images that show two classes or none."
    )
    unread = thumbnails.unread(len(chosen) - len(made))
    return Section("Labels in doubt", tables.listed(columns, rows), note + unread)


def reliability(found: Answers, predicted: Int[np.ndarray, " n"], metrics: Mapping[str, Any]) -> Section:
    """Draw accuracy over confidence, as it is and after temperature scaling, and how confidence is spread."""
    if len(predicted) < 2:
        return Section("Calibration", "<p>Too few images to measure it.</p>")
    correct, confidence = predicted == found.labels, found.probabilities.max(1)
    scaled = calibration.held_out_confidence(np.log(found.probabilities), found.labels)
    grouped, mended = calibration.bins(confidence, correct), calibration.bins(scaled, correct)
    edges = np.linspace(0, 1, 21)
    spread = {
        name: np.histogram(confidence[keep], edges)[0] for name, keep in (("right", correct), ("wrong", ~correct))
    }
    tones = ("var(--good)", "var(--bad)")
    charts = [
        plots.reliability(grouped, x_label="confidence", y_label="accuracy"),
        plots.reliability(mended, x_label="confidence after temperature scaling", y_label="accuracy"),
        plots.histogram(spread, edges, x_label="confidence", y_label="images", colours=tones),
    ]
    heat = metrics.get("temperature", -1.0)
    fitted = f", T = {heat:.2f} on all of them" if heat > 0 else ""
    note = (
        "Confidence is the probability of the predicted class. Where it can be believed, the bars end on the diagonal; "
        "red is the gap. "
        f"The expected calibration error is {calibration.expected_error(grouped):.3f}, and "
        f"{calibration.expected_error(mended):.3f} after dividing the logits by a temperature: each half of the "
        f"images by that of the other half{fitted}. Above 1 the network is too sure, below 1 not sure enough."
    )
    return Section("Calibration", f'<div class="plots">{"".join(charts)}</div>', note)


def show(
    result: Mapping[str, np.ndarray],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    classes: Sequence[str],
    score: float,
    enlarge: bool,
) -> Shown:
    """Show the most probable classes of one image, as values (to 0.0001) and as bars drawn below it.

    Args:
      result: a row of the task's Result.
      image: upright RGB.
      classes: their names.
      score: from here on a class counts as found.
      enlarge: draw a small image several times as large.
    """
    probabilities = np.nan_to_num(np.asarray(result["probabilities"], np.float32))
    order = np.argsort(-probabilities, kind="stable")
    top = accuracy.most_probable(classes, probabilities, digits=4)
    found = [classes[k] for k in order if probabilities[k] >= score]
    lines = [(one["class"], one["probability"]) for one in top[: thumbnails.BARS]]
    drawing = captions.below(image, lines, enlarge=enlarge)
    values = {"predicted": top[0]["class"], "probability": top[0]["probability"], "found": found, "top": top}
    said = ", ".join(f"{one['class']} {_small(one['probability'])}" for one in top[:SAID])
    return Shown(values, drawing, len(found), said)


def _small(probability: Any) -> str:
    return f"{probability:.2f}" if probability >= 0.01 else f"{probability:.0e}".replace("e-0", "e-")
