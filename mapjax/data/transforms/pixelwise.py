"""From records of images with a label map to examples of one fixed shape: decode, change colours, map both once."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mapjax.data import geometry, labels
from mapjax.data.source import Record
from mapjax.data.transforms import augment as augmentation
from mapjax.data.transforms import boxes, fits
from mapjax.data.transforms.boxes import Example, Transform
from mapjax.errors import UserError
from mapjax.stages import VOID

_OF_BOXES = ("min_visible", "iou_crop")
PIXELS: dict[str, Any] = {key: value for key, value in augmentation.DEFAULTS.items() if key not in _OF_BOXES}
OPTIONS = {"augment": PIXELS}
KINDS = labels.kinds_of("pixel")


def make(
    *,
    size: tuple[int, int],
    fit: str = "letterbox",
    shorter: int = 520,
    longest: int = 0,
    multiple: int = 8,
    augment: Mapping[str, Any] | None = None,
    canvas: Callable[[], geometry.Size] | None = None,
) -> Transform:
    """Make `transform(record, rng) -> example`.

    The image and its label map go through the same matrix: the image bilinearly, the rest of the frame filled with
    ImageNet's mean colour; the label map by nearest neighbour, VOID outside. To be scored, a label map stays as it is.

    Args:
      size: height, width of the examples in pixels.
      fit: as in fits.py: "letterbox"; "stretch", also in training; or "shorter" for frames as torchvision's segmenters
        have them, letterboxed in training.
      shorter, longest, multiple: of images without augmentation, as in fits.py.
      augment: the keys of augment.py of images with boxes, without min_visible and iou_crop; None for evaluation.
      canvas: for scoring: gives height, width of a frame that holds every image; the example then has `truth_map`
        in place of `label_map`.

    Raises:
      UserError: a bad size, fit or augmentation; by the transform, an image or label map that cannot be read.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import pixelwise
      >>> record = {"id": 0, "file": "a", "image": np.zeros((2, 2, 3), np.uint8), "size": np.array([2, 2], np.int32)}
      >>> record["label_map"] = np.array([[0, 1], [1, 0]], np.uint8)
      >>> example = pixelwise.make(size=(4, 6))(record, np.random.default_rng(0))
      >>> example["label_map"].tolist()
      [[0, 0, 1, 1, 255, 255], [0, 0, 1, 1, 255, 255], [1, 1, 0, 0, 255, 255], [1, 1, 0, 0, 255, 255]]
    """
    frame = (int(size[0]), int(size[1]))
    if min(frame) < 1:
        raise UserError(f"size={tuple(size)} must be positive.")
    fitted = fits.choose(fit, frame, shorter=shorter, longest=longest, multiple=multiple)
    config = augmentation.complete(augment, PIXELS)
    whole = None if canvas is None else canvas()

    def transform(record: Record, rng: np.random.Generator) -> Example:
        example, matrix = boxes.map_record(record, rng, frame, None if augment is None else config, fitted)
        labels.require(record, KINDS)
        if whole is not None:
            size = (int(example["size"][0]), int(example["size"][1]))
            return example | {"truth_map": _on_canvas(labels.blank(size, *KINDS) | record, whole)}
        return example | labels.move(record, labels.Motion(matrix, example["image"].shape[:2]), KINDS)

    return transform


def _on_canvas(record: Record, canvas: geometry.Size) -> np.ndarray:
    """Put a label map at the top left of a frame of VOID."""
    label_map = record["label_map"]
    found = np.full(canvas, VOID, np.uint8)
    found[: label_map.shape[0], : label_map.shape[1]] = label_map
    return found
