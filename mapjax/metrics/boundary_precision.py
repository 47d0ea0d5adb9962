"""Average precision of the boundaries of masks (Cheng et al. 2021, "Boundary IoU", arXiv:2103.16562).

A boundary is the part of a mask within a distance of its contour: 2 % of the image's diagonal, at least a pixel. The
overlap of two masks is the lesser of their IoU and the IoU of their boundaries, so that a large object needs a sharp
outline too. All else is as for masks (mask_precision.py); the figures are named after "boundary_".
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np
from jaxtyping import Bool, Float

from mapjax.data import run_lengths
from mapjax.data.geometry import mask_bounds
from mapjax.data.source import Source, truth_of
from mapjax.errors import UserError
from mapjax.metrics import instances, precision, ranking
from mapjax.task import Counts, Metric


def make(source: Source, width: float | int = 0.02) -> Metric:
    """Make the metric against the truth of `source`, whose records have masks.

    Args:
      width: of a boundary, as a share of the image's diagonal.

    Raises:
      UserError: the records have no masks; a width that is not above 0.
    """
    instances.require(source, "masks", "boundary_precision")
    if not 0 < width < 1:
        raise UserError(f"boundary_precision: width={width} must be a share of the diagonal, above 0 and below 1.")

    def summarize(counts: Counts) -> dict[str, float]:
        images = [
            _pairs(truth_of(source, index), counts[index], len(source.classes), width) for index in sorted(counts)
        ]
        by_class = {name: [one[k] for one in images] for k, name in enumerate(source.classes)}
        return {f"boundary_{name}": value for name, value in ranking.figures(by_class).items()}

    measure = functools.partial(precision.measure, needs="masks")
    files = functools.partial(precision.files, source)
    return Metric(measure, precision.merge, summarize, files, best="boundary_AP")


def boundary(mask: Bool[np.ndarray, "h w"], distance: int) -> Bool[np.ndarray, "h w"]:
    """Return the pixels of a mask that are within a distance, in rows and columns, of one outside it or the image.

    Example:
      >>> import numpy as np
      >>> from mapjax.metrics import boundary_precision
      >>> boundary_precision.boundary(np.ones((5, 4), bool), 1).sum()
      np.int64(14)
    """
    found = np.zeros_like(mask)
    if not mask.any():
        return found
    x1, y1, x2, y2 = mask_bounds(mask).astype(int).tolist()
    part = mask[y1:y2, x1:x2]
    # A pixel is inside where the square around it is full: its sum, as the differences of sums from the corner.
    sums = np.pad(part, distance).cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    side = 2 * distance + 1
    full = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side] == side**2
    found[y1:y2, x1:x2] = part & ~full
    return found


def _pairs(record: Mapping[str, Any], found: Mapping[str, Any], classes: int, width: float) -> list[ranking.Pairs]:
    """Pair the answers and truths of one image, by class."""
    size = (int(record["size"][0]), int(record["size"][1]))
    distance = max(1, round(width * float(np.hypot(*size))))
    answers, truths = (
        _both([run_lengths.bits(mask, size) for mask in masks], distance)
        for masks in (instances.masks_of(found), record["masks"])
    )
    crowd = np.asarray(record["crowd"], bool)

    def overlap(rows: np.ndarray, others: np.ndarray) -> Float[np.ndarray, "d g"]:
        each = [
            hotcoco.mask.iou([one[row] for row in rows], [other[row] for row in others], crowd[others])
            for one, other in zip(answers, truths)
        ]
        return np.minimum(*each)

    areas = np.array([hotcoco.mask.area(one) for one in answers[0]], np.float64)
    answered = np.asarray(found["classes"]), np.asarray(found["scores"], np.float64), areas
    truth = np.asarray(record["classes"]), np.asarray(record["areas"], np.float64), crowd
    return [ranking.pair_up(overlap, answered, truth, number) for number in range(classes)]


def _both(masks: Sequence[Bool[np.ndarray, "h w"]], distance: int) -> tuple[list[Any], list[Any]]:
    """Return masks and their boundaries, as run lengths."""
    pairs = [(_runs(mask), _runs(boundary(mask, distance))) for mask in masks]
    return [mask for mask, _ in pairs], [border for _, border in pairs]


def _runs(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": run_lengths.encode(mask)}
