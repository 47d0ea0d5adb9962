"""An image with the classes that it was given, written below it: pixels to save."""

from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import UInt8

from mapjax.runtime.names import shown

WIDTH = 240  # pixels, at least, so that names can be read
_PAPER, _INK, _BAR = (24, 27, 33), (240, 242, 246), (47, 122, 229)


def below(
    image: UInt8[np.ndarray, "h w 3"],
    lines: Sequence[tuple[str, float]],
    *,
    enlarge: bool = False,
    colours: Sequence[tuple[int, int, int]] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Write a line for each class below an image, on a bar as long as its probability.

    Args:
      image: RGB.
      lines: names and probabilities, 0 to 1.
      enlarge: show an image that is less than WIDTH wide and high as many whole times larger as fit; up to 64 pixels
        long without smoothing.
      colours: of the bars, which are blue without.
    """
    height, width = image.shape[:2]
    times = max(1, WIDTH // max(height, width)) if enlarge else 1
    if times > 1:
        kind = cv2.INTER_NEAREST if max(height, width) <= 64 else cv2.INTER_CUBIC
        image = cv2.resize(image, (width * times, height * times), interpolation=kind)
    height, width = image.shape[:2]
    across = max(width, WIDTH)
    font = PIL.ImageFont.load_default(max(13, round(across / 32)))
    row = round(1.7 * max(13, round(across / 32)))
    canvas = PIL.Image.new("RGB", (across, height + row * len(lines)), _PAPER)
    canvas.paste(PIL.Image.fromarray(image), ((across - width) // 2, 0))
    pen = PIL.ImageDraw.Draw(canvas)
    for number, (name, probability) in enumerate(lines):
        top = height + number * row
        bar = colours[number] if colours else _BAR
        pen.rectangle((0, top + 1, round((across - 1) * min(max(probability, 0), 1)), top + row - 2), fill=bar)
        value = f"{probability:.2f}"
        room = across - 18 - pen.textlength(value, font=font)
        pen.text((6, top + row // 2), _fitting(pen, name, room, font), font=font, fill=_INK, anchor="lm")
        pen.text((across - 6, top + row // 2), value, font=font, fill=_INK, anchor="rm")
    return np.asarray(canvas)


def _fitting(pen: PIL.ImageDraw.ImageDraw, name: str, room: float, font) -> str:
    """Cut a name that is longer than `room` pixels."""
    name = shown(" ".join(name.split()))
    if pen.textlength(name, font=font) <= room:
        return name
    while name and pen.textlength(name + "…", font=font) > room:
        name = name[:-1]
    return name + "…"
