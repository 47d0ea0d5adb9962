"""The masks of Pascal VOC folders: `SegmentationClass/*.png`, `JPEGImages/*`, `ImageSets/Segmentation/*.txt`.

The 21 classes are those of Pascal VOC with the background; `classes.txt`, `palette.txt` or CVAT's `labelmap.txt` list
others (mapjax.data.label_maps).
"""

import pathlib
from collections.abc import Sequence

from mapjax.data import splits
from mapjax.data.formats import label_maps, mask_files, voc_lists
from mapjax.data.formats.class_lists import Colour
from mapjax.data.formats.mask_files import Pair
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.stages import VOID

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def open_split(
    split: str,
    seed: int,
    path: str,
    classes: str | Sequence[str] | None,
    hold_out: float | int,
    void: int | str | Sequence[int | str] | None,
    stored: bool,
) -> Source:
    """Read one split; only headers are read. What is left out, and the arguments: as for `masks.make` and `voc.make`.

    `stored`: the masks were drawn on the images as stored.

    Without any lists, all images that have a mask are "train".

    Raises:
      UserError: no such folder, not a VOC folder with masks, no such split, or no image that has a mask that fits.
    """
    root = pathlib.Path(path)
    pairs, left_out = find(root, "SegmentationClass", split, seed, hold_out)
    coding = label_maps.find_coding(root, classes=classes, void=void, palette=None, default=palette())
    return mask_files.make_source(f"voc:{path}", split, root, pairs, coding, left_out, stored)


def find(
    root: pathlib.Path, place: str, split: str, seed: int, hold_out: float | int
) -> tuple[list[Pair], mask_files.Dropped]:
    """Find the images of a split that have a mask in a folder; errors and what is left out as for `open_split`."""
    for folder in (root, root / place, root / "JPEGImages"):
        if not folder.is_dir():
            what = "label maps" if place == "SegmentationClass" else "masks of objects"
            raise UserError(f"{folder} is not there: to learn {what}, --data voc:DIR needs {place}/ and JPEGImages/.")
    masks = voc_lists.files(root, place, (".png",))
    if not masks:
        raise UserError(f"{root / place} has no .png files; put the masks there.")
    image_files, unread = voc_lists.image_files(root)
    lists = voc_lists.read(root / "ImageSets" / "Segmentation", list(masks))
    found, part = splits.locate(split, lists, f"voc:{root}", hold_out)
    listed, repeated = voc_lists.once(lists[found])
    pairs, dropped = mask_files.pair_up(
        {stem: f"JPEGImages/{name}" for stem, name in voc_lists.counterparts(masks, image_files).items()},
        {stem: f"{place}/{name}" for stem, name in masks.items()},
        splits.take(listed, part, seed, hold_out),
    )
    return pairs, {**repeated, **dropped, **unread}


def palette() -> list[Colour]:
    """Return the colours of the classes of Pascal VOC, and of void."""
    named = [*enumerate(CLASSES), (VOID, "void")]
    return [(name, _channel(number), _channel(number >> 1), _channel(number >> 2)) for number, name in named]


def _channel(number: int) -> int:
    """Of an id's bits, every third from the first on counts, the lowest as the highest bit of the channel."""
    return sum((number >> 3 * bit & 1) << (7 - bit) for bit in range(8))
