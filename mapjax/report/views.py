"""How answers are shown, and how their counts are reported: the one place that knows which view belongs to what.

A metric of your own has no sections here, and its scalars still stand among the figures; a kind of result that is not
in the table is refused when it is to be drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mapjax.data import labels
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.report import classifications, detections, segmentations
from mapjax.report.section import Section, Shown
from mapjax.task import Counts

SECTIONS = {  # by metric: (source, counts, metrics) → sections of a report
    "precision": detections.sections,
    "mask_precision": detections.sections,
    "boundary_precision": detections.sections,
    "keypoint_precision": detections.sections,
    "classification": classifications.sections,
    "accuracy": classifications.sections,
    "multilabel": classifications.sections,
    "iou": segmentations.sections,
}
SHOWN = {  # by a key of the result: (result row, image, …) → how it is shown
    "probabilities": classifications.show,
    "map_logits": segmentations.show,
    "boxes": detections.show,
}


def sections(source: Source, counts: Counts, metrics: Mapping[str, Any]) -> list[Section]:
    """Make the sections of all metrics of an evaluation, whose counts are by name (metrics/combine.py)."""
    known = [name for name in counts if name in SECTIONS]
    alike = [name for name in known if SECTIONS[name] is detections.sections]  # their counts hold the same answers
    shown = [name for name in known if name not in alike[1:]]
    return [section for name in shown for section in SECTIONS[name](source, counts[name], metrics)]


def show(
    result: Mapping[str, np.ndarray],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    classes: Sequence[str],
    score: float | Float[np.ndarray, " c"],
    enlarge: bool,
    skeleton: Sequence[tuple[int, int]] = (),
) -> Shown:
    """Show the answer to one image, as values and as a drawing.

    Args:
      result: a row of a task's Result.
      image: upright RGB.
      classes: their names.
      score: from here on an answer counts as found; of a detector also one for each class.
      enlarge: draw a small image several times as large.
      skeleton: pairs of keypoints that a line joins, where objects have keypoints.

    Raises:
      UserError: a kind of result that has no view.
    """
    kind = next((key for key in SHOWN if key in result), None)
    if kind is None:
        raise UserError(f"a result with the keys {', '.join(result)} cannot be drawn; known are: {', '.join(SHOWN)}.")
    more = {"skeleton": skeleton} if labels.has(result, "keypoints") else {}
    return SHOWN[kind](result, image, classes=classes, score=score, enlarge=enlarge, **more)
