"""From records of whole images with a label to examples of one fixed shape: decode, crop, change, map once."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.data import geometry, images, labels
from mapjax.data.source import Record
from mapjax.data.transforms import augment as augmentation
from mapjax.data.transforms import erase, policies, resample
from mapjax.data.transforms.augment import Colours
from mapjax.data.transforms.boxes import IMAGENET_MEAN, Example, Transform
from mapjax.errors import UserError, near

OPTIONS = {"augment": augmentation.WHOLE}
_TRIES = 10


class View(NamedTuple):
    """How an image is to be looked at: original pixels → frame, and the changes of its colours, in order."""

    matrix: geometry.Matrix
    colours: Sequence[Colours] = ()


Look = Callable[[np.random.Generator, geometry.Size], View]


def make(
    *,
    size: tuple[int, int],
    fit: str = "crop",
    crop_share: float | int = 0.875,
    augment: Mapping[str, Any] | None = None,
    fill: Sequence[int] = IMAGENET_MEAN,
    interpolation: str = "bilinear",
) -> Transform:
    """Make `transform(record, rng) -> example`, with the record's `label` or `labels` as they are.

    Images are turned upright by their EXIF tag. Geometry is drawn first; then the image is decoded (a JPEG no
    larger than needed), its colours are changed, it is mapped once into the frame, and a rectangle may be erased.

    Args:
      size: height, width of the examples in pixels.
      fit: how an image comes into the frame, unless `random_resized_crop` is on. "crop": it covers the frame
        enlarged by 1 / `crop_share`, of which the centre shows (torchvision's Resize and CenterCrop, to the pixel);
        "stretch": the whole image, its sides scaled on their own; "letterbox": the whole image in the centre.
      augment: the keys `WHOLE` of augment.py; None for evaluation.
      fill: RGB of the pixels from outside the image.
      interpolation: of images that are neither turned nor tilted: "bilinear" or "bicubic" (some published weights).

    Raises:
      UserError: a bad size, fit, share, interpolation or augmentation; by the transform, an image that cannot be read.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import crops
      >>> record = {"id": 0, "file": "a", "image": np.zeros((20, 40, 3), np.uint8), "label": np.int32(1)}
      >>> example = crops.make(size=(16, 16))(record, np.random.default_rng(0))
      >>> example["image"].shape, int(example["label"])
      ((16, 16, 3), 1)
    """
    frame = (int(size[0]), int(size[1]))
    colour = tuple(int(level) for level in fill)
    if min(frame) < 1 or not 0 < crop_share <= 1 or len(colour) != 3 or not all(0 <= level <= 255 for level in colour):
        raise UserError(
            f"size={tuple(size)} must be positive, crop_share={crop_share} in (0, 1], fill={tuple(fill)} three levels."
        )
    if fit not in _FITS:
        raise UserError(f"transform.fit={fit!r} is not known.{near(fit, _FITS)}")
    if interpolation not in resample.FILTERS:
        raise UserError(
            f"transform.interpolation={interpolation!r} is not known.{near(interpolation, resample.FILTERS)}"
        )
    config = augmentation.complete(augment, augmentation.WHOLE)
    if config["random_resized_crop"] and config["pad_crop"]:
        raise UserError("random_resized_crop and pad_crop are both set; choose one of the two crops.")
    fitted, kinds = _FITS[fit], labels.kinds_of("image")

    def placed(whole: geometry.Size) -> geometry.Matrix:
        return fitted(whole, frame, crop_share)

    look = _drawing(config, placed, frame)

    def transform(record: Record, rng: np.random.Generator) -> Example:
        whole, decode = images.peek(record["image"], name=record["file"])
        view = View(placed(whole)) if augment is None else look(rng, whole)
        form = {"reflect": config["pad_crop"] > 0, "interpolation": interpolation}
        image = _show(decode, view, frame, colour, exact=augment is None, **form)
        if config["erase"] and rng.random() < config["erase"]:
            box = erase.draw(rng, frame, config["erase_area"], config["erase_ratio"])
            image = erase.erase(image, box, rng if config["erase_fill"] == "random" else colour) if box else image
        example = {"image": image, "matrix": view.matrix.astype(np.float32), "size": np.array(whole, np.int32)}
        return example | labels.move(record, labels.Motion(view.matrix, frame), kinds)

    return transform


def cover(whole: geometry.Size, frame: geometry.Size, share: float | int) -> geometry.Matrix:
    """Return the mapping of an image onto the frame enlarged by 1 / `share`, and to the frame in its centre.

    The rounding is torchvision's: the resized image and the offset are of whole pixels.
    """
    least = [max(math.floor(side / share + 1e-6), side) for side in frame]
    if least[0] * whole[1] >= least[1] * whole[0]:
        resized = least[0], max(int(least[0] * whole[1] / whole[0]), frame[1])
    else:
        resized = max(int(least[1] * whole[0] / whole[1]), frame[0]), least[1]
    top, left = (round((side - seen) / 2) for side, seen in zip(resized, frame))
    return _window(resized[1] / whole[1], resized[0] / whole[0], left, top)


def letterbox(whole: geometry.Size, frame: geometry.Size) -> geometry.Matrix:
    """Return the mapping of a whole image into the centre of the frame; its rectangle there is of whole pixels."""
    share = min(frame[0] / whole[0], frame[1] / whole[1])
    height, width = (max(round(side * share), 1) for side in whole)
    return _window(width / whole[1], height / whole[0], -((frame[1] - width) // 2), -((frame[0] - height) // 2))


def draw_window(
    rng: np.random.Generator, whole: geometry.Size, area: Sequence[float | int], ratio: Sequence[float | int]
) -> tuple[int, int, int, int]:
    """Draw the window of a random resized crop (Szegedy et al. 2015), as torchvision does.

    Args:
      whole: height, width of the image.
      area: (low, high), as a share of the image's.
      ratio: (low, high) of width by height, drawn evenly in the logarithm.

    Returns:
      top, left, height, width in whole pixels: in the centre, if ten in a row did not fit.
    """
    for _ in range(_TRIES):
        share = whole[0] * whole[1] * rng.uniform(area[0], area[1])
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        height, width = round(math.sqrt(share / shape)), round(math.sqrt(share * shape))
        if 0 < width <= whole[1] and 0 < height <= whole[0]:
            top, left = rng.integers((whole[0] - height + 1, whole[1] - width + 1)).tolist()
            return top, left, height, width
    shape = min(max(whole[1] / whole[0], ratio[0]), ratio[1])
    height, width = min(round(whole[1] / shape), whole[0]), min(round(whole[0] * shape), whole[1])
    return (whole[0] - height) // 2, (whole[1] - width) // 2, max(height, 1), max(width, 1)


_FITS: dict[str, Callable[..., geometry.Matrix]] = {
    "crop": cover,
    "stretch": lambda whole, frame, share: geometry.stretch(whole, frame),
    "letterbox": lambda whole, frame, share: letterbox(whole, frame),
}


def _window(across: float, down: float, left: float | int, top: float | int) -> geometry.Matrix:
    """Return the magnification followed by the crop there; one array, because every image needs it."""
    return np.array([[across, 0, -left], [0, down, -top], [0, 0, 1.0]])


def _drawing(
    config: Mapping[str, Any], placed: Callable[[geometry.Size], geometry.Matrix], frame: geometry.Size
) -> Look:
    """Make the drawing of views; what the config leaves off costs nothing."""
    height, width = frame
    moving = any(config[key] != still for key, still in augmentation.MOTIONS.items())
    colouring = any(config[key] for key in augmentation.COLOURS)

    def look(rng: np.random.Generator, whole: geometry.Size) -> View:
        if config["random_resized_crop"]:
            top, left, *seen = draw_window(rng, whole, config["random_resized_crop"], config["crop_ratio"])
            across, down = width / seen[1], height / seen[0]
            matrix = _window(across, down, left * across, top * down)
        else:
            matrix = placed(whole)
        if config["pad_crop"]:
            matrix[:2, 2] += rng.integers(-config["pad_crop"], config["pad_crop"] + 1, size=2)
        if moving:
            motion = geometry.about(augmentation.draw_motion(config, rng), width / 2, height / 2)
            matrix = geometry.compose(matrix, motion, augmentation.draw_shift(config, rng, frame))
        else:
            _mirror(matrix, rng, config, frame)
        colours = [augmentation.draw_colours(config, rng)] if colouring else []
        steps = _draw_policies(config, rng, frame)
        if steps:
            matrix = geometry.compose(matrix, policies.matrix(steps, frame))
            colours.append(lambda image: policies.change(steps, image))
        return View(matrix, colours)

    return look


def _mirror(matrix: geometry.Matrix, rng: np.random.Generator, config: Mapping[str, Any], frame: geometry.Size) -> None:
    """Compose with the flips, in place."""
    for row, key, side in ((0, "flip_horizontal", frame[1]), (1, "flip_vertical", frame[0])):
        if config[key] and rng.random() < config[key]:
            matrix[row] *= -1
            matrix[row, 2] += side


def _draw_policies(config: Mapping[str, Any], rng: np.random.Generator, frame: geometry.Size) -> list[policies.Step]:
    steps = []
    if config["rand_augment"]:
        count, magnitude = config["rand_augment"]
        steps += policies.draw_rand_augment(rng, count, magnitude, frame, config["policy"])
    if config["trivial_augment"] and rng.random() < config["trivial_augment"]:
        steps += policies.draw_trivial_augment(rng, config["policy"])
    return steps


def _show(
    decode: images.Decode,
    view: View,
    frame: geometry.Size,
    fill: tuple[int, ...],
    exact: bool,
    reflect: bool,
    interpolation: str,
) -> np.ndarray:
    """Decode an image, and show it in the frame as the view says; if `exact`, with torchvision's pixels."""
    # Decoding shrinks a JPEG otherwise than Pillow, which therefore gets at least a factor of 2 to do.
    image, factor = decode(min(resample.shrinkage(view.matrix)) / (2 if exact else 1))
    matrix = view.matrix @ geometry.scale(factor) if factor > 1 else view.matrix
    if not reflect:
        image, matrix = resample.cut(matrix, image, frame, around=exact)
    if view.colours:
        image, matrix = geometry.shrink(image, matrix)
    for colours in view.colours:
        image = colours(image)
    return resample.resample(matrix, image, frame, fill, reflect=reflect, interpolation=interpolation)
