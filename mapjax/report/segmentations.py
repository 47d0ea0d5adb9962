"""What a report shows of semantic segmentation: its classes, what it confuses, and maps beside images and truth."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mapjax.data import geometry, images
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.metrics import iou
from mapjax.report import captions, confusion, draw, overlay, plots, tables, thumbnails
from mapjax.report.section import SAID, Section, Shown
from mapjax.stages import VOID
from mapjax.task import Counts

PAIRS, SIDE = 12, 400  # SIDE: pixels
FIGURES = {"IoU": "IoU", "accuracy": "accuracy", "dice": "Dice", "boundary_f1": "boundary F1"}
PANELS = ("image", "truth", "prediction", "errors")


def sections(source: Source, counts: Counts, metrics: Mapping[str, Any]) -> list[Section]:
    """Make the sections of a report on label maps.

    Args:
      source: the evaluated split.
      counts: what mapjax.metrics.iou counted.
      metrics: "IoU/CLASS", … for the table.
    """
    scored = {index: iou.image_iou(counts["images"][index]) for index in counts["maps"]}
    worst = sorted(scored, key=lambda index: (scored[index], index))[: iou.WORST]
    evenly = [index for index in sorted(scored) if index not in worst] or sorted(scored)
    return [
        classes(source, counts, metrics),
        confused(source, counts),
        maps(source, counts, evenly, "Images", "From evenly through the split. "),
        maps(source, counts, worst, "Worst images", "Those with the lowest mean IoU of the classes in them first. "),
        spread(counts),
    ]


def classes(source: Source, counts: Counts, metrics: Mapping[str, Any]) -> Section:
    """Tabulate the classes, beside the confusion matrix unless they are too many for it."""
    matrix = counts["confusion"]
    numbers = {"true pixels": matrix.sum(1).tolist(), "predicted": matrix.sum(0).tolist()}
    body = tables.by_class(source.classes, numbers, metrics, FIGURES)
    note = "Click on the head of a column to sort by it."
    if len(source.classes) <= confusion.MOST_CLASSES:
        body = f'<div class="stack">{body}{confusion.heat_map(matrix, source.classes)}</div>'
        note += " In the matrix rows are the truth, and a cell's shade is its share of the row."
    never = [name for name, pixels in zip(source.classes, matrix.sum(1)) if not pixels]
    if never:
        note += f" No pixel here has the class {', '.join(never)}: left out of the means."
    return Section("Classes", body, note)


def confused(source: Source, counts: Counts) -> Section:
    """List the pairs of classes confused most often."""
    rows = [
        [
            *(tables.text(source.classes[k]) for k in (pair.truth, pair.predicted)),
            f"{pair.number:,}",
            f"{100 * pair.share:.1f} %",
        ]
        for pair in confusion.pairs(counts["confusion"], PAIRS)
    ]
    if not rows:
        return Section("Most confused", "<p>No pixel was taken for another class.</p>")
    columns = {"truth": "text", "taken for": "text", "pixels": "number", "of the class": "number"}
    return Section("Most confused", tables.listed(columns, rows))


def maps(source: Source, counts: Counts, indexes: Sequence[int], title: str, note: str) -> Section:
    """Show images with their truth, the prediction and where it is wrong."""
    shown, used = [], set[int]()
    for index in indexes:
        try:
            record = source.records[index]
            height, width = map(int, record["size"])
            image = images.read_as_labelled(record["image"], (height, width), stored=bool(record.get("stored")))
        except UserError:
            continue
        predicted, truth = counts["maps"][index], record["label_map"]
        used |= set(np.unique(truth).tolist()) | set(np.unique(predicted).tolist())
        name = html.escape(str(record["file"]))
        caption = f"{name} · mean IoU {iou.image_iou(counts['images'][index]):.3f}"
        shown.append(f"<figure>{_panels(image, truth, predicted)}<figcaption>{caption}</figcaption></figure>")
    if not shown:
        return Section(title, "<p>No image to show.</p>")
    keys = {source.classes[k]: draw.css(draw.colour(k)) for k in sorted(used) if k < len(source.classes)}
    heads = "".join(f"<span>{name}</span>" for name in PANELS)
    body = f'<div class="controls">{plots.legend(keys)}</div><div class="maps"><p>{heads}</p>{"".join(shown)}</div>'
    note += "Pixels without a true class are dark. In the last column blue is right and red wrong."
    return Section(title, body, note + thumbnails.unread(len(indexes) - len(shown)))


def spread(counts: Counts) -> Section:
    """Draw how the mean IoU is spread over the images."""
    values = [iou.image_iou(parts) for parts in counts["images"].values()]
    edges = np.linspace(0, 1, 21)
    bars = {"images": np.histogram(values, edges)[0]}
    chart = plots.histogram(bars, edges, x_label="mean IoU of an image", y_label="images")
    return Section("Images by score", f'<div class="plots">{chart}</div>', "Over the classes in each image.")


def show(
    result: Mapping[str, np.ndarray],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    classes: Sequence[str],
    score: float,
    enlarge: bool,
) -> Shown:
    """Show the classes of one image's pixels: over the image, with each class's share below it, and as a mask.

    Args:
      result: a row of the task's Result: "map_logits" (p q c), and the "matrix" that leads to its places.
      image: upright RGB.
      classes: their names.
      score: of no meaning here.
      enlarge: draw a small image larger.
    """
    del score
    labels = map_back(result["map_logits"], result["matrix"], image.shape[:2])
    shares = np.bincount(labels.ravel(), minlength=VOID + 1) / labels.size
    found = [k for k in np.argsort(-shares, kind="stable").tolist() if shares[k] > 0]
    painted = overlay.over(image, labels)
    lines = [(str(classes[k]), float(shares[k])) for k in found]
    drawing = captions.below(painted, lines, enlarge=enlarge, colours=[draw.colour(k) for k in found])
    values = {"shares": {name: round(share, 6) for name, share in lines}}
    said = ", ".join(f"{name} {share:.0%}" for name, share in lines[:SAID])
    return Shown(values, drawing, len(found), said, labels)


def map_back(
    logits: Float[np.ndarray, "p q c"], matrix: Float[np.ndarray, "3 3"], size: geometry.Size
) -> UInt8[np.ndarray, "h w"]:
    """Give the class of every pixel of an original image, sampling the scores bilinearly.

    Args:
      logits: a map of any size.
      matrix: original pixels → its places, as pixels of their own.
      size: of the image.
    """
    back = (geometry.translate(-0.5, -0.5) @ matrix.astype(np.float64) @ geometry.translate(0.5, 0.5))[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    best, labels = np.full(size, -np.inf, np.float32), np.zeros(size, np.uint8)
    for k in range(logits.shape[-1]):  # one class at a time: a large image has room for no more
        plane = np.ascontiguousarray(logits[..., k], np.float32)
        scores = cv2.warpAffine(plane, back, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        better = scores > best
        labels[better], best[better] = k, scores[better]
    return labels


def _panels(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> str:
    scale = SIDE / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        truth, predicted = (cv2.resize(one, size, interpolation=cv2.INTER_NEAREST) for one in (truth, predicted))
    urls = (
        draw.jpeg(image, longest=SIDE),
        overlay.url(truth, longest=SIDE),
        overlay.url(predicted, longest=SIDE),
        draw.jpeg(overlay.errors(image, truth, predicted), longest=SIDE),
    )
    return "".join(f'<img alt="{name}" title="{name}" loading="lazy" src="{url}"/>' for name, url in zip(PANELS, urls))
