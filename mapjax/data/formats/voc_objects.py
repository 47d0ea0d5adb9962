"""The masks of objects of Pascal VOC folders: `SegmentationObject/*.png`, a number an object, 255 void.

The class of an object is what most of its pixels have in `SegmentationClass/*.png` (voc_segmentation.py); the
background is none.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from mapjax.data import label_images
from mapjax.data.formats import label_maps, numbered, voc_segmentation
from mapjax.data.formats.numbered import Found
from mapjax.data.images import Size
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.stages import VOID

_BACKGROUND = ("background", "_background_")


def open_split(
    split: str,
    seed: int,
    path: str,
    classes: str | Sequence[str] | None,
    hold_out: float | int,
    stored: bool,
) -> Source:
    """Read one split, its masks too; the arguments as for `voc.make`.

    Left out and counted: images without both masks, or with one that cannot be read or is of another size; objects
    whose pixels have no class.

    Raises:
      UserError: no such folder, no such split, or no image whose masks can be used.
    """
    root = pathlib.Path(path)
    coding = label_maps.find_coding(root, classes=classes, void=None, palette=None, default=voc_segmentation.palette())
    names = [name for name in coding.classes if name.lower() not in _BACKGROUND]
    number_of = np.full(256, -1)
    for number, name in enumerate(coding.classes):
        number_of[number] = names.index(name) if name in names else -1
    pairs, left_out = voc_segmentation.find(root, "SegmentationObject", split, seed, hold_out)
    drawn, _ = voc_segmentation.find(root, "SegmentationClass", split, seed, hold_out)
    class_masks = {pair.image: pair.mask for pair in drawn}
    left_out["missing mask in SegmentationClass"] = [pair.image for pair in pairs if pair.image not in class_masks]
    pairs = [pair for pair in pairs if pair.image in class_masks]

    def read(index: int, size: Size) -> Found:
        ids = numbered.read_ids(root, pairs[index].mask, size)
        ids[ids == VOID] = 0
        try:
            class_map = label_maps.read(str(root / class_masks[pairs[index].image]), coding, size)
        except UserError as error:
            raise numbered.Unusable("image with a mask that cannot be read", str(error).rstrip(".")) from error
        votes = number_of[class_map]
        found, gone = [], []
        for one in label_images.objects_in(ids):
            x1, y1, x2, y2 = map(int, one.box)
            inside = votes[y1:y2, x1:x2][ids[y1:y2, x1:x2] == one.number]
            counts = np.bincount(inside[inside >= 0], minlength=1)
            if counts.any():
                found.append((one, int(counts.argmax())))
            else:
                gone.append(("object whose pixels have no class", f"{pairs[index].mask}, {one.number}"))
        return Found(found, gone)

    files = [pair.image for pair in pairs]
    return numbered.make_source(f"voc:{path}", split, root, files, read, names, left_out, stored)
