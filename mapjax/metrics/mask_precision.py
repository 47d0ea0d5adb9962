"""Average precision of instance masks, as COCO defines it: precision.py, where overlap is that of masks.

The figures are named as those of boxes, after "mask_": both may be measured at once. hotcoco computes them; they equal
pycocotools.
"""

import functools

from mapjax.data.source import Source
from mapjax.metrics import instances, precision
from mapjax.task import Counts, Metric


def make(source: Source) -> Metric:
    """Make COCO's metric of masks against the truth of `source`, whose records have masks.

    A result holds "masks" beside its boxes (instances.py).

    Raises:
      UserError: the records have no masks.

    Example:
      >>> from mapjax.data.formats import scenes
      >>> from mapjax.metrics import mask_precision
      >>> mask_precision.make(scenes.make(split="val", val_length=2, needs="masks")).best
      'mask_AP'
    """
    instances.require(source, "masks", "mask_precision")

    def summarize(counts: Counts) -> dict[str, float]:
        evaluated = precision.evaluate(source, counts, precision.coco_truth(source), kind="segm")
        return precision.figures(source, evaluated, precision.NAMES, "mask_")

    measure = functools.partial(precision.measure, needs="masks")
    return Metric(measure, precision.merge, summarize, functools.partial(precision.files, source), best="mask_AP")
