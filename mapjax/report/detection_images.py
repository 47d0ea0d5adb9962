"""Images of a detector's report: truth beside predictions, and mistakes cut out of them."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mapjax.data import images, labels, run_lengths
from mapjax.data.source import Record, Source
from mapjax.errors import UserError
from mapjax.report import draw
from mapjax.report.draw import Mark
from mapjax.report.mistakes import Finding

SCORE = 0.5  # from here on a detection counts as shown; the page's slider moves it for the images
CONFIDENT = 2.0  # a keypoint's logit above which it is drawn, as Detectron does
MOST_LABELS = 12
IMAGE_SIDE, EXAMPLE_SIDE = 480, 200  # pixels
LETTERS, EXAMPLE_LETTERS = 46, 20  # across an image


def side_by_side(
    image: UInt8[np.ndarray, "h w 3"],
    record: Record,
    found: Sequence[Finding],
    names: Sequence[str],
    index: int,
    counted: Mapping[str, Any],
    lines: Sequence[tuple[int, int]] = (),
) -> str:
    """Draw truth and predictions on an image, side by side; the image is in the page once.

    Args:
      found: of its predictions.
      names: of the classes.
      index: of the record.
      counted: its predictions as counts hold them, for their masks and keypoints.
      lines: of the skeleton.
    """
    height, width = image.shape[:2]
    view = np.array([0, 0, width, height], np.float32)
    truth = truth_marks(record, names, lines)
    answered = labels.restore(counted)
    answers = [
        Mark(
            f.box,
            f"{names[f.label]} {f.score:.2f}",
            draw.colour(f.label),
            f"{names[f.label]} {f.score:.2f}: {f.kind}" + (f", IoU {f.iou:.2f}" if f.truth >= 0 else ""),
            dashed=f.kind not in ("correct", "ignored"),
            score=f.score,
            **beside(answered, f.row, (height, width), lines, CONFIDENT),
        )
        for f in reversed(found)
    ]
    few = max(len(truth), sum(f.score >= SCORE for f in found)) <= MOST_LABELS
    data = draw.jpeg(image, longest=IMAGE_SIDE)
    element = f'<image id="image-{index}" width="{width}" height="{height}" href="{data}"/>'
    panel = f'<svg class="image" viewBox="0 0 {width} {height}">'
    letters = LETTERS if few else 0
    return (
        f"<figure>{panel}{element}{draw.layer(truth, view, letters=letters)}</svg>"
        f'{panel}<use href="#image-{index}"/>{draw.layer(answers, view, letters=letters, least=SCORE)}</svg>'
        f"<figcaption>{html.escape(str(record['file']))}</figcaption></figure>"
    )


def truth_marks(record: Record, names: Sequence[str], lines: Sequence[tuple[int, int]] = ()) -> list[Mark]:
    """Make the marks of the objects of a record, with their masks and keypoints; crowds are dashed."""
    boxes, size = np.asarray(record["boxes"]).reshape(-1, 4), (int(record["size"][0]), int(record["size"][1]))
    return [
        Mark(
            box,
            names[int(k)],
            draw.colour(int(k)),
            f"{names[int(k)]} (crowd)" if crowd else "",
            dashed=bool(crowd),
            **beside(record, row, size, lines),
        )
        for row, (box, k, crowd) in enumerate(zip(boxes, record["classes"], record["crowd"]))
    ]


def beside(
    values: Mapping[str, Any],
    row: int,
    size: tuple[int, int],
    lines: Sequence[tuple[int, int]] = (),
    least: float = 0.0,
) -> dict[str, Any]:
    """Return what a Mark has beside the box of one object of an image of height, width.

    Args:
      lines: of the skeleton.
      least: keypoints whose visibility, or score, is above this are shown.
    """
    found: dict[str, Any] = {}
    if labels.has(values, "masks"):
        found["shape"] = run_lengths.bits(values["masks"][row], size)
    if labels.has(values, "keypoints"):
        points = np.array(values["keypoints"][row], np.float64)
        points[:, 2] = points[:, 2] > least
        found |= {"points": points, "lines": lines}
    return found


def cut_out(source: Source, record: Record, finding: Finding) -> str:
    """Cut a mistake out of its image with some surroundings; "" where the image cannot be read."""
    image = read(source.records[finding.index])
    if image is None:
        return ""
    names = source.classes
    drawn = []
    if finding.truth >= 0:
        k = int(record["classes"][finding.truth])
        tone = draw.colour(k) if finding.kind == "missed" else draw.WHITE
        name = names[k] if finding.kind == "missed" else ""
        drawn.append(Mark(np.asarray(record["boxes"])[finding.truth], name, tone, f"truth: {names[k]}", dashed=True))
    if finding.kind != "missed":
        drawn.append(Mark(finding.box, names[finding.label], draw.colour(finding.label), "prediction"))
    view = window([mark.box for mark in drawn], *image.shape[:2])
    x1, y1, x2, y2 = (int(v) for v in view)
    cut = image[max(y1, 0) : y2, max(x1, 0) : x2]
    caption = html.escape(names[finding.label])
    if finding.kind in ("wrong class", "both wrong"):
        caption += f" for {html.escape(names[int(record['classes'][finding.truth])])}"
    if finding.kind != "missed":
        caption += f" · {finding.score:.2f}" + (f" · IoU {finding.iou:.2f}" if finding.kind == "badly placed" else "")
    place = f'x="{max(x1, 0)}" y="{max(y1, 0)}"'
    return (
        f'<figure><svg class="image" viewBox="{x1} {y1} {x2 - x1} {y2 - y1}"><image {place} '
        f'width="{cut.shape[1]}" height="{cut.shape[0]}" href="{draw.jpeg(cut, longest=EXAMPLE_SIDE)}"/>'
        f"{draw.layer(drawn, view, letters=EXAMPLE_LETTERS)}</svg>"
        f'<figcaption title="{html.escape(str(record["file"]))}">{caption}</figcaption></figure>'
    )


def window(boxes: Sequence[np.ndarray], height: int, width: int) -> Float[np.ndarray, "4"]:
    """Choose a square around boxes with as much again beside them, moved into the image where it fits."""
    corners = np.asarray(boxes, np.float64)
    corners = np.clip(corners, 0, [width, height] * 2)
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    side = float(np.ceil(max((high - low).max() * 1.8, 24)))
    start = (low + high) / 2 - side / 2
    room = np.array([width, height]) - side
    start = np.floor(np.where(room >= 0, np.clip(start, 0, np.maximum(room, 0)), room / 2))
    return np.concatenate([start, start + side]).astype(np.float32)


def read(record: Record) -> UInt8[np.ndarray, "h w 3"] | None:
    """Read an image as its labels were drawn; None where it cannot be read."""
    height, width = map(int, record["size"])
    try:
        return images.read_as_labelled(record["image"], (height, width), stored=bool(record.get("stored")))
    except UserError:
        return None
