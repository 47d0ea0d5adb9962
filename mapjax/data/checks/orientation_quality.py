"""The start-up check of EXIF: whether labels were drawn on images as it turns them, or on their pixels as stored."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from mapjax.data import images
from mapjax.data.source import Source, truth_of
from mapjax.errors import UserError

_LOOKED_AT = 300  # headers
_THREADS = 8


def contradiction(source: Source) -> str:
    """Say that the sizes of labels are those of images as stored though these are to be upright, or the reverse.

    At most 300 headers are read, evenly spread over the split; "" where nothing contradicts.
    """
    length = len(source.records)
    if not _is_of_files(source):
        return ""
    rows = (np.arange(min(length, _LOOKED_AT)) * length // min(length, _LOOKED_AT)).tolist()
    with ThreadPoolExecutor(_THREADS) as pool:
        wrong = list(filter(None, pool.map(partial(_other_way, source), rows)))
    if not wrong:
        return ""
    stored = bool(truth_of(source, 0).get("stored"))
    this, other = ("stored", "upright") if stored else ("upright", "stored")
    return (
        f"{source.split}: of {len(rows)} images looked at {len(wrong)} are turned by EXIF, and the size with their "
        f"labels is that of the {other} image, such as {wrong[0]}; these are read so, all others {this}: if labels "
        f"were drawn on {other} images, set data.orientation={other}."
    )


def _is_of_files(source: Source) -> bool:
    try:
        return len(source.records) > 0 and isinstance(truth_of(source, 0).get("image"), str)
    except UserError:  # training tells it
        return False


def _other_way(source: Source, row: int) -> str:
    """Return the name of an image whose labels have the size that it has only the other way; else nothing."""
    try:
        record = truth_of(source, row)
        header = images.read_header(record["image"])
    except UserError:  # training tells it
        return ""
    size = tuple(int(side) for side in record.get("size", ()))
    expected, other = header.upright, header.stored
    if record.get("stored"):
        expected, other = other, expected
    return record["file"] if size == other != expected else ""
