"""Boxes with labels on images: as pixels to save, and as an SVG layer for a page."""

import base64
import colorsys
import html
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import simplejpeg
from jaxtyping import Bool, Float, UInt8

from mapjax.report import shapes
from mapjax.runtime.names import shown

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
MOST_BOXES = 30  # objects with masks from which on boxes and labels would hide them
_PALETTE = ("2f7ae5", "f08a24", "1fa971", "d6408f", "8b5cf6", "12a5bd", "c99a06", "e5484d", "6b8e23", "a0643c")


class Mark(NamedTuple):
    """One box to show: x1,y1,x2,y2 in pixels of the image, its label, colour, a hover text, dashed or not.

    score: for a page whose slider hides boxes below a score; None for a box that always shows.
    shape: its mask.
    points: its keypoints x,y,seen, and `lines`, the pairs of them to join.
    """

    box: Float[np.ndarray, "4"]
    label: str
    colour: Colour
    title: str = ""
    dashed: bool = False
    score: float | None = None
    shape: Bool[np.ndarray, "h w"] | None = None
    points: Float[np.ndarray, "k 3"] | None = None
    lines: Sequence[tuple[int, int]] = ()


def colour(number: int) -> Colour:
    """Give the n-th class its red, green, blue; ten picked by hand, then hues a golden angle apart."""
    if number < len(_PALETTE):
        return tuple(bytes.fromhex(_PALETTE[number]))  # type: ignore[return-value]
    hue = (number * 0.618034) % 1
    red, green, blue = colorsys.hls_to_rgb(hue, 0.42 + 0.16 * (number % 2), 0.7)
    return round(255 * red), round(255 * green), round(255 * blue)


def css(colour: Colour) -> str:
    """Write a colour for CSS."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def detections(
    image: UInt8[np.ndarray, "h w 3"], marks: Sequence[Mark], *, scale: int = 1
) -> UInt8[np.ndarray, "sh sw 3"]:
    """Draw boxes and labels, masks and skeletons on a copy of an image; of many with masks, no boxes and labels.

    Args:
      image: RGB.
      marks: what to draw, the last on top.
      scale: enlarge the image this many times first (`enlargement` picks one), so that lines stay thin and
        letters readable on a small one.
    """
    height, width = (side * scale for side in image.shape[:2])
    if scale > 1:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    side = (height * width) ** 0.5
    thick = max(1, round(side / 320))
    masked = [(mark.shape, mark.colour) for mark in marks if mark.shape is not None]
    image = shapes.fill(image, [mask for mask, _ in masked], [tone for _, tone in masked], thick)
    canvas = PIL.Image.fromarray(image)
    pen = PIL.ImageDraw.Draw(canvas, "RGB")
    font = PIL.ImageFont.load_default(max(10, round(side / 42)))
    boxed = [mark for mark in marks if mark.shape is None or len(marks) <= MOST_BOXES]
    for mark in boxed:
        _draw_box(pen, mark, scale, thick, (width, height))
    if posed := [(mark, mark.points) for mark in marks if mark.points is not None]:
        drawn = np.array(canvas)
        for mark, points in posed:
            shapes.join(drawn, points, mark.lines, mark.colour, scale, thick)
        canvas = PIL.Image.fromarray(drawn)
        pen = PIL.ImageDraw.Draw(canvas, "RGB")
        for mark, points in posed:
            shapes.dot(pen, points, _colours(mark), scale, thick)
    for mark in boxed:
        _draw_label(pen, mark, scale, thick, font, (width, height))
    return np.asarray(canvas)


def enlargement(height: int, width: int) -> int:
    """Choose how many times a small image is enlarged for drawing: 4 below 160 pixels, 2 below 400, else 1."""
    longest = max(height, width)
    return 4 if longest <= 160 else 2 if longest <= 400 else 1


def layer(marks: Sequence[Mark], view: Float[np.ndarray, "4"], *, letters: int = 46, least: float = 0.0) -> str:
    """Write boxes as SVG elements for an image whose viewBox is `view` (x1,y1,x2,y2, in the marks' pixels).

    Args:
      letters: labels are so large that this many letters fill the width; 0: no labels.
      least: marks of a lower score are there, but hidden (class "low") until the page's slider shows them.
    """
    size = float(view[2] - view[0]) / (0.62 * max(letters, 1))
    parts = []
    for mark in marks:
        x1, y1, x2, y2 = (float(v) for v in mark.box)
        place = f'x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0.1):.1f}" height="{max(y2 - y1, 0.1):.1f}"'
        name, tone = html.escape(mark.label), css(mark.colour)
        states = {"dashed": mark.dashed, "light": _ink(mark.colour) != WHITE, "low": (mark.score or least) < least}
        kind = " ".join(["mark", *(state for state, holds in states.items() if holds)])
        score = "" if mark.score is None else f' data-score="{mark.score:.3f}"'
        text = ""
        if letters and name:
            top = y1 - size * 0.3 if y1 - size > view[1] else y1 + size
            left = min(max(x1, float(view[0])), float(view[2]) - 0.64 * size * len(mark.label))
            left = max(left, float(view[0])) + size * 0.15
            text = f'<text x="{left:.1f}" y="{top:.1f}" font-size="{size:.1f}">{name}</text>'
        box = f"<rect {place}/>" if mark.shape is None or len(marks) <= MOST_BOXES else ""
        more = "" if mark.shape is None else f'<path fill-rule="evenodd" d="{shapes.path(mark.shape)}"/>'
        if mark.points is not None:
            tones = () if mark.lines else tuple(map(css, _colours(mark)))
            more += shapes.skeleton(mark.points, mark.lines, float(view[2] - view[0]) / 160, tones)
        parts.append(
            f'<g class="{kind}" style="--tone:{tone}"{score}><title>{html.escape(mark.title or mark.label)}</title>'
            f"{more}{box}{text}</g>"
        )
    return "".join(parts)


def jpeg(image: UInt8[np.ndarray, "h w 3"], *, longest: int, quality: int = 82) -> str:
    """Encode an image, shrunk to at most `longest` pixels a side, as a data URL."""
    scale = longest / max(image.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", "420")
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _colours(mark: Mark) -> list[Colour]:
    """Give each keypoint the colour of its object, or where no line tells them apart one of its own."""
    count = 0 if mark.points is None else len(mark.points)
    return [mark.colour if mark.lines else colour(number) for number in range(count)]


def _draw_box(pen: PIL.ImageDraw.ImageDraw, mark: Mark, scale: int, thick: int, size: tuple[int, int]) -> None:
    left, top, right, bottom = _inside(mark, scale, size)
    frame = (*mark.colour,)
    if not mark.dashed:
        pen.rectangle((left, top, right, bottom), outline=frame, width=thick)
        return
    dash = 4 * thick
    for start in range(left, right, 2 * dash):
        for y in (top, bottom - thick + 1):
            pen.rectangle((start, y, min(start + dash, right), y + thick - 1), fill=frame)
    for start in range(top, bottom, 2 * dash):
        for x in (left, right - thick + 1):
            pen.rectangle((x, start, x + thick - 1, min(start + dash, bottom)), fill=frame)


def _draw_label(pen, mark: Mark, scale: int, thick: int, font, size: tuple[int, int]) -> None:
    """Write the label on a tag in the box's colour, above the box or inside it at the top; not where it cannot fit."""
    if not mark.label:
        return
    left, top, _, _ = _inside(mark, scale, size)
    text = shown(mark.label)
    x1, y1, x2, y2 = (round(v) for v in pen.textbbox((0, 0), text, font=font))
    pad = max(2, (y2 - y1) // 4)
    wide, high = x2 - x1 + 2 * pad, y2 - y1 + 2 * pad
    if wide > size[0] or high > size[1]:
        return
    left = max(0, min(left, size[0] - wide))
    top = top - high + thick if top - high + thick >= 0 else top
    pen.rectangle((left, top, left + wide - 1, top + high - 1), fill=mark.colour)
    pen.text((left + pad - x1, top + pad - y1), text, font=font, fill=_ink(mark.colour))


def _inside(mark: Mark, scale: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Round a box to whole pixels of the image: a crisp line needs no smoothing."""
    corners = np.asarray(mark.box, np.float64) * scale
    x1, y1, x2, y2 = np.clip(np.rint(corners), 0, [size[0] - 1, size[1] - 1] * 2).astype(int).tolist()
    return x1, y1, max(x1, x2), max(y1, y2)


def _ink(colour: Colour) -> Colour:
    """Choose black or white letters by the luminance of the tag."""
    red, green, blue = colour
    return (20, 20, 20) if 0.299 * red + 0.587 * green + 0.114 * blue > 165 else WHITE
