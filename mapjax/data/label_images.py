"""Label images, a number for each object, 0 where there is none: the masks of the objects."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mapjax.data import run_lengths

MOST = 2**16 - 1  # objects that a 16-bit PNG can number


class Numbered(NamedTuple):
    """An object of a label image: its number, its mask as run lengths, the box around it x1,y1,x2,y2, its pixels."""

    number: int
    mask: bytes
    box: tuple[float, float, float, float]
    area: int


def objects_in(ids: Int[np.ndarray, "h w"]) -> list[Numbered]:
    """Find the objects of a label image, in order of their numbers; 0 is none.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import label_images
      >>> [(one.number, one.box, one.area) for one in label_images.objects_in(np.array([[0, 7, 7], [3, 7, 0]]))]
      [(3, (0.0, 1.0, 1.0, 2.0), 1), (7, (1.0, 0.0, 3.0, 2.0), 3)]
    """
    height = len(ids)
    if not ids.size:
        return []
    flat = ids.T.ravel()  # down the columns, as run lengths go; all objects at once
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.concatenate([starts[1:], [flat.size]])
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    numbers, firsts = np.unique(values[order], return_index=True)
    found = []
    for number, rows in zip(numbers.tolist(), np.split(order, firsts[1:])):
        if number:
            begin, end = starts[rows], ends[rows]
            counts = np.diff(np.concatenate([[0], np.stack([begin, end], axis=1).ravel(), [flat.size]]))
            mask = run_lengths.compress(counts if counts[-1] else counts[:-1])
            found.append(Numbered(int(number), mask, _bounds(begin, end, height), int((end - begin).sum())))
    return found


def _bounds(begin: np.ndarray, end: np.ndarray, height: int) -> tuple[float, float, float, float]:
    """Return the box around runs; one that goes on in the next column touches top and bottom."""
    left, right = begin // height, (end - 1) // height
    top = np.where(left == right, begin % height, 0)
    bottom = np.where(left == right, (end - 1) % height + 1, height)
    return float(left.min()), float(top.min()), float(right.max() + 1), float(bottom.max())
