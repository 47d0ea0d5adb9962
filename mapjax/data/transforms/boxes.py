"""From records to examples of one fixed shape: decode, change the colours, map once, pad the labels."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mapjax.data import geometry, images, labels, objects
from mapjax.data.labels import Motion
from mapjax.data.selective_search import require_mode
from mapjax.data.source import Record
from mapjax.data.transforms import augment as augmentation
from mapjax.data.transforms import fits, proposed
from mapjax.errors import UserError
from mapjax.stages import KEYS

Example = dict[str, Any]  # keys: stages.py
Transform = Callable[[Record, np.random.Generator], Example]

OPTIONS = {"augment": augmentation.DEFAULTS}
CALM = {"augment": {"jitter": (), "iou_crop": 0.0}}  # what is off for the last share of a training (plain_last)
IMAGENET_MEAN = (124, 116, 104)  # 0.485, 0.456, 0.406 of 255: after normalisation the padding is about 0

_log = logging.getLogger(__name__)


def make(
    *,
    size: tuple[int, int],
    max_boxes: int,
    augment: Mapping[str, Any] | None = None,
    mask_size: int = 0,
    fit: str = "letterbox",
    shorter: int = 800,
    longest: int = 1333,
    multiple: int = 32,
    smooth: bool = False,
    fill: Sequence[int] = IMAGENET_MEAN,
    proposals: int = 0,
    search: str = "fast",
) -> Transform:
    """Make `transform(record, rng) -> example`.

    The image is letterboxed (unless `fit` says otherwise): magnified until it just fits, at the top left of the frame,
    the rest filled with one colour. What becomes of the boxes: each is mapped (around its mapped mask,
    where the record has one) and clipped to the frame; it is dropped if less than `min_visible` of its area is left, or
    less than one pixel of its width or height. Without augmentation only the last rule can apply. Of more than
    `max_boxes` boxes the largest are kept, ordinary ones before crowds, and a warning is logged once.

    Args:
      size: height, width of the examples in pixels.
      max_boxes: rows of `boxes`, `classes`, `crowd` and `valid`; the rows that are not `valid` are zeros.
      augment: the keys of augment.py; None for evaluation.
      mask_size: also give `box_masks` (max_boxes, mask_size, mask_size), zeros for a record that has no masks; 0: none.
        An object of whose mask nothing is in the frame is dropped, counted as `masks_left_out`, and a warning is logged
        once.
      fit: as in fits.py: "letterbox"; "stretch" as torchvision's SSD, also in training; or "shorter" for frames as its
        other detectors have them, letterboxed in training.
      shorter, longest, multiple, smooth: of images without augmentation, as in fits.py.
      fill: red, green and blue beside the image, 0 to 255; by default ImageNet's mean.
      proposals: rows of `proposals`, boxes of a record that may hold an object, and `proposals_valid`; 0: none.
      search: "fast" or "quality", the selective search that finds those of a record without any (proposed.py).

    Raises:
      UserError: a size or max_boxes that is not positive, or a bad augmentation or fit; by the transform, an image
        that cannot be read.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.transforms import boxes
      >>> image, size = np.zeros((20, 40, 3), np.uint8), np.array([20, 40], np.int32)
      >>> objects = {"boxes": np.array([[4, 4, 8, 8]], np.float32), "classes": np.zeros(1, np.int32)}
      >>> objects |= {"crowd": np.zeros(1, bool), "areas": np.array([16], np.float32)}
      >>> record = {"id": 0, "file": "a", "image": image, "size": size, **objects}
      >>> example = boxes.make(size=(40, 80), max_boxes=2)(record, np.random.default_rng(0))
      >>> example["boxes"].tolist(), example["valid"].tolist()
      ([[8.0, 8.0, 16.0, 16.0], [0.0, 0.0, 0.0, 0.0]], [True, False])
    """
    frame = (int(size[0]), int(size[1]))
    if min(frame) < 1 or max_boxes < 1 or mask_size < 0 or proposals < 0:
        raise UserError(
            f"size={tuple(size)} and max_boxes={max_boxes} must be positive, and mask_size={mask_size} and "
            f"proposals={proposals} 0 or more."
        )
    require_mode(search, "transform.search=")
    config = augmentation.complete(augment)
    fitted = fits.choose(fit, frame, shorter=shorter, longest=longest, multiple=multiple, smooth=smooth)
    kinds = [kind for kind in labels.kinds_of("object") if mask_size or kind != "masks"]
    warned: set[str] = set()

    def warn(text: str, *values: Any) -> None:
        if text not in warned:
            warned.add(text)
            _log.warning(text, *values)

    def transform(record: Record, rng: np.random.Generator) -> Example:
        if proposals and "proposals" not in record:
            record, image = read(record)  # which selective search looks at
            record = record | {"image": image}
        example, matrix = map_record(record, rng, frame, config if augment is not None else None, fitted, fill)
        if proposals:
            frame_seen: geometry.Size = example["image"].shape[:2]
            example |= proposed.rows(record, matrix, frame_seen, proposals, searched=search)
        if not labels.has(record, "boxes"):
            return example
        seen: geometry.Size = example["image"].shape[:2]
        least = 0.0 if augment is None else config["min_visible"]
        motion = follow(record, matrix, seen, least, mask_size)
        lists, empty = with_something(lists_of(record, motion, kinds))
        if empty := empty + emptied(record, motion):
            warn("%s has %d objects without a pixel of their masks in view: they are left out.", record["file"], empty)
        if (found := len(lists["boxes"])) > max_boxes:
            warn("%s has %d boxes, more than max_boxes=%d: the largest are kept.", record["file"], found, max_boxes)
        counted = {"masks_left_out": np.array(empty, np.int32)} if mask_size else {}
        return example | counted | padded(max_boxes, no_masks(mask_size) | at_most(max_boxes, lists))

    return transform


def map_record(
    record: Record,
    rng: np.random.Generator,
    frame: geometry.Size,
    config: Mapping[str, Any] | None,
    fit: fits.Fit | None = None,
    fill: Sequence[int] = IMAGENET_MEAN,
) -> tuple[Example, geometry.Matrix]:
    """Read the image of a record and map it into the frame: `image`, `matrix` and `size`; and the matrix in float64.

    Args:
      config: of the augmentation, complete; None for evaluation.
      fit: letterbox if None; frames of evaluation may be others.
      fill: red, green and blue beside the image, 0 to 255.

    Raises:
      UserError: an image that cannot be read, or has another size than its labels were drawn on.
    """
    record, image = read(record)
    original: geometry.Size = image.shape[:2]
    fit = fit or fits.choose("letterbox", frame)
    if config is None:
        frame, matrix = fit.place(original)
        mapped = fit.show(matrix, image, frame, tuple(fill))
    else:
        objects = record["boxes"] if labels.has(record, "boxes") else None
        matrix = augmentation.draw_matrix(config, rng, original, frame, objects, fit.window)
        small, onward = geometry.shrink(image, matrix)
        mapped = geometry.map_image(onward, augmentation.draw_colours(config, rng)(small), frame, tuple(fill))
    return {"image": mapped, "matrix": matrix.astype(np.float32), "size": np.array(original, np.int32)}, matrix


def read(record: Record) -> tuple[Record, UInt8[np.ndarray, "h w 3"]]:
    """Read the image of a record, which comes back with its size.

    Raises:
      UserError: it cannot be read, or has another size than its labels were drawn on.
    """
    if record.get("size") is None:  # of whole images with a label it is not known before
        record = record | {"image": images.read(record["image"])}
        record["size"] = record["image"].shape[:2]
    height, width = map(int, record["size"])
    image = images.read_as_labelled(record["image"], (height, width), stored=bool(record.get("stored")))
    original = image.shape[:2]
    if original != (height, width):
        raise UserError(
            f"{record['file']} has {original[0]}×{original[1]} pixels (height × width), and its labels were drawn "
            f"on {height}×{width}; label it again, or restore the image."
        )
    return record, image


def follow(
    record: Record, matrix: geometry.Matrix, frame: geometry.Size, min_visible: float | int, cells: int = 0
) -> Motion:
    """Say what becomes of the objects of a record under a matrix, by the rules of `make`; its labels must fit."""
    size = (int(record["size"][0]), int(record["size"][1]))
    masks = record["masks"] if labels.has(record, "masks") else ()
    boxes, keep = objects.map_boxes(matrix, record["boxes"], masks, size, frame, min_visible)
    return Motion(matrix, frame, np.flatnonzero(keep), boxes, cells)


def lists_of(record: Record, motion: Motion, kinds: Iterable[str]) -> Example:
    """Return the lists of an example, before they are padded: of some kinds of labels, and `valid`.

    Masks are `box_masks`; of a motion without cells they are `masks`, bits of the whole frame, for copy-paste.
    """
    moved = labels.move(record, motion, kinds)
    lists = {key: value for key, value in moved.items() if key == "masks" or "example" in KEYS[key].stages}
    return lists | {"valid": np.ones(len(lists["boxes"]), bool)}


def emptied(record: Record, motion: Motion) -> int:
    """Count the objects whose boxes are partly in view, and of whose masks nothing is: they are not kept."""
    if not labels.has(record, "masks"):
        return 0
    mapped = geometry.map_boxes(motion.matrix, record["boxes"].astype(np.float64))
    partly = geometry.box_areas(geometry.clip_boxes(mapped, motion.frame)) > 0
    return int((partly & (geometry.box_areas(motion.boxes) == 0)).sum())


def with_something(lists: Example) -> tuple[Example, int]:
    """Leave out the objects of whose `box_masks` nothing is there, but for crowds; and say how many they are."""
    if "box_masks" not in lists:
        return lists, 0
    keep = lists["crowd"] | lists["box_masks"].any(axis=(1, 2))
    return {name: values[keep] for name, values in lists.items()}, int((~keep).sum())


def no_masks(cells: int) -> Example:
    """Give `box_masks` without a row, where they are asked for."""
    return {"box_masks": np.zeros((0, cells, cells), np.uint8)} if cells else {}


def at_most(count: int, lists: Mapping[str, np.ndarray]) -> Example:
    """Keep the largest of more objects than there are rows for, ordinary ones before crowds."""
    if len(lists["boxes"]) <= count:
        return dict(lists)
    rows = objects.largest(np.arange(len(lists["boxes"])), lists["boxes"], lists["crowd"], count)
    return {name: values[rows] for name, values in lists.items()}


def padded(length: int, lists: Mapping[str, np.ndarray]) -> Example:
    """Fill each list up with zeros to the given length."""
    return {
        name: np.concatenate([rows, np.zeros((length - len(rows), *rows.shape[1:]), rows.dtype)])
        for name, rows in lists.items()
    }
