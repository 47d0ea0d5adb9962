"""Records of images that each have a mask file beside them."""

import hashlib
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from mapjax.data import images, lookup
from mapjax.data.formats import label_maps
from mapjax.data.formats.label_maps import Coding
from mapjax.data.source import Record, Records, Source
from mapjax.errors import UserError
from mapjax.runtime.names import encoded

_THREADS = 16  # for the latency of many small files

Dropped = dict[str, list[str]]
ReadMask = Callable[[int, tuple[int, int]], np.ndarray]  # index, size → label map (h w) uint8


class Pair(NamedTuple):
    """An image and its mask, as names relative to the data folder."""

    image: str
    mask: str


class Masked:
    """Records of images below a folder; a label map is read when its record is made, an image later."""

    def __init__(
        self,
        root: pathlib.Path,
        ids: Sequence[int],
        files: Sequence[str],
        sizes: np.ndarray,
        read: ReadMask,
        stored: bool = False,
    ):
        """Take the folder, the number, file and size of each image, and what reads the label map of one.

        Args:
          stored: the label maps were drawn on the images as stored, whatever EXIF says.
        """
        self.files, self.sizes = files, sizes
        self._beside = {"stored": np.bool_(True)} if stored else {}
        self._root, self._ids, self._read = root, ids, read

    def truth(self, index: int) -> Record:
        """Return a record without its label map; `image` is the path."""
        return {
            "id": self._ids[index],
            "file": self.files[index],
            "image": str(self._root / self.files[index]),
            "size": self.sizes[index].copy(),
            **self._beside,
        }

    def label_map(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """Read the label map at `index`; errors as for `label_maps.read`."""
        height, width = self.sizes[index].tolist()
        return self._read(range(len(self.files))[index], (height, width))

    def record(self, index: int) -> Record:
        """Make the record at `index`; errors as for `label_map`."""
        return {**self.truth(index), "label_map": self.label_map(index)}


class Files:
    """Reads the masks of a list of files, all of one coding."""

    def __init__(self, root: pathlib.Path, masks: Sequence[str], coding: Coding):
        """Take the folder, the masks' names relative to it, and what their pixels mean."""
        self._root, self._masks, self._coding = root, masks, coding

    def __call__(self, index: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
        """Read the label map at `index`; errors as for `label_maps.read`."""
        return label_maps.read(str(self._root / self._masks[index]), self._coding, size)


def make_source(
    name: str,
    split: str,
    root: pathlib.Path,
    pairs: Sequence[Pair],
    coding: Coding,
    dropped: Mapping[str, list[str]],
    stored: bool = False,
) -> Source:
    """Put a source together, of the images that have a mask of their size; only headers are read.

    Args:
      dropped: what was left out before.
      stored: the masks were drawn on the images as stored, whatever EXIF says.

    Raises:
      UserError: there are images, and not one has a mask that fits.
    """
    kept, sizes, lengths, misfits = measure(root, pairs)
    left_out = {reason: where for reason, where in {**dropped, **misfits}.items() if where}
    if not kept and left_out:
        reason, where = next(iter({**misfits, **left_out}.items()))
        raise UserError(
            f"{name}: no image of split {split!r} has a mask that fits: {len(where)} × {reason}, such as {where[0]}."
        )
    files, masks = [pair.image for pair in kept], [pair.mask for pair in kept]
    digest = hashlib.sha256(encoded("\n".join([*coding.classes, "", *files, "", *masks])))
    for array in (sizes, lengths, coding.table, coding.colours, coding.colour_classes):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(b"stored" if stored else b"")
    masked = Masked(root, range(len(files)), files, sizes, Files(root, masks, coding), stored)
    return source_of(
        name, split, masked, coding.classes, coding.ids, dropped=left_out, fingerprint=digest.hexdigest()[:16]
    )


def source_of(
    name: str,
    split: str,
    masked: Masked,
    classes: Sequence[str],
    category_ids: Sequence[int],
    *,
    dropped: dict[str, list[str]],
    fingerprint: str,
    noted: dict[str, list[str]] | None = None,
) -> Source:
    """Make the source of records with label maps."""
    records = Records(
        len(masked.files),
        masked.record,
        names=masked.files,
        truth=masked.truth,
        sizes=masked.sizes,
        label_map=masked.label_map,
    )
    return Source(name, split, tuple(classes), tuple(category_ids), records, dropped, fingerprint, noted=noted or {})


def measure(
    root: pathlib.Path, pairs: Sequence[Pair]
) -> tuple[list[Pair], Int32[np.ndarray, "n 2"], np.ndarray, Dropped]:
    """Read the headers of images and masks.

    Returns:
      The pairs whose sizes agree, their height, width, the length of each mask file in bytes, and what does not fit.
    """
    kept, sizes, lengths = [], [], []
    dropped: Dropped = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for pair, (size, length, reason, where) in zip(pairs, pool.map(partial(_size, root), pairs, chunksize=16)):
            if reason:
                dropped.setdefault(reason, []).append(where)
                continue
            kept.append(pair)
            sizes.append(size)
            lengths.append(length)
    return kept, np.array(sizes, np.int32).reshape(-1, 2), np.array(lengths, np.int64), dropped


def _size(root: pathlib.Path, pair: Pair) -> tuple[tuple[int, int], int, str, str]:
    """Return the size of an image as its mask was drawn and the mask's bytes, or the reason to drop it, and which."""
    try:
        header = images.read_header(root / pair.image)
    except UserError as error:
        return (0, 0), 0, images.fault_of(error), pair.image
    try:
        drawn = images.read_header(root / pair.mask, mask=True).stored
        length = (root / pair.mask).stat().st_size
    except (UserError, OSError):
        return (0, 0), 0, "unreadable mask", pair.mask
    if drawn in (header.upright, header.stored):
        return drawn, length, "", ""
    size = header.upright
    where = f"{pair.mask} ({drawn[0]}×{drawn[1]}, and the image {size[0]}×{size[1]}, height × width)"
    return (0, 0), 0, "mask of another size than its image", where


def pair_up(
    image_files: Mapping[str, str], masks: Mapping[str, str], stems: Iterable[str]
) -> tuple[list[Pair], dict[str, list[str]]]:
    """Find the image and the mask of every stem, however it is spelled (mapjax.data.lookup).

    Args:
      images, masks: stem → name relative to the data folder.

    Returns:
      The pairs, and what is missing.
    """
    pairs, dropped = [], {}
    stems = list(stems)
    image_files, masks = lookup.values(stems, image_files), lookup.values(stems, masks)
    for stem in stems:
        if stem in image_files and stem in masks:
            pairs.append(Pair(image_files[stem], masks[stem]))
        elif stem in image_files:
            dropped.setdefault("missing mask", []).append(image_files[stem])
        else:
            dropped.setdefault("missing image", []).append(masks.get(stem, stem))
    return pairs, dropped
