"""The masks of Pascal VOC folders: `SegmentationClass/*.png`, `JPEGImages/*`, `ImageSets/Segmentation/*.txt`.

The 21 classes are those of Pascal VOC with the background; `classes.txt`, `palette.txt` or CVAT's `labelmap.txt` list
others (mapjax.data.label_maps).
"""

import pathlib
from collections.abc import Sequence

from mapjax.data import splits
from mapjax.data.formats import label_maps, mask_files, voc_lists
from mapjax.data.formats.class_lists import Colour
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
    for folder in (root, root / "SegmentationClass", root / "JPEGImages"):
        if not folder.is_dir():
            raise UserError(
                f"{folder} is not there: to learn label maps, --data voc:DIR needs SegmentationClass/ and JPEGImages/."
            )
    masks = voc_lists.files(root, "SegmentationClass", (".png",))
    if not masks:
        raise UserError(f"{root / 'SegmentationClass'} has no .png files; put the masks there.")
    image_files, unread = voc_lists.image_files(root)
    coding = label_maps.find_coding(root, classes=classes, void=void, palette=None, default=palette())
    lists = voc_lists.read(root / "ImageSets" / "Segmentation", list(masks))
    found, part = splits.locate(split, lists, f"voc:{path}", hold_out)
    listed, repeated = voc_lists.once(lists[found])
    pairs, dropped = mask_files.pair_up(
        {stem: f"JPEGImages/{name}" for stem, name in voc_lists.counterparts(masks, image_files).items()},
        {stem: f"SegmentationClass/{name}" for stem, name in masks.items()},
        splits.take(listed, part, seed, hold_out),
    )
    left_out = {**repeated, **dropped, **unread}
    return mask_files.make_source(f"voc:{path}", split, root, pairs, coding, left_out, stored)


def palette() -> list[Colour]:
    """Return the colours of the classes of Pascal VOC, and of void."""
    named = [*enumerate(CLASSES), (VOID, "void")]
    return [(name, _channel(number), _channel(number >> 1), _channel(number >> 2)) for number, name in named]


def _channel(number: int) -> int:
    """Of an id's bits, every third from the first on counts, the lowest as the highest bit of the channel."""
    return sum((number >> 3 * bit & 1) << (7 - bit) for bit in range(8))
