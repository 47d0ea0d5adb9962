"""Masks as run lengths: COCO's compressed form, a few dozen bytes for an object instead of a bit for each pixel.

Runs go down the columns, one after the other, of 0 and of 1 in turn, beginning with 0. Their lengths, from the fourth
on as the difference from the run before the previous one, are written 5 bits a character, low bits first; the sixth bit
says that more follow, the last of the five is the sign (Lin et al. 2014, and pycocotools' maskApi.c).

A record holds a mask either way, as run lengths or as bits (h w); `bits` takes both.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int

from mapjax.data.geometry import Size

Mask = bytes | Bool[np.ndarray, "h w"]

_MOST = 13  # characters of a length: 64 bits


def encode(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """Write a mask as run lengths."""
    pixels = mask.T.ravel()
    borders = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate([[0], borders, [pixels.size]]))
    return compress(np.concatenate([[0], counts]) if pixels.size and pixels[0] else counts)


def decode(text: bytes, size: Size) -> Bool[np.ndarray, "h w"]:
    """Read a mask of height, width.

    Raises:
      ValueError: the runs do not add up to the pixels of the image.
    """
    return from_counts(decompress(text), size)


def from_counts(counts: Int[np.ndarray, " n"] | Sequence[int], size: Size) -> Bool[np.ndarray, "h w"]:
    """Draw run lengths that are not compressed; errors as for `decode`."""
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths add up to {sum(counts)} pixels, not to {size[0]}×{size[1]}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(pixels.reshape(size[1], size[0]).T)


def compress(counts: Int[np.ndarray, " n"] | Sequence[int]) -> bytes:
    """Write run lengths as characters."""
    lengths = np.asarray(counts, np.int64)
    values = lengths.copy()
    values[3:] -= lengths[1:-2]
    shifts = 5 * np.arange(_MOST)
    # A number has as many characters as its sign and bits fill: -16 to 15 one, -512 to 511 two, …
    magnitude = np.where(values < 0, ~values, values)
    needed = 1 + (magnitude[:, None] >= (16 << shifts[: _MOST - 1])).sum(1)
    characters = 48 + (values[:, None] >> shifts & 31) + 32 * (np.arange(_MOST) < needed[:, None] - 1)
    return characters[np.arange(_MOST) < needed[:, None]].astype(np.uint8).tobytes()


def decompress(text: str | bytes) -> Int[np.ndarray, " n"]:
    """Read run lengths from characters."""
    data = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(data & 32 == 0)
    starts = np.concatenate([[0], last + 1])[: len(last)]
    lengths = last - starts + 1
    data = data[: lengths.sum()]
    shifts = 5 * (np.arange(len(data)) - np.repeat(starts, lengths))
    values = np.add.reduceat((data & 31) << shifts, starts) if len(data) else data
    values -= (data[last] >> 4 & 1) << 5 * lengths
    for first in (1, 2):  # each run adds to the one before the previous one, but for the first three
        values[first::2] = np.cumsum(values[first::2])
    return values


def bits(mask: Mask, size: Size) -> Bool[np.ndarray, "h w"]:
    """Give a mask of height, width as bits; errors as for `decode`."""
    return decode(mask, size) if isinstance(mask, bytes) else mask


def stacked(masks: Iterable[Mask], size: Size) -> Bool[np.ndarray, "m h w"]:
    """Give masks of height, width as bits, in one array; errors as for `decode`."""
    return np.array([bits(mask, size) for mask in masks], bool).reshape(-1, *size)


def area(mask: Mask) -> int:
    """Count the pixels of a mask."""
    return int(decompress(mask)[1::2].sum()) if isinstance(mask, bytes) else int(np.count_nonzero(mask))
