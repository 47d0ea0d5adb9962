"""Random augmentation of detection data: one matrix for the geometry, one function for the colours.

A config is a flat dict of the keys of `DEFAULTS`; what is left out is off:

    flip_horizontal  probability of mirroring left and right
    flip_vertical    probability of mirroring top and bottom
    crop             probability of looking at a random window of the picture instead of the whole
    crop_size        (low, high): the window's sides as a share of the picture's, each drawn on its own
    scale            (low, high): magnification about the centre, drawn evenly in the logarithm
    translate        largest shift, as a share of the picture's sides
    rotate           largest angle in degrees, either way
    shear            largest tilt in degrees, either way, in x and in y
    brightness       largest change of the gain: 0.3 multiplies by 0.7 to 1.3
    contrast         the same for the distance from the picture's mean
    saturation       the same for the distance from gray
    hue              largest turn of the colour circle in degrees, either way
    noise            largest standard deviation of Gaussian noise, of 255
    min_visible      a box is dropped when less than this share of its area is still in the frame
"""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from mapjax.data import geometry
from mapjax.errors import UserError, near

DEFAULTS: dict[str, Any] = {
    "flip_horizontal": 0.0,
    "flip_vertical": 0.0,
    "crop": 0.0,
    "crop_size": (0.5, 1.0),
    "scale": (1.0, 1.0),
    "translate": 0.0,
    "rotate": 0.0,
    "shear": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "noise": 0.0,
    "min_visible": 0.3,
}
_LIMITS = {"rotate": 180.0, "shear": 60.0, "hue": 180.0, "noise": 255.0}  # elsewhere 1
_PAIRS = ("crop_size", "scale")

# ITU-R BT.601: RGB to luma and two chroma axes, the plane in which hue is an angle.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = np.linalg.inv(_YIQ)

Colours = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w 3"]]


def complete(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config with every key, checked.

    Raises:
      UserError: an unknown key (the near ones are named) or a value out of its range.
    """
    given = dict(config or {})
    for key, value in given.items():
        if key not in DEFAULTS:
            raise UserError(f"there is no augmentation {key!r}.{near(key, DEFAULTS)}")
        if key in _PAIRS:
            top = 1.0 if key == "crop_size" else 100.0
            good = np.shape(value) == (2,) and 0 < value[0] <= value[1] <= top
            wanted = f"a pair 0 < low <= high <= {top:g}"
        else:
            top = _LIMITS.get(key, 1.0)
            good = isinstance(value, (int, float)) and 0 <= value <= top
            wanted = f"a number from 0 to {top:g}"
        if not good:
            raise UserError(f"the augmentation {key}={value!r} must be {wanted}.")
    return {**DEFAULTS, **given}


def draw_matrix(
    config: Mapping[str, Any], rng: np.random.Generator, size: geometry.Size, frame: geometry.Size
) -> geometry.Matrix:
    """Draw the mapping of one picture of `size` (height, width) into `frame`.

    The window (the whole picture, if there is no crop) is letterboxed into the frame, and mirrored, turned, tilted,
    magnified and shifted about its centre there. Pixels of the picture around the window show where there is room.

    Args:
      config: from `complete`.
    """
    left, top, width, height = 0.0, 0.0, float(size[1]), float(size[0])
    if rng.random() < config["crop"]:
        share = rng.uniform(*config["crop_size"], size=2)
        left, top = rng.random(2) * (1 - share) * (width, height)
        width, height = share * (width, height)
    fit = geometry.letterbox((height, width), frame)
    width, height = width * fit[0, 0], height * fit[1, 1]
    centre = width / 2, height / 2
    mirror = geometry.scale(*np.where(rng.random(2) < (config["flip_horizontal"], config["flip_vertical"]), -1.0, 1.0))
    zoom = geometry.scale(float(np.exp(rng.uniform(*np.log(config["scale"])))))
    tilt = geometry.shear(*(config["shear"] * rng.uniform(-1, 1, size=2)))
    turn = geometry.rotate(config["rotate"] * rng.uniform(-1, 1))
    shift = geometry.translate(*(config["translate"] * rng.uniform(-1, 1, size=2) * (width, height)))
    moved = geometry.about(geometry.compose(mirror, zoom, tilt, turn), *centre)
    return geometry.compose(geometry.crop(left, top), fit, moved, shift)


def draw_colours(config: Mapping[str, Any], rng: np.random.Generator) -> Colours:
    """Draw the change of colours of one picture: one 3×3 matrix for hue, saturation, contrast and brightness; noise.

    Args:
      config: from `complete`.
    """
    names = ("brightness", "contrast", "saturation")
    brightness, contrast, saturation = (1 + config[name] * rng.uniform(-1, 1) for name in names)
    hue = np.deg2rad(config["hue"] * rng.uniform(-1, 1))
    deviation = config["noise"] * rng.random()
    noise_seed = rng.integers(2**63)
    turn = saturation * np.array([[np.cos(hue), -np.sin(hue)], [np.sin(hue), np.cos(hue)]])
    chroma = np.eye(3)
    chroma[1:, 1:] = turn
    linear = brightness * _RGB @ chroma @ _YIQ
    unchanged = np.allclose(contrast * linear, np.eye(3))

    def change(image: np.ndarray) -> np.ndarray:
        if not unchanged:
            mean = linear @ np.array(cv2.mean(image)[:3])
            # One grey level, so that contrast leaves the tint alone.
            offset = np.full((3, 1), (1 - contrast) * (_YIQ[0] @ mean))
            image = cv2.transform(image, np.hstack([contrast * linear, offset]))
        if deviation > 0:
            noise = np.random.default_rng(noise_seed).standard_normal(image.shape, np.float32) * np.float32(deviation)
            image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
        return image

    return change
