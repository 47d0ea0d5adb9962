"""Policies of augmentation: a few operations drawn at random, as torchvision defines them.

RandAugment (Cubuk et al. 2020) draws a number of operations of one magnitude, TrivialAugment (Müller & Hutter 2021,
its wide space) one operation of any. Those that move pixels become one matrix in the frame; those that colour them are
mappings of images, equal to Pillow's to one level of 255.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mapjax.data import geometry

Image = UInt8[np.ndarray, "h w 3"]
STRONGEST = 30  # the magnitude at which an operation reaches its range


class Range(NamedTuple):
    """How strong an operation gets in RandAugment and in TrivialAugment, and whether it goes both ways."""

    rand: float
    trivial: float
    signed: bool = True


class Step(NamedTuple):
    """One operation that was drawn, and how strong it is, in the unit of `OPERATIONS`."""

    name: str
    value: float


OPERATIONS: dict[str, Range] = {
    "identity": Range(0.0, 0.0, signed=False),
    "shear_x": Range(0.3, 0.99),  # tangent of the tilt
    "shear_y": Range(0.3, 0.99),
    "translate_x": Range(150 / 331, 32.0),  # a share of the frame's side; in TrivialAugment pixels
    "translate_y": Range(150 / 331, 32.0),
    "rotate": Range(30.0, 135.0),  # degrees
    "brightness": Range(0.9, 0.99),  # change of the factor 1
    "color": Range(0.9, 0.99),
    "contrast": Range(0.9, 0.99),
    "sharpness": Range(0.9, 0.99),
    "posterize": Range(4.0, 6.0, signed=False),  # bits that are dropped
    "solarize": Range(255.0, 255.0, signed=False),  # levels from the top that are inverted
    "autocontrast": Range(0.0, 0.0, signed=False),
    "equalize": Range(0.0, 0.0, signed=False),
    "invert": Range(0.0, 0.0, signed=False),
}
STANDARD = tuple(name for name in OPERATIONS if name != "invert")  # torchvision's set


def draw_rand_augment(
    rng: np.random.Generator, count: int, magnitude: int, frame: geometry.Size, names: Sequence[str] = ()
) -> list[Step]:
    """Draw the operations of RandAugment.

    Args:
      count: how many.
      magnitude: how strong, 0 to 30.
      frame: height, width.
      names: of the operations to draw from; by default `STANDARD`.
    """
    known = tuple(names) or STANDARD
    drawn = [known[index] for index in rng.integers(len(known), size=count).tolist()]
    sides = {"translate_x": frame[1], "translate_y": frame[0]}
    return [_step(rng, name, OPERATIONS[name].rand * sides.get(name, 1), magnitude) for name in drawn]


def draw_trivial_augment(rng: np.random.Generator, names: Sequence[str] = ()) -> list[Step]:
    """Draw the one operation of TrivialAugment, and its magnitude; args: as for `draw_rand_augment`."""
    known = tuple(names) or STANDARD
    name = known[int(rng.integers(len(known)))]
    return [_step(rng, name, OPERATIONS[name].trivial, int(rng.integers(STRONGEST + 1)))]


def matrix(steps: Sequence[Step], frame: geometry.Size) -> Float[np.ndarray, "3 3"]:
    """Return the mapping within a frame of height, width that the steps which move pixels make together."""
    height, width = frame
    return geometry.compose(*(_MOVES[name](value, width, height) for name, value in steps if name in _MOVES))


def change(steps: Sequence[Step], image: Image) -> Image:
    """Apply the steps that change colours, in their order."""
    for name, value in steps:
        if name in _CHANGES:
            image = _CHANGES[name](image, value)
    return image


def brightness(image: Image, factor: float | int) -> Image:
    """Multiply by a factor."""
    return cv2.LUT(image, _blend_table(0, factor))


def contrast(image: Image, factor: float | int) -> Image:
    """Multiply the distance from the image's mean luma by a factor."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.LUT(image, _blend_table(mean, factor))


def color(image: Image, factor: float | int) -> Image:
    """Multiply the distance of every pixel from its luma by a factor."""
    return _blend(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), image, factor)


def sharpness(image: Image, factor: float | int) -> Image:
    """Multiply the distance from the smoothed image by a factor; pixels at the border stay."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel / 13)[1:-1, 1:-1]
    return _blend(smooth, image, factor)


def posterize(image: Image, bits: int) -> Image:
    """Keep the highest bits, 0 to 8, of every value."""
    return image & np.uint8(256 - (1 << 8 - bits))


def solarize(image: Image, threshold: float | int) -> Image:
    """Invert the values that are not below a threshold."""
    levels = np.arange(256)
    return cv2.LUT(image, np.where(levels < threshold, levels, 255 - levels).astype(np.uint8))


def invert(image: Image) -> Image:
    """Swap light and dark."""
    return ~image


def autocontrast(image: Image) -> Image:
    """Stretch each channel to the full range from 0 to 255."""
    return cv2.LUT(image, _tables(image, _stretch))


def equalize(image: Image) -> Image:
    """Spread each channel so that its values come about equally often."""
    return cv2.LUT(image, _tables(image, _spread))


def _step(rng: np.random.Generator, name: str, strongest: float, magnitude: int) -> Step:
    value = strongest * magnitude / STRONGEST
    return Step(name, -value if OPERATIONS[name].signed and rng.random() <= 0.5 else value)


def _blend(from_image: Image, image: Image, factor: float | int) -> Image:
    """Go from one image to the other by a factor, which may be above 1."""
    rounding_down = -0.49999  # as Pillow does
    return cv2.addWeighted(image, float(factor), from_image, 1 - float(factor), rounding_down)


def _blend_table(level: int, factor: float | int) -> UInt8[np.ndarray, "256"]:
    """Return what becomes of each value when it moves away from a level by a factor; rounded down, as in Pillow."""
    values = level + np.float32(factor) * (np.arange(256, dtype=np.float32) - level)
    return np.clip(values, 0, 255).astype(np.uint8)


def _tables(image: Image, table: Callable[[np.ndarray], np.ndarray]) -> UInt8[np.ndarray, "1 256 3"]:
    """Make a table of new values for each channel from how often the old values come."""
    counts = (cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel() for channel in range(3))
    return np.stack([np.clip(table(count.astype(np.int64)), 0, 255).astype(np.uint8) for count in counts], -1)[None]


def _stretch(counts: np.ndarray) -> np.ndarray:
    low, high = np.flatnonzero(counts)[[0, -1]]
    if low == high:
        return np.arange(256)
    scale = 255.0 / (high - low)
    return np.arange(256) * scale + -low * scale  # in Pillow's order, which decides what is rounded down


def _spread(counts: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(counts)
    step = (counts.sum() - counts[present[-1]]) // 255
    if len(present) == 1 or step == 0:
        return np.arange(256)
    return (step // 2 + np.cumsum(counts) - counts) // step


_MOVES: dict[str, Callable[[float, int, int], Any]] = {
    "shear_x": lambda value, width, height: np.array([[1, -value, 0], [0, 1, 0], [0, 0, 1.0]]),
    "shear_y": lambda value, width, height: np.array([[1, 0, 0], [-value, 1, 0], [0, 0, 1.0]]),
    "translate_x": lambda value, width, height: geometry.translate(int(value), 0),
    "translate_y": lambda value, width, height: geometry.translate(0, int(value)),
    "rotate": lambda value, width, height: geometry.about(geometry.rotate(-value), width / 2, height / 2),
}
_CHANGES: dict[str, Callable[[Image, float], Image]] = {
    "brightness": lambda image, value: brightness(image, 1 + value),
    "color": lambda image, value: color(image, 1 + value),
    "contrast": lambda image, value: contrast(image, 1 + value),
    "sharpness": lambda image, value: sharpness(image, 1 + value),
    "posterize": lambda image, value: posterize(image, 8 - round(value)),
    "solarize": lambda image, value: solarize(image, 255 - value),
    "autocontrast": lambda image, value: autocontrast(image),
    "equalize": lambda image, value: equalize(image),
    "invert": lambda image, value: invert(image),
}
