"""What is odd about boxes that are kept: thinner than a pixel, or the same object again; and where most are so."""

from collections.abc import Callable, Mapping

import numpy as np

from mapjax.data.checks.overview import Counted
from mapjax.data.objects import MIN_SIDE
from mapjax.errors import UserError

THIN, AGAIN = "box thinner than a pixel", "box listed before, of the same class"
_FEWEST = 4  # boxes of which half may be odd by chance
_CAUSES = {
    THIN: "boxes are in pixels, so multiply shares of the image by its width and height",
    AGAIN: "the annotations were probably merged with a copy of themselves, so keep one",
}


def count(objects: Mapping[str, np.ndarray], name: Callable[[int], str]) -> Counted:
    """Count the boxes that are odd, by reason, each with an example.

    Args:
      objects: of all records, as `Records.objects` gives them.
      name: of the image of a record.
    """
    boxes, counts = objects["boxes"], objects["counts"]
    records = np.repeat(np.arange(len(counts)), counts)
    thin = ~(boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)
    found = {THIN: np.flatnonzero(thin), AGAIN: _repeated(records, objects["classes"], boxes)}
    starts = np.cumsum(counts) - counts
    return {
        reason: (len(rows), f"{name(int(records[rows[0]]))} #{rows[0] - starts[records[rows[0]]] + 1}")
        for reason, rows in found.items()
        if len(rows)
    }


def require_plausible(counted: Counted, boxes: int, where: str) -> None:
    """Stop where half of the boxes of a split, or more, are odd in one way.

    Raises:
      UserError: naming how many there are, an example, and the likely cause.
    """
    for reason, cause in _CAUSES.items():
        number, example = counted.get(reason, (0, ""))
        if boxes >= _FEWEST and 2 * number >= boxes:
            raise UserError(f"{where} has {boxes} boxes, {number} of them × {reason}, such as {example}: {cause}.")


def _repeated(records: np.ndarray, classes: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the rows, ascending, of boxes that are those of an earlier row of the same record and class."""
    keys = (*boxes.T, classes, records)
    order = np.lexsort(keys)  # stable: of equal ones the first comes first
    same = np.all([key[order[1:]] == key[order[:-1]] for key in keys], axis=0)
    return np.sort(order[1:][same])
