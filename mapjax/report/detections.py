"""What a report shows of a detector: its classes, images with truth and predictions, mistakes and distributions."""

import collections
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from mapjax.data.source import Record, Source, truth_of
from mapjax.metrics import best_f1, detection_errors, precision
from mapjax.report import detection_images, detection_tables, draw, mistakes, objects, plots
from mapjax.report.detection_images import MOST_LABELS, SCORE
from mapjax.report.draw import Mark
from mapjax.report.mistakes import Finding
from mapjax.report.section import Section, Shown, counted
from mapjax.task import Counts

LEAST_SCORE = 0.05
IMAGES, EXAMPLES, MOST_LINES = 12, 8, 10
KINDS_HEAD = "<thead><tr><th></th><th>number</th><th>AP50, if mended</th><th></th><th></th></tr></thead>"
FIGURES = ("AP", "AP50", "F1", best_f1.FIGURE)  # of each class

Records = Sequence[Record]


def sections(source: Source, counts: Counts, metrics: Mapping[str, Any]) -> list[Section]:
    """Make the sections of a detector's report.

    Args:
      source: the evaluated split; an image that cannot be read is left out and counted.
      counts: its detections, as mapjax.metrics.precision counts them.
      metrics: "AP/CLASS" and "AP50/CLASS" for the table of classes.
    """
    # A record may be costly to fetch (a rendered scene), so all but the images is fetched once.
    every = (truth_of(source, index) for index in range(len(source.records)))
    light = [{key: v for key, v in record.items() if key not in ("image", "masks")} for record in every]
    truth = source._replace(records=light)
    measured = {index: light[index] for index in sorted(counts)}
    found = mistakes.survey(measured, counts, SCORE)
    every = mistakes.survey(measured, counts, LEAST_SCORE)
    curves = precision.curves_by_size(source, counts)
    return [
        Section(
            "Classes",
            classes(source, truth, counts, metrics, found, curves["all"]),
            "Precision over recall at IoU 0.5, from all scores. From the threshold on a class has its best F1.",
        ),
        detection_tables.sizes(truth, counts, metrics, curves),
        detection_tables.confused(source, counts, metrics),
        examples(source, measured, every, counts),
        worst(source, light, found, detection_errors.of(source, counts).gains),
        Section("Scores and sizes", histograms(measured, every, found), f"Detections of score ≥ {LEAST_SCORE}."),
    ]


def classes(
    source: Source,
    truth: Source,
    counts: Counts,
    metrics: Mapping[str, Any],
    found: Sequence[Finding],
    curves: Mapping[str, precision.Curve],
) -> str:
    """Tabulate the classes, beside their precision–recall curves (their mean where there are many)."""
    tones = {name: draw.css(draw.colour(k)) for k, name in enumerate(source.classes)}
    truths = collections.Counter(
        int(k) for i in counts for k, crowd in zip(truth.records[i]["classes"], truth.records[i]["crowd"]) if not crowd
    )
    shown = collections.Counter(f.label for f in found if f.kind != "missed")
    rows = []
    for k, (name, curve) in enumerate(curves.items()):
        figures = "".join(f"<td>{_score(metrics.get(f'{figure}/{name}', -1.0))}</td>" for figure in FIGURES)
        chart = plots.small(curve.recall, curve.precision, tones[name]) if curve.average >= 0 else ""
        rows.append(
            f"<tr><th>{_swatch(tones[name])}{html.escape(name)}</th><td>{truths[k]:,}</td><td>{shown[k]:,}</td>"
            f"{figures}<td>{chart}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("class", "truths", f"detections ≥ {SCORE}", *FIGURES, ""))
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    table = f'<div class="scroll"><table class="classes">{body}</table></div>'
    return f'<div class="split">{table}{_curves_chart(curves, tones)}</div>'


def examples(source: Source, records: Mapping[int, Record], every: Sequence[Finding], counts: Counts) -> Section:
    """Show images from evenly through the split, truth beside predictions; wrong predictions are dashed."""
    by_image: dict[int, list[Finding]] = collections.defaultdict(list)
    for finding in every:
        if finding.kind != "missed":
            by_image[finding.index].append(finding)
    indexes = np.array(list(records))
    chosen = indexes[np.unique(np.linspace(0, len(indexes) - 1, IMAGES).astype(int))] if len(indexes) else []
    shown, unread = [], 0
    for index in map(int, chosen):
        record = source.records[index]
        image = detection_images.read(record)
        if image is None:
            unread += 1
            continue
        beside = counts[index], source.skeleton
        shown.append(detection_images.side_by_side(image, record, by_image[index], source.classes, index, *beside))
    slider = (
        f'<label class="slider">score ≥ <output>{SCORE}</output><input type="range" min="{LEAST_SCORE}" max="0.95" '
        f'step="0.05" value="{SCORE}"></label>'
    )
    tones = {name: draw.css(draw.colour(k)) for k, name in enumerate(source.classes)}
    keys = plots.legend(tones) if len(tones) <= MOST_LABELS else ""
    note = "Truth on the left, predictions on the right; wrong ones are dashed. Hover over a box for what it is."
    body = (
        f'<div class="controls">{slider}{keys}</div><div class="pairs">{"".join(shown)}</div>'
        if shown
        else "<p>No image to show.</p>"
    )
    return Section("Images", body, note + _unread(unread))


def worst(source: Source, records: Records, found: Sequence[Finding], gains: Mapping[str, float]) -> Section:
    """Count the kinds of mistakes, and show the worst of each: the most confident, the largest missed.

    Args:
      gains: what AP50 gains by mending all of one kind.
    """
    number = collections.Counter(finding.kind for finding in found)
    most = max([*number.values(), 1])
    rows = "".join(
        f"<tr><th>{kind}</th><td>{number[kind]:,}</td><td>{_gain(gains.get(kind, -1.0))}</td>"
        f'<td class="share"><i class="{_tone(kind)}" '
        f'style="width:{100 * number[kind] / most:.1f}%"></i></td><td class="note">{html.escape(meaning)}</td></tr>'
        for kind, meaning in mistakes.KINDS.items()
        if number[kind] or kind not in ("ignored", "both wrong")
    )
    body, unread = (
        [
            f'<div class="scroll"><table class="kinds">{KINDS_HEAD}{rows}</table></div>',
            _confusions(source, records, found),
        ],
        0,
    )
    for kind in mistakes.KINDS:
        chosen = mistakes.worst(found, kind)[:EXAMPLES] if kind not in ("correct", "ignored") else []
        drawn = [detection_images.cut_out(source, records[finding.index], finding) for finding in chosen]
        unread += drawn.count("")
        if any(drawn):
            body.append(f'<h3>{kind.capitalize()}</h3><div class="examples">{"".join(drawn)}</div>')
    note = (
        f"Detections of score ≥ {SCORE}, in TIDE's categories; the worst first. Truth is dashed. What AP50 gains if "
        "all mistakes of one kind are mended is of all scores."
    )
    return Section("Mistakes", "".join(body), note + _unread(unread))


def histograms(records: Mapping[int, Record], every: Sequence[Finding], found: Sequence[Finding]) -> str:
    """Draw how scores are spread over right and wrong detections, and sizes over found and missed truths."""
    edges = np.linspace(0, 1, 21)
    right, wrong = (
        np.histogram(
            [f.score for f in every if f.kind not in ("missed", "ignored") and (f.kind == "correct") is good], edges
        )[0]
        for good in (True, False)
    )
    taken = {(f.index, f.truth) for f in found if f.kind == "correct"}
    sizes: dict[bool, list[float]] = {True: [], False: []}
    for index, record in records.items():
        sides = np.asarray(record["boxes"], np.float64).reshape(-1, 4)
        for row, (x1, y1, x2, y2) in enumerate(sides):
            if not record["crowd"][row]:
                sizes[(index, row) in taken].append(max((x2 - x1) * (y2 - y1), 1.0) ** 0.5)
    tones = ("var(--good)", "var(--bad)")
    charts = plots.histogram(
        {"correct": right, "wrong": wrong}, edges, x_label="score", y_label="detections", colours=tones
    )
    both = sizes[True] + sizes[False]
    if both:
        spans = np.geomspace(min(both) / 1.05, max(both) * 1.05, 21)
        bars = {name: np.histogram(sizes[good], spans)[0] for name, good in (("found", True), ("not found", False))}
        label = "√area of the truth, pixels"
        charts += plots.histogram(bars, spans, x_label=label, y_label="truths", colours=tones, log=True)
    return f'<div class="plots">{charts}</div>' if charts else "<p>Neither truths nor detections.</p>"


def show(
    result: Mapping[str, np.ndarray],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    classes: Sequence[str],
    score: float | Float[np.ndarray, " c"],
    enlarge: bool,
    skeleton: Sequence[tuple[int, int]] = (),
) -> Shown:
    """Show the detections on one image, the most confident first: boxes to 0.01 pixel, scores to 0.0001.

    Masks are COCO's run lengths, and drawn as a label image: a pixel's number is that of its object, from 1 on.

    Args:
      result: a row of the task's Result.
      image: upright RGB.
      classes: their names.
      score: the least confidence, or that of each class.
      enlarge: draw on a small image 2 or 4 times as large, so that labels can be read.
      skeleton: pairs of keypoints to join.
    """
    order = np.argsort(-result["scores"], kind="stable")
    least = np.broadcast_to(score, len(classes))[np.where(result["valid"], result["classes"], 0)]
    keep = order[(result["valid"] & (result["scores"] >= least))[order]]
    boxes, scores, labels = (result[name][keep] for name in ("boxes", "scores", "classes"))
    values = {
        "boxes": [[round(side, 2) for side in box] for box in boxes.tolist()],
        "scores": [round(value, 4) for value in scores.tolist()],
        "classes": labels.tolist(),
        "names": [classes[k] for k in labels],
    }
    size = (image.shape[0], image.shape[1])
    more = objects.values(result, keep.tolist())
    marked = marks(boxes, scores, labels, classes, objects.beside(more, size, skeleton))
    drawing = draw.detections(image, marked, scale=draw.enlargement(*size) if enlarge else 1)
    numbers = objects.label_image(more, size)
    return Shown(values | more, drawing, len(boxes), counted(values["names"]), objects=numbers)


def marks(
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    names: Sequence[str],
    beside: Sequence[Mapping[str, Any]] = (),
) -> list[Mark]:
    """Make the marks of detections, "name 0.87", the most confident last, so that it is drawn on top.

    Args:
      beside: of each detection, what its mark has otherwise, or more; none at all.
    """
    every = zip(boxes, map(float, scores), map(int, labels), beside or [{}] * len(boxes), strict=True)
    found = sorted(every, key=lambda item: item[1])
    return [
        Mark(box, f"{names[k]} {score:.2f}", **{"colour": draw.colour(k), "score": score, **more})
        for box, score, k, more in found
    ]


def _curves_chart(curves: Mapping[str, precision.Curve], tones: Mapping[str, str]) -> str:
    known = {name: curve for name, curve in curves.items() if curve.average >= 0}
    if len(known) <= MOST_LINES:
        series = [plots.Series(n, *_until_zero(c.recall, c.precision), colour=tones[n]) for n, c in known.items()]
    else:
        mean = np.mean([curve.precision for curve in known.values()], axis=0)
        series = [plots.Series(f"mean of {len(known)} classes", next(iter(known.values())).recall, mean)]
    chart = plots.lines(series, x_label="recall", y_label="precision", x_range=(0.0, 1.0), y_range=(0.0, 1.02))
    return chart.replace('class="plot"', 'class="plot curves"')


def _until_zero(recall: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a curve at the first recall that is not reached."""
    end = int(np.argmax(values <= 0)) + 1 if (values <= 0).any() else len(values)
    return recall[:end], values[:end]


def _confusions(source: Source, records: Records, found: Sequence[Finding]) -> str:
    """Name the pairs of classes taken for each other most often."""
    pairs = collections.Counter(
        (int(records[f.index]["classes"][f.truth]), f.label) for f in found if f.kind == "wrong class"
    )
    if not pairs:
        return ""
    words = (f"{source.classes[a]} taken for {source.classes[b]} ({n}×)" for (a, b), n in pairs.most_common(8))
    return f"<p>Most often confused: {html.escape(', '.join(words))}.</p>"


def _unread(number: int) -> str:
    return f" {number} could not be read." if number else ""


def _tone(kind: str) -> str:
    return "good" if kind == "correct" else "mute" if kind == "ignored" else "bad"


def _swatch(tone: str) -> str:
    return f'<i class="swatch" style="--series:{tone}"></i>'


def _gain(value: float) -> str:
    return "" if value < 0 else f"+{value:.3f}"


def _score(value: float) -> str:
    return "–" if value < 0 else f"{value:.3f}"
