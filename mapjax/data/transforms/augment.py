"""Random augmentation: one matrix for the geometry, one function for the colours.

A config is a flat dict of the keys of `DEFAULTS` (images with boxes) or `WHOLE` (images with a label); what is left
out is off. Of both:

    flip_horizontal  probability of mirroring left and right
    flip_vertical    probability of mirroring top and bottom
    scale            (low, high): magnification about the centre, drawn evenly in the logarithm
    translate        largest shift, as a share of the image's sides
    rotate           largest angle in degrees, either way
    shear            largest tilt in degrees, either way, in x and in y
    brightness       largest change of the gain: 0.3 multiplies by 0.7 to 1.3
    contrast         the same for the distance from the image's mean
    saturation       the same for the distance from gray
    hue              largest turn of the colour circle in degrees, either way
    noise            largest standard deviation of Gaussian noise, of 255

Of images with boxes (transforms.py):

    crop             probability of looking at a random window of the image instead of the whole
    crop_size        (low, high): the window's sides as a share of the image's, each drawn on its own
    jitter           (low, high): large-scale jitter: the image is put into the frame, magnified by a factor drawn
                     evenly, and put down, or cut off, anywhere in the frame (Ghiasi et al. 2021: 0.1 to 2)
    iou_crop         probability of SSD's crop: a window of which some box has a drawn IoU (iou_crops.py)
    min_visible      a box is dropped when less than this share of its area is still in the frame

Of images with a label (crops.py):

    random_resized_crop  (low, high): a window of that share of the image's area fills the frame (Szegedy et al. 2015)
    crop_ratio           (low, high): the window's width by its height, drawn evenly in the logarithm
    pad_crop             the image is shifted by up to so many pixels either way, and what is missing is reflected
    rand_augment         (number, magnitude 0 to 30) of operations an image (Cubuk et al. 2020)
    trivial_augment      probability of one operation of any magnitude (Müller & Hutter 2021)
    policy               names of the operations that those two draw from; () is torchvision's set (policies.py)
    erase                probability of erasing a rectangle (Zhong et al. 2020)
    erase_area           (low, high): its area as a share of the frame's
    erase_ratio          (low, high): its height by its width, drawn evenly in the logarithm
    erase_fill           what it is filled with: "random" pixels, or the "mean" colour, which is the transform's `fill`
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from mapjax.data import geometry
from mapjax.data.transforms import iou_crops, policies
from mapjax.errors import UserError, near

MOTIONS: dict[str, Any] = {"scale": (1.0, 1.0), "translate": 0.0, "rotate": 0.0, "shear": 0.0}
COLOURS = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "noise": 0.0}
_BOTH: dict[str, Any] = {"flip_horizontal": 0.0, "flip_vertical": 0.0, **MOTIONS, **COLOURS}
DEFAULTS: dict[str, Any] = {**_BOTH, "crop": 0.0, "crop_size": (0.5, 1.0), "min_visible": 0.3}
DEFAULTS |= {"jitter": (), "iou_crop": 0.0}
WHOLE: dict[str, Any] = {
    **_BOTH,
    "random_resized_crop": (),
    "crop_ratio": (3 / 4, 4 / 3),
    "pad_crop": 0,
    "rand_augment": (),
    "trivial_augment": 0.0,
    "policy": (),
    "erase": 0.0,
    "erase_area": (0.02, 0.33),
    "erase_ratio": (0.3, 3.3),
    "erase_fill": "random",
}
_LIMITS = {"rotate": 180.0, "shear": 60.0, "hue": 180.0, "noise": 255.0}  # elsewhere 1
_PAIRS = {"crop_size": 1.0, "scale": 100.0, "random_resized_crop": 1.0, "erase_area": 1.0}  # the largest high
_PAIRS |= {"crop_ratio": 100.0, "erase_ratio": 100.0, "jitter": 10.0}
_FILLS = ("random", "mean")

# ITU-R BT.601: RGB to luma and two chroma axes, the plane in which hue is an angle.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = np.linalg.inv(_YIQ)

Colours = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h w 3"]]


def complete(config: Mapping[str, Any] | None, defaults: Mapping[str, Any] = DEFAULTS) -> dict[str, Any]:
    """Return the config with every key, checked.

    Args:
      defaults: the keys there are: `DEFAULTS` or `WHOLE`.

    Raises:
      UserError: an unknown key (the near ones are named) or a value out of its range.

    Example:
      >>> from mapjax.data.transforms import augment
      >>> config = augment.complete({"rotate": 10.0})
      >>> config["rotate"], config["flip_horizontal"]
      (10.0, 0.0)
    """
    given = dict(config or {})
    for key, value in given.items():
        if key not in defaults:
            raise UserError(f"there is no augmentation {key!r}.{near(key, defaults)}")
        good, wanted = _judge(key, value, defaults[key])
        if not good:
            raise UserError(f"the augmentation {key}={value!r} must be {wanted}.")
    return {**defaults, **given}


def _judge(key: str, value: Any, default: Any) -> tuple[bool, str]:
    """Tell whether a value is good, and what good ones are."""
    off = default == () and np.shape(value) == (0,)
    if key in _PAIRS:
        good = np.shape(value) == (2,) and all(map(_number, value)) and 0 < value[0] <= value[1] <= _PAIRS[key]
        return off or good, f"a pair 0 < low <= high <= {_PAIRS[key]:g}"
    if key == "rand_augment":
        good = np.shape(value) == (2,) and all(_whole(number, 30) for number in value)
        return off or good, "a pair of whole numbers: operations an image, and their magnitude from 0 to 30"
    if key == "policy":
        good = isinstance(value, (tuple, list)) and all(name in policies.OPERATIONS for name in value)
        return good, f"a tuple of operations out of {', '.join(policies.OPERATIONS)}"
    if key == "erase_fill":
        return value in _FILLS, " or ".join(map(repr, _FILLS))
    if key == "pad_crop":
        return _whole(value, 1000), "a whole number of pixels"
    top = _LIMITS.get(key, 1.0)
    return _number(value) and 0 <= value <= top, f"a number from 0 to {top:g}"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _whole(value: Any, top: int) -> bool:
    return isinstance(value, int) and 0 <= value <= top


def draw_matrix(
    config: Mapping[str, Any],
    rng: np.random.Generator,
    size: geometry.Size,
    frame: geometry.Size,
    boxes: Float[np.ndarray, "n 4"] | None = None,
    window: geometry.Window = geometry.letterbox,
) -> geometry.Matrix:
    """Draw the mapping of one image of `size` (height, width), with its boxes, into `frame`.

    The window (the whole image, if there is no crop) is letterboxed into the frame, and mirrored, turned, tilted,
    magnified and shifted about its centre there. Pixels of the image around the window show where there is room.

    Args:
      config: from `complete`.
      window: how the window comes into the frame, if it is not letterboxed.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import augment
      >>> config = augment.complete({"flip_horizontal": 1.0})
      >>> augment.draw_matrix(config, np.random.default_rng(0), size=(10, 20), frame=(20, 40)).tolist()
      [[-2.0, 0.0, 40.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    left, top, width, height = 0.0, 0.0, float(size[1]), float(size[0])
    if rng.random() < config["crop"]:
        share = rng.uniform(*config["crop_size"], size=2)
        left, top = rng.random(2) * (1 - share) * (width, height)
        width, height = share * (width, height)
    if config.get("iou_crop") and boxes is not None and rng.random() < config["iou_crop"]:
        left, top, right, bottom = iou_crops.draw(rng, size, boxes).tolist()
        width, height = right - left, bottom - top
    fit = window((height, width), frame)
    width, height = width * fit[0, 0], height * fit[1, 1]
    moved = geometry.about(draw_motion(config, rng), width / 2, height / 2)
    shift = draw_shift(config, rng, (height, width))
    return geometry.compose(
        geometry.crop(left, top), fit, moved, shift, *_draw_jitter(config, rng, (height, width), frame)
    )


def _draw_jitter(
    config: Mapping[str, Any], rng: np.random.Generator, size: tuple[float, float], frame: geometry.Size
) -> list[geometry.Matrix]:
    """Draw the magnification of large-scale jitter, and where an image of height, width comes to lie."""
    if not config.get("jitter"):
        return []
    zoom = rng.uniform(*config["jitter"])
    down, across = ((side - zoom * length) * rng.random() for side, length in zip(frame, size))
    return [geometry.scale(zoom), geometry.translate(across, down)]


def draw_motion(config: Mapping[str, Any], rng: np.random.Generator) -> geometry.Matrix:
    """Draw the mirroring, magnification, tilt and turn about the origin.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import augment
      >>> config = augment.complete({"flip_horizontal": 1.0})
      >>> augment.draw_motion(config, np.random.default_rng(0)).diagonal().tolist()
      [-1.0, 1.0, 1.0]
    """
    flips = zip(rng.random(2).tolist(), (config["flip_horizontal"], config["flip_vertical"]))
    across, down = (-1.0 if drawn < share else 1.0 for drawn, share in flips)
    low, high = config["scale"]
    zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
    tilt = geometry.shear(*(config["shear"] * rng.uniform(-1, 1, size=2)).tolist())
    turn = geometry.rotate(config["rotate"] * rng.uniform(-1, 1))
    return geometry.compose(geometry.scale(across * zoom, down * zoom), tilt, turn)


def draw_shift(
    config: Mapping[str, Any], rng: np.random.Generator, size: tuple[geometry.Number, geometry.Number]
) -> geometry.Matrix:
    """Draw the shift, at most a share of a height, width.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import augment
      >>> config = augment.complete({"translate": 0.1})
      >>> shift = augment.draw_shift(config, np.random.default_rng(0), size=(100, 200))
      >>> bool(abs(shift[0, 2]) <= 20 and abs(shift[1, 2]) <= 10)
      True
    """
    across, down = (config["translate"] * rng.uniform(-1, 1, size=2)).tolist()
    return geometry.translate(across * size[1], down * size[0])


def draw_colours(config: Mapping[str, Any], rng: np.random.Generator) -> Colours:
    """Draw the change of colours of one image: one 3×3 matrix for hue, saturation, contrast and brightness; noise.

    Args:
      config: from `complete`.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import augment
      >>> change = augment.draw_colours(augment.complete({"brightness": 0.3}), np.random.default_rng(0))
      >>> change(np.full((2, 2, 3), 100, np.uint8)).shape
      (2, 2, 3)
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
