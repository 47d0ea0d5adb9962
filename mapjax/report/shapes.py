"""Masks and keypoints of objects on images: as pixels, and as SVG for a page."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Colour = tuple[int, int, int]

_STRENGTH = 0.45  # of a mask's colour over the image
_RIM: Colour = (255, 255, 255)  # around lines and dots
_SHIFT = 4  # binary digits behind the point of places that OpenCV draws at
_FARTHEST = 1e5  # pixels


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
    image: UInt8[np.ndarray, "h w 3"],
    points: Float[np.ndarray, "k 3"],
    lines: Sequence[tuple[int, int]],
    colour: Colour,
    scale: int,
    thick: int,
) -> None:
    """Draw the lines of a skeleton between keypoints x,y,seen of which the last is above 0, onto an image.

    Args:
      scale: pixels drawn for one of the image.
      thick: half the width of a line, in drawn pixels.
    """
    places, known = _placed(points, scale)
    at = [tuple(map(int, place)) for place in np.rint(np.clip(places, -_FARTHEST, _FARTHEST) * 2**_SHIFT)]
    for start, end in lines:
        if known[start] and known[end]:
            for tone, width in ((_RIM, 2 * thick + 2), (colour, 2 * thick)):
                cv2.line(image, at[start], at[end], tone, width, cv2.LINE_AA, _SHIFT)


def dot(pen, points: Float[np.ndarray, "k 3"], colours: Sequence[Colour], scale: int, thick: int) -> None:
    """Draw keypoints x,y,seen of which the last is above 0.

    Args:
      pen: a PIL.ImageDraw.
      colours: of each.
      scale, thick: as of `join`.
    """
    places, known = _placed(points, scale)
    reach = 2.0 * thick
    for row in np.flatnonzero(known).tolist():
        x, y = places[row]
        pen.ellipse((x - reach - 1, y - reach - 1, x + reach + 1, y + reach + 1), fill=_RIM)
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colours[row])


def _placed(points: Float[np.ndarray, "k 3"], scale: int) -> tuple[Float[np.ndarray, "k 2"], Bool[np.ndarray, "k"]]:
    """Say where keypoints are in a drawing, and which are seen; a pixel's centre is half a pixel from its edge."""
    return np.asarray(points, np.float64)[:, :2] * scale - 0.5, np.asarray(points)[:, 2] > 0


def path(mask: Bool[np.ndarray, "h w"]) -> str:
    """Write the outline of a mask as the `d` of an SVG path, holes too, a quarter pixel within its edges."""
    double = np.repeat(np.repeat(mask.view(np.uint8), 2, axis=0), 2, axis=1)
    rings, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in ((ring[:, 0] + 0.5) / 2).tolist()) + "Z" for ring in rings)


def skeleton(
    points: Float[np.ndarray, "k 3"], lines: Sequence[tuple[int, int]], radius: float, tones: Sequence[str] = ()
) -> str:
    """Write keypoints and the lines between them, as `join` and `dot` draw them, as SVG elements.

    Args:
      tones: colours of the keypoints, as CSS has them; () where the mark around them has one.
    """
    places, known = np.asarray(points, np.float64), np.asarray(points)[:, 2] > 0
    joined = "".join(
        f'<line x1="{places[a, 0]:.1f}" y1="{places[a, 1]:.1f}" x2="{places[b, 0]:.1f}" y2="{places[b, 1]:.1f}"/>'
        for a, b in lines
        if known[a] and known[b]
    )
    dots = ""
    for row in np.flatnonzero(known).tolist():
        own = f' style="--tone:{tones[row]}"' if tones else ""
        dots += f'<circle cx="{places[row, 0]:.1f}" cy="{places[row, 1]:.1f}" r="{radius:.1f}"{own}/>'
    return joined + dots
