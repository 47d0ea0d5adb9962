"""How a whole image comes into a frame: where it lies, and with which filter it is shown.

Other than by "letterbox" and "stretch", an image may be seen by the length of its shorter side, as torchvision's
detectors and segmenters see theirs. A frame then goes with each image, and images of another shape compile anew.
Augmentation, of which all images have one frame, stretches what "stretch" does, and letterboxes otherwise.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from mapjax.data import geometry
from mapjax.data.transforms import resample
from mapjax.errors import UserError, near

Image = UInt8[np.ndarray, "_ _ 3"]
KINDS = ("letterbox", "stretch", "shorter")


class Fit(NamedTuple):
    """How images come into frames.

    place(size) -> (frame, matrix): the frame (height, width) of an image of that size, and the way there.
    show(matrix, image, frame, fill) -> the pixels of the frame; `fill` is the colour beside the image.
    window(size, frame) -> the way from a window of that size (height, width) into the frame, in augmentation.
    """

    place: Callable[[geometry.Size], tuple[geometry.Size, geometry.Matrix]]
    show: Callable[[geometry.Matrix, Image, geometry.Size, tuple[int, ...]], Image]
    window: geometry.Window = geometry.letterbox


def choose(
    kind: str, frame: geometry.Size, *, shorter: int = 800, longest: int = 0, multiple: int = 0, smooth: bool = True
) -> Fit:
    """Choose a fit.

    Args:
      kind: "letterbox": the whole image, magnified until it just fits, at the top left; "stretch": its sides scaled on
        their own; "shorter": at the top left, with its shorter side of a length.
      frame: height, width of the one frame of all images.
      shorter: side of the image in pixels for "shorter": it has this length, unless the other would be longer than
        `longest`; rounded as in `resized`.
      longest: for "shorter", the most pixels of the longer side (0: however long).
      multiple: for "shorter", each image has the frame of its own size, rounded up to multiples of this; 0: all have
        `frame`, and what is too large for it is letterboxed.
      smooth: for "shorter" and "stretch", average where the image shrinks, as torchvision's segmenters and
        transformers' detectors do; torchvision's detectors do not.

    Raises:
      UserError: an unknown kind, or sides or a multiple that cannot be.
    """
    if kind not in KINDS:
        raise UserError(f"transform.fit={kind!r} is not known.{near(kind, KINDS)}")
    if shorter < 1 or (longest and longest < shorter) or multiple < 0:
        raise UserError(
            f"transform.shorter={shorter} must be pixels, transform.longest={longest} as many or more, or 0 for no "
            f"limit, and transform.multiple={multiple} pixels, or 0 for one frame."
        )
    if kind == "letterbox":
        return Fit(lambda size: (frame, geometry.letterbox(size, frame)), _warp)
    shown = resample.resample if smooth else _sample
    if kind == "stretch":
        return Fit(lambda size: (frame, geometry.stretch(size, frame)), shown, geometry.stretch)

    def place(size: geometry.Size) -> tuple[geometry.Size, geometry.Matrix]:
        sides = resized(size, shorter, longest, nearest=smooth)
        if not multiple and (sides[0] > frame[0] or sides[1] > frame[1]):
            return frame, geometry.letterbox(size, frame)
        own = (-(-sides[0] // multiple) * multiple, -(-sides[1] // multiple) * multiple) if multiple else frame
        return own, geometry.stretch(size, sides)

    return Fit(place, shown)


def resized(size: geometry.Size, shorter: int, longest: int, *, nearest: bool = False) -> geometry.Size:
    """Give the height, width at which an image is seen, rounded down as torchvision does.

    With a longest side both are products with one scale, as in its detectors, so that of 800 pixels 799 may be left;
    or with `nearest`, the shorter side is rounded to the nearest where the longest holds, as for DETR.
    """
    least, most = min(size), max(size)
    if not longest or nearest:
        exact = longest * least / most if longest and most / least * shorter > longest else float(shorter)
        height, width = (max(round(exact), 1) if side == least else int(exact * side / least) for side in size)
        return height, width
    scale = min(shorter / least, longest / most)
    return max(math.floor(size[0] * scale), 1), max(math.floor(size[1] * scale), 1)


def _warp(matrix: geometry.Matrix, image: Image, frame: geometry.Size, fill: tuple[int, ...]) -> Image:
    small, onward = geometry.shrink(image, matrix)
    return geometry.map_image(onward, small, frame, fill)


def _sample(matrix: geometry.Matrix, image: Image, frame: geometry.Size, fill: tuple[int, ...]) -> Image:
    """Show an image at the top left by sampling between four pixels, however much it shrinks."""
    width, height = max(round(matrix[0, 0] * image.shape[1]), 1), max(round(matrix[1, 1] * image.shape[0]), 1)
    shown = np.full((*frame, 3), fill, np.uint8)
    shown[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return shown
