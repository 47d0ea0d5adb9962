"""Masks as run lengths: COCO's compressed form, a few dozen bytes for an object instead of a bit for each pixel.

Runs go down the columns, one after the other, of 0 and of 1 in turn, beginning with 0. Their lengths, from the fourth
on as the difference from the run before the previous one, are written 5 bits a character, low bits first; the sixth bit
says that more follow, the last of the five is the sign (Lin et al. 2014, and pycocotools' maskApi.c).

A record holds a mask either way, as run lengths or as bits (h w); `bits` takes both.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int

from mapjax.data.geometry import Size

Mask = bytes | Bool[np.ndarray, "h w"]

_MOST = 13  # characters of a length: 64 bits


class Window(NamedTuple):
    """The part of a mask that holds all that is set, and where in the image its upper left pixel is."""

    bits: Bool[np.ndarray, "h w"]
    left: int
    top: int


def encode(mask: Bool[np.ndarray, "h w"], left: int = 0, right: int = 0) -> bytes:
    """Write a mask as run lengths; beside it so many columns of the image are empty."""
    pixels = mask.T.ravel()
    borders = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate([[0], borders, [pixels.size]]))
    counts = np.concatenate([[0], counts]) if pixels.size and pixels[0] else counts
    counts[0] += left * len(mask)
    if len(counts) % 2:
        counts[-1] += right * len(mask)
    elif right:
        counts = np.append(counts, right * len(mask))
    return compress(counts)


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


def cut(mask: Mask, size: Size, margin: int = 0) -> Window:
    """Cut out of a mask of height, width what is set in it, with some pixels around it where the image has them.

    Of run lengths no more columns are drawn than these. Without a pixel the window is empty.

    Raises:
      ValueError: the runs do not add up to the pixels of the image.
    """
    first = 0
    if isinstance(mask, bytes):
        mask, first = _columns(decompress(mask), size, margin)
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width:
        return Window(np.zeros((0, 0), bool), 0, 0)
    left, top = max(x - margin, 0), max(y - margin, 0)
    bits = mask[top : y + height + margin, left : x + width + margin]
    return Window(np.ascontiguousarray(bits), first + left, top)


def _columns(counts: Int[np.ndarray, " n"], size: Size, margin: int) -> tuple[Bool[np.ndarray, "h w"], int]:
    """Draw the columns of a mask of height, width that have something set, with a margin; and the first's number."""
    height, width = size
    ends = np.cumsum(counts)
    if len(counts) == 0 or ends[-1] != height * width:
        raise ValueError(f"run lengths add up to {sum(counts)} pixels, not to {height}×{width}")
    filled = np.flatnonzero(counts[1::2]) * 2 + 1
    if not len(filled):
        return np.zeros((height, 0), bool), 0
    first = max(int(ends[filled[0] - 1]) // height - margin, 0)
    last = min((int(ends[filled[-1]]) - 1) // height + 1 + margin, width)
    lengths = np.diff(np.clip(ends, first * height, last * height), prepend=first * height)
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, lengths)
    return pixels.reshape(last - first, height).T, first


def stacked(masks: Iterable[Mask], size: Size) -> Bool[np.ndarray, "m h w"]:
    """Give masks of height, width as bits, in one array; errors as for `decode`."""
    return np.array([bits(mask, size) for mask in masks], bool).reshape(-1, *size)


def area(mask: Mask) -> int:
    """Count the pixels of a mask."""
    return int(decompress(mask)[1::2].sum()) if isinstance(mask, bytes) else int(np.count_nonzero(mask))
