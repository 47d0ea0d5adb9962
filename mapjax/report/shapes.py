"""Masks and keypoints of objects on images: as pixels, and as SVG for a page."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Colour = tuple[int, int, int]

_STRENGTH = 0.45  # of a mask's colour over the image


def fill(
    image: UInt8[np.ndarray, "h w 3"], masks: Sequence[Bool[np.ndarray, "_ _"]], colours: Sequence[Colour], thick: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Tint each mask, the last on top, and draw its outline in full colour within it.

    Args:
      masks: of an image that `image` is a whole number of times as large as.
      thick: pixels of an outline.
    """
    found = image.copy()
    for mask, colour in zip(masks, colours, strict=True):
        scale = image.shape[0] // mask.shape[0]
        large = np.repeat(np.repeat(mask, scale, axis=0), scale, axis=1)
        inside = cv2.erode(large.view(np.uint8), np.ones((3, 3)), iterations=thick, borderValue=0).astype(bool)
        tint = (1 - _STRENGTH) * found[inside] + _STRENGTH * np.array(colour)
        found[inside] = np.rint(tint).astype(np.uint8)
        found[large & ~inside] = colour
    return found


def join(
    pen, points: Float[np.ndarray, "k 3"], lines: Sequence[tuple[int, int]], colour: Colour, scale: int, thick: int
) -> None:
    """Draw keypoints x,y,seen of which the last is above 0, and the lines of a skeleton between such.

    Args:
      pen: a PIL.ImageDraw.
      scale: pixels drawn for one of the image.
      thick: of a line, in drawn pixels.
    """
    places = np.asarray(points, np.float64)[:, :2] * scale - 0.5  # a pixel's centre is half a pixel from its edge
    known = np.asarray(points)[:, 2] > 0
    for start, end in lines:
        if known[start] and known[end]:
            ends = [*places[start], *places[end]]
            pen.line(ends, fill=(255, 255, 255), width=2 * thick + 2)
            pen.line(ends, fill=colour, width=2 * thick)
    reach = 2.0 * thick
    for x, y in places[known]:
        pen.ellipse((x - reach - 1, y - reach - 1, x + reach + 1, y + reach + 1), fill=(255, 255, 255))
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)


def path(mask: Bool[np.ndarray, "h w"]) -> str:
    """Write the outline of a mask as the `d` of an SVG path, holes too, a quarter pixel within its edges."""
    double = np.repeat(np.repeat(mask.view(np.uint8), 2, axis=0), 2, axis=1)
    rings, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in ((ring[:, 0] + 0.5) / 2).tolist()) + "Z" for ring in rings)


def skeleton(points: Float[np.ndarray, "k 3"], lines: Sequence[tuple[int, int]], radius: float) -> str:
    """Write keypoints and the lines between them, as `join` draws them, as SVG elements."""
    places, known = np.asarray(points, np.float64), np.asarray(points)[:, 2] > 0
    joined = "".join(
        f'<line x1="{places[a, 0]:.1f}" y1="{places[a, 1]:.1f}" x2="{places[b, 0]:.1f}" y2="{places[b, 1]:.1f}"/>'
        for a, b in lines
        if known[a] and known[b]
    )
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>' for x, y, _ in places[known])
    return joined + dots
