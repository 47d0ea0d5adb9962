"""The figures of classification: of one class an image (accuracy.py), or of several (multilabel.py)."""

from mapjax.data.source import Source, labels_of
from mapjax.metrics import accuracy, multilabel
from mapjax.task import Metric


def make(source: Source) -> Metric:
    """Make the metric that fits the labels of `source`.

    Example:
      >>> from mapjax.data.formats import digits
      >>> from mapjax.metrics import classification
      >>> classification.make(digits.make(split="val")).best
      'top1'
    """
    return (multilabel if labels_of(source).ndim == 2 else accuracy).make(source)
