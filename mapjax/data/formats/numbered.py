"""Records of images whose objects are drawn in files: label images, a number an object, or a mask of each."""

import collections
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mapjax.data import images
from mapjax.data.formats import coco_masks, label_maps
from mapjax.data.images import Size
from mapjax.data.label_images import Numbered
from mapjax.data.records import Packed, unlabelled
from mapjax.data.source import Source
from mapjax.errors import UserError

_THREADS = 8


class Found(NamedTuple):
    """What the masks of one image hold: each object and its class, -1 for one without; and what was left out."""

    objects: list[tuple[Numbered, int]]
    dropped: list[tuple[str, str]]


class Unusable(Exception):
    """An image whose masks cannot be used: the reason, and where."""

    def __init__(self, reason: str, where: str):
        super().__init__(reason)
        self.reason, self.where = reason, where


def make_source(
    name: str,
    split: str,
    root: pathlib.Path,
    files: Sequence[str],
    read: Callable[[int, Size], Found],
    classes: Sequence[str],
    dropped: Mapping[str, list[str]],
    stored: bool,
) -> Source:
    """Read the masks of all images, in threads, and put a source together; masks are kept as run lengths.

    Args:
      files: of the images, below the root.
      read: index and size of an image → what its masks hold; raises Unusable.
      classes: their names.
      dropped: what was left out before.
      stored: masks were drawn on the images as stored, whatever EXIF says.

    Raises:
      UserError: there are images, and not one has masks that can be used.
    """
    left_out: dict[str, list[str]] = collections.defaultdict(list, {why: list(where) for why, where in dropped.items()})

    def one(index: int) -> tuple[Size, Found] | Unusable:
        try:
            header = images.read_header(str(root / files[index]))
            size, _ = images.frames(header, (0, 0), stored=stored)
            return size, read(index, size)
        except Unusable as error:
            return error
        except UserError as error:
            return Unusable(images.fault_of(error), files[index])

    kept = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, found in enumerate(pool.map(one, range(len(files)))):
            if isinstance(found, Unusable):
                left_out[found.reason].append(found.where)
                continue
            size, (objects, gone) = found
            labels = unlabelled(len(kept), files[index], size)
            for reason, where in gone:
                left_out[reason].append(where)
            for drawn, number in objects:
                labels.boxes.append(drawn.box)
                labels.classes.append(number)
                labels.crowd.append(False)
                labels.areas.append(float(drawn.area))
                labels.segmentations.append(drawn.mask)
            kept.append(labels)
    left_out = {reason: where for reason, where in left_out.items() if where}
    if not kept and left_out:
        reason, where = next(reversed(left_out.items()))
        raise UserError(
            f"{name}: no image of split {split!r} has masks that can be used: {len(where)} × {reason}, such as "
            f"{where[0]}."
        )
    packed = Packed(root, kept, coco_masks.draw, None, stored)
    return Source(
        name=name,
        split=split,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        records=packed.records(),
        dropped=left_out,
        fingerprint=packed.fingerprint(),
    )


def read_ids(root: pathlib.Path, file: str, size: Size) -> Int[np.ndarray, "h w"]:
    """Read a label image of an image of height, width: 8 or 16 bits, or RGB as red + 256 green + 65536 blue.

    Raises:
      Unusable: it cannot be read, or is of another size.
    """
    pixels = read_pixels(root, file, size)
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    wide = pixels.astype(np.int64)
    return wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)


def read_pixels(root: pathlib.Path, file: str, size: Size) -> np.ndarray:
    """Read a mask of an image of height, width as it is stored; errors as for `read_ids`."""
    try:
        pixels, _ = label_maps.read_pixels(str(root / file))
    except UserError as error:
        raise Unusable("image with a mask that cannot be read", file) from error
    if pixels.shape[:2] != size:
        drawn = f"{pixels.shape[0]}×{pixels.shape[1]}, and the image {size[0]}×{size[1]}, height × width"
        raise Unusable("image with a mask of another size", f"{file} ({drawn})")
    return pixels
