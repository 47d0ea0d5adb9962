"""An image in a frame, by the cheapest way that is right: a copy, an upright resize, or one warp.

- Mirrored or shifted by whole pixels: copied, exactly.
- Upright, larger or smaller: Pillow's bilinear or bicubic filter, which widens as it shrinks (no aliasing):
  torchvision's pixels.
- Turned or tilted: averaged down by whole factors, then sampled bilinearly.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from mapjax.data import geometry

Image = UInt8[np.ndarray, "h w 3"]

FILTERS = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}

_NEAR = 1e-6  # of a pixel: the rounding of a product of matrices
_REDUCING_GAP = 3.0  # Pillow first averages by whole factors where more than this factor is left for its filter


class Axis(NamedTuple):
    """Along one axis: x ↦ magnify·x + shift, from `length` pixels of the image to `side` pixels of the frame."""

    magnify: float
    shift: float
    length: int
    side: int

    @property
    def mirrored(self) -> bool:
        return self.magnify < 0

    def upright(self) -> "Axis":
        """Return the mapping to the mirrored frame, if this one mirrors."""
        return Axis(-self.magnify, self.side - self.shift, *self[2:]) if self.mirrored else self


def resample(
    matrix: geometry.Matrix,
    image: Image,
    frame: geometry.Size,
    fill: tuple[int, ...],
    *,
    reflect: bool = False,
    interpolation: str = "bilinear",
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Map an image into a frame of height, width; always to new memory.

    Args:
      fill: the colour of pixels from outside the image.
      reflect: instead of that, go on beyond the border as in a mirror.
      interpolation: of an upright resize, a key of FILTERS.
    """
    (a, b, x), (c, d, y), _ = matrix.tolist()
    if b == 0 and c == 0 and a and d:
        across, down = Axis(a, x, image.shape[1], frame[1]), Axis(d, y, image.shape[0], frame[0])
        if _whole(across) and _whole(down):
            return _flip(_copy(image, down.upright(), across.upright(), fill, reflect), down, across)
        resized = None if reflect else _resize(image, down.upright(), across.upright(), fill, interpolation)
        if resized is not None:
            return _flip(resized, down, across)
    if not reflect:
        return geometry.map_image(matrix, image, frame, fill)
    image, matrix = geometry.shrink(image, matrix)
    centred = geometry.compose(geometry.translate(0.5, 0.5), matrix, geometry.translate(-0.5, -0.5))[:2]
    return cv2.warpAffine(image, centred, frame[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def cut(
    matrix: geometry.Matrix, image: Image, frame: geometry.Size, *, around: bool = True
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], geometry.Matrix]:
    """Keep only what the frame sees of an image, and as much around it as any filter needs.

    Args:
      around: whether filters are to look beyond the border of an upright frame.

    Returns:
      A view of the image, and the matrix from there.
    """
    (a, b, x), (c, d, y), _ = geometry.invert(matrix).tolist()
    more_x, more_y = (2 * math.ceil(shrink) + 1 if around or b or c else 0 for shrink in shrinkage(matrix))
    left, right = _seen(x, a * frame[1], b * frame[0], more_x, image.shape[1])
    top, bottom = _seen(y, c * frame[1], d * frame[0], more_y, image.shape[0])
    if (bottom - top, right - left) == image.shape[:2]:
        return image, matrix
    return image[top:bottom, left:right], matrix @ geometry.translate(left, top)


def shrinkage(matrix: geometry.Matrix) -> tuple[float, float]:
    """Return how many pixels of the image become one of the frame along x and along y of the image."""
    (a, b, _), (c, d, _), _ = matrix.tolist()
    return 1 / max(math.hypot(a, c), 1e-9), 1 / max(math.hypot(b, d), 1e-9)


def _seen(corner: float, across: float, down: float, more: int, length: int) -> tuple[int, int]:
    """Return the pixels from and to which a parallelogram with `more` around it reaches; at least one of `length`."""
    low = math.floor(corner + min(across, 0) + min(down, 0) + _NEAR) - more
    high = math.ceil(corner + max(across, 0) + max(down, 0) - _NEAR) + more
    first = min(max(low, 0), length - 1)
    return first, max(min(high, length), first + 1)


def _whole(axis: Axis) -> bool:
    return abs(axis.magnify) == 1 and abs(axis.shift - round(axis.shift)) < _NEAR


def _copy(image: Image, down: Axis, across: Axis, fill: tuple[int, ...], reflect: bool) -> np.ndarray:
    """Copy the window of the frame's size that begins at minus the shift."""
    starts = [-round(axis.shift) for axis in (down, across)]
    low = [max(start, 0) for start in starts]
    high = [min(start + axis.side, axis.length) for start, axis in zip(starts, (down, across))]
    if reflect and [high[0] - low[0], high[1] - low[1]] != [down.side, across.side]:
        rows, columns = (_mirror(start, axis) for start, axis in zip(starts, (down, across)))
        return image.take(rows, axis=0).take(columns, axis=1)
    copy = np.empty((down.side, across.side, 3), np.uint8)
    inside = [slice(a - start, b - start) for a, b, start in zip(low, high, starts)]
    if low[0] >= high[0] or low[1] >= high[1]:
        copy[:] = fill
        return copy
    if (high[0] - low[0], high[1] - low[1]) != copy.shape[:2]:
        copy[:] = fill
    copy[inside[0], inside[1]] = image[low[0] : high[0], low[1] : high[1]]
    return copy


def _mirror(start: int, axis: Axis) -> np.ndarray:
    """Return which pixel of the image shows at each of the frame: 2 1 0 1 2 … n-2 n-1 n-2 …"""
    period = max(2 * (axis.length - 1), 1)
    at = np.arange(start, start + axis.side) % period
    return np.minimum(at, period - at) if axis.length > 1 else at


def _resize(image: Image, down: Axis, across: Axis, fill: tuple[int, ...], interpolation: str) -> np.ndarray | None:
    """Resize the part that shows into its rectangle of the frame; None if that has no whole pixels' borders."""
    vertical, horizontal = _span(down), _span(across)
    if vertical is None or horizontal is None:
        return None
    (top, bottom, *source_y), (left, right, *source_x) = vertical, horizontal
    size, box = (right - left, bottom - top), (source_x[0], source_y[0], source_x[1], source_y[1])
    part = _filter(image, size, box, interpolation)
    if size == (across.side, down.side):
        return part
    whole = np.full((down.side, across.side, 3), fill, np.uint8)
    whole[top:bottom, left:right] = part
    return whole


def _filter(
    image: Image, size: tuple[int, int], box: tuple[float, float, float, float], interpolation: str
) -> np.ndarray:
    """Resize the part x1,y1,x2,y2 to width, height."""
    height, width = image.shape[:2]
    if interpolation == "bilinear" and box == (0, 0, width, height) and size[0] >= width and size[1] >= height:
        # Where nothing shrinks it is Pillow's to a level or two, in a tenth of the time.
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    converted = PIL.Image.fromarray(image)
    return np.array(converted.resize(size, FILTERS[interpolation], box=box, reducing_gap=_REDUCING_GAP))


def _span(axis: Axis) -> tuple[int, int, float, float] | None:
    """Return from where to where in the frame the image shows, and from where to where of the image that is."""
    start, end = max(axis.shift, 0.0), min(axis.shift + axis.magnify * axis.length, float(axis.side))
    first, last = round(start), round(end)
    if first >= last or abs(start - first) > _NEAR or abs(end - last) > _NEAR:
        return None
    source = ((at - axis.shift) / axis.magnify for at in (first, last))
    exact = (round(at) if abs(at - round(at)) < _NEAR else at for at in source)
    low, high = (min(max(float(at), 0.0), float(axis.length)) for at in exact)
    return first, last, low, high


def _flip(image: np.ndarray, down: Axis, across: Axis) -> np.ndarray:
    """Mirror new pixels where the axes do."""
    if not (down.mirrored or across.mirrored):
        return image
    return cv2.flip(image, -1 if down.mirrored and across.mirrored else int(across.mirrored))
