"""Mosaic of four images with their objects (Bochkovskiy et al. 2020), then copy-paste and MixUp with one more each.

Each image has one matrix, from its pixels to the frame: its own augmentation, a magnification that the four share, and
the shift that puts its inner corner to the point where they meet. It is drawn into its quarter alone, and its objects
are clipped to that. All three are functions of (seed, element), as the companions are (streams.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapjax.data import box_masks, geometry, labels
from mapjax.data.source import Record
from mapjax.data.transforms import augment as augmentation
from mapjax.data.transforms import boxes, fits, mixed_boxes
from mapjax.data.transforms.boxes import IMAGENET_MEAN, Example
from mapjax.data.transforms.copy_paste import paste, require_masks, together
from mapjax.errors import UserError

OPTIONS = boxes.OPTIONS
CALM = {**boxes.CALM, "mosaic": 0.0, "mixup": 0.0, "copy_paste": 0.0}
CENTRE = (0.25, 0.75)  # of the frame's sides, between which the four images meet
MIN_VISIBLE = 0.1  # of a box, where `augment` does not say: a face that fills a quarter is no background
_ABOUT = ("matrix", "size", "masks_left_out")  # of a view, beside its image and its lists
_CHOSEN = 0.5  # share of the objects that copy-paste takes
_ALPHA = 8.0  # of the Beta distribution of MixUp's shares, near a half each (Zhang et al. 2019 has 1.5, YOLOX a half)


class Joined:
    """The transform; a class, so that data workers can be sent it."""

    def __init__(self, options: Mapping[str, Any], config: Mapping[str, Any]):
        """Take the options of `make`, and the augmentation, complete."""
        self._options, self._config = options, config
        self.companions = 3 * (options["mosaic"] > 0) + (options["copy_paste"] > 0) + (options["mixup"] > 0)
        wanted = options["mask_size"] or options["copy_paste"] > 0
        # Copy-paste needs the masks in the frame, to see what they cover; they become small when that is done.
        self._cells = 0 if options["copy_paste"] > 0 else options["mask_size"]
        self._kinds = [kind for kind in labels.kinds_of("object") if wanted or kind != "masks"]

    def __call__(self, record: Record, rng: np.random.Generator, companions: Sequence[Record] = ()) -> Example:
        if not labels.has(record, "boxes"):
            raise UserError(f"{record['file']} has no boxes, without which images are not joined; choose other data.")
        options, others = self._options, list(companions)
        mosaic = [others.pop() for _ in range(3)] if options["mosaic"] else []
        pasted = [others.pop()] if options["copy_paste"] else []
        joined = bool(mosaic) and rng.random() < options["mosaic"]
        pasting = bool(pasted) and rng.random() < options["copy_paste"]
        mixing = bool(others) and rng.random() < options["mixup"]
        view = self._meet([record, *mosaic], rng) if joined else self._view(record, rng)
        if pasting:
            require_masks(view, str(record["file"]))
            source = self._view(pasted[0], rng)
            require_masks(source, str(pasted[0]["file"]))
            chosen = (rng.random(len(source["boxes"])) < _CHOSEN) & ~source["crowd"]
            about = {key: view.pop(key) for key in _ABOUT}
            about["masks_left_out"] += source["masks_left_out"]
            source = {key: value for key, value in source.items() if key not in about}
            view = paste(view, source, chosen, self._config["min_visible"]) | about
        example = self._padded(view)
        if not mixing:
            return example
        return mixed_boxes.mix(example, self._padded(self._view(others[0], rng)), float(rng.beta(_ALPHA, _ALPHA)))

    def _view(self, record: Record, rng: np.random.Generator) -> Example:
        """See one record alone: `image`, `matrix`, `size` and unpadded lists."""
        frame = self._options["size"]
        example, matrix = boxes.map_record(
            record, rng, frame, self._config, *(self._options[key] for key in ("fit", "fill"))
        )
        return example | self._lists(record, matrix, frame)

    def _lists(self, record: Record, matrix: geometry.Matrix, frame: geometry.Size) -> Example:
        """Give the unpadded lists of a record, and how many objects were left out."""
        motion = boxes.follow(record, matrix, frame, self._config["min_visible"], self._cells)
        return boxes.lists_of(record, motion, self._kinds) | {"masks_left_out": boxes.emptied(record, motion)}

    def _meet(self, records: Sequence[Record], rng: np.random.Generator) -> Example:
        """See four records that meet at a point of the frame."""
        frame = self._options["size"]
        down, across = (round(side * rng.uniform(*CENTRE)) for side in frame)
        zoom = rng.uniform(*self._options["mosaic_scale"])
        image = np.empty((*frame, 3), np.uint8)
        parts = []
        for number, record in enumerate(records):
            rows, columns = [slice(0, down), slice(down, frame[0])], [slice(0, across), slice(across, frame[1])]
            quarter = rows[number // 2], columns[number % 2]
            image[quarter], lists = self._quarter(record, rng, zoom, number, quarter)
            parts.append(lists)
        about = {"matrix": np.eye(3, dtype=np.float32), "size": np.array(frame, np.int32)}
        about["masks_left_out"] = sum(lists.pop("masks_left_out") for lists in parts)
        return {"image": image, **about, **together(*parts)}

    def _quarter(
        self, record: Record, rng: np.random.Generator, zoom: float, number: int, place: tuple[slice, slice]
    ) -> tuple[np.ndarray, Example]:
        """See one record in its quarter of the frame: number 0 to 3 by rows, rows and columns of pixels."""
        frame, config = self._options["size"], self._config
        record, image = boxes.read(record)
        original: geometry.Size = image.shape[:2]
        objects = record["boxes"] if labels.has(record, "boxes") else None
        matrix = augmentation.draw_matrix(config, rng, original, frame, objects, self._options["fit"].window)
        matrix = geometry.compose(matrix, meeting(original, frame, zoom, number, place, self._options["fit"].window))
        size = (place[0].stop - place[0].start, place[1].stop - place[1].start)
        small, onward = geometry.shrink(image, matrix)
        fill = self._options["fill"]
        seen = geometry.map_image(onward, augmentation.draw_colours(config, rng)(small), size, fill)
        lists = self._lists(record, matrix, size)
        return seen, shifted(lists, place, frame)

    def _padded(self, view: Example) -> Example:
        """Give an example of a view: lists of one length, without the masks if they were not asked for."""
        about = {key: view.pop(key) for key in ("image", *_ABOUT)}
        count, cells, size = (self._options[key] for key in ("max_boxes", "mask_size", "size"))
        if (bits := view.pop("masks", None)) is not None and cells:
            view["box_masks"] = box_masks.draw(list(bits), size, geometry.identity(), view["boxes"], cells)
        lists, empty = boxes.with_something(view)
        empty += about.pop("masks_left_out")
        about |= {"masks_left_out": np.array(empty, np.int32)} if cells else {}
        return about | boxes.padded(count, boxes.no_masks(cells) | boxes.at_most(count, lists))


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
    mosaic: float | int = 1.0,
    mosaic_scale: tuple[float | int, float | int] = (0.5, 1.0),
    mixup: float | int = 0.0,
    copy_paste: float | int = 0.0,
) -> Any:
    """Make the transform; without augmentation, in evaluation, it is that of boxes.py.

    Of more than `max_boxes` boxes the largest are kept. An example of four images has the identity as its `matrix`, and
    the frame as its `size`.

    Args:
      size, max_boxes, augment, mask_size, fit, shorter, longest, multiple, smooth, fill: as for boxes.make; each image
        of a mosaic is augmented on its own, and `min_visible` is 0.1 unless it is given.
      mosaic: probability that an image is seen with three others.
      mosaic_scale: (low, high): what images of a mosaic are magnified by, put into the frame by `fit`.
      mixup: probability that the result is averaged with one more image (Zhang et al. 2019).
      copy_paste: probability that half of the objects of one more image are pasted onto it (Ghiasi et al. 2021); data
        must have masks.

    Raises:
      UserError: a probability outside 0 to 1, a scale that is none, or what boxes.make refuses.

    Example:
      >>> from mapjax.data.transforms import mosaic
      >>> mosaic.make(size=(64, 64), max_boxes=8, augment={}, mixup=0.1).companions
      4
    """
    chances = {"mosaic": mosaic, "mixup": mixup, "copy_paste": copy_paste}
    for name, value in chances.items():
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(f"transform.{name}={value!r} must be a probability from 0 to 1.")
    if len(mosaic_scale) != 2 or not 0 < mosaic_scale[0] <= mosaic_scale[1] <= 10:
        raise UserError(f"transform.mosaic_scale={mosaic_scale!r} must be a pair 0 < low <= high <= 10.")
    base = boxes.make(
        size=size,
        max_boxes=max_boxes,
        augment=augment,
        mask_size=mask_size,
        fit=fit,
        shorter=shorter,
        longest=longest,
        multiple=multiple,
        smooth=smooth,
        fill=fill,
    )
    if augment is None or not any(chances.values()):
        return base
    frame = (int(size[0]), int(size[1]))
    if min(frame) < 4:
        raise UserError(f"size={frame} must be 4 pixels or more, so that four images have a quarter each.")
    options = {"size": frame, "max_boxes": max_boxes, "mask_size": mask_size, "fill": tuple(fill), **chances}
    options |= {"mosaic_scale": mosaic_scale, "fit": fits.choose(fit, frame)}
    return Joined(options, augmentation.complete({"min_visible": MIN_VISIBLE, **augment}))


def meeting(
    original: geometry.Size,
    frame: geometry.Size,
    zoom: float,
    number: int,
    place: tuple[slice, slice],
    window: geometry.Window = geometry.letterbox,
) -> geometry.Matrix:
    """Return the way from a frame, with an image of a size in it by `window`, to the pixels of a quarter.

    The image's corner that is inner in the mosaic, the lower right one of quarter 0, comes to where the four meet.
    """
    fit = zoom * window(original, frame).diagonal()
    width, height = (fit[:2] * (original[1], original[0])).tolist()
    x = place[1].stop - place[1].start - width if number % 2 == 0 else 0.0
    y = place[0].stop - place[0].start - height if number < 2 else 0.0
    return geometry.compose(geometry.scale(zoom), geometry.translate(x, y))


def shifted(lists: Example, place: tuple[slice, slice], frame: geometry.Size) -> Example:
    """Restate the lists of a quarter, of rows and columns of pixels, in the frame."""
    x, y = place[1].start, place[0].start
    found = lists | {"boxes": lists["boxes"] + np.array([x, y, x, y], np.float32)}
    if labels.has(lists, "keypoints"):
        points = lists["keypoints"]
        found["keypoints"] = np.where(points[..., 2:] > 0, points + np.array([x, y, 0], np.float32), points)
    if labels.has(lists, "masks"):
        found["masks"] = np.zeros((len(lists["masks"]), *frame), bool)
        found["masks"][:, place[0], place[1]] = lists["masks"]
    return found
