"""Average precision of keypoints, as COCO defines it: precision.py, where overlap is OKS.

OKS is the mean over the labelled keypoints of exp(-d² / (2 area (2 sigma)²)), d the distance in pixels and area that of
the object: like IoU, 1 where all are in place. Each keypoint has a sigma, how far annotators differ as a share of the
object's size (https://cocodataset.org/#keypoints-eval). The figures are named after "keypoint_". hotcoco computes them;
they equal pycocotools.
"""

import functools
from collections.abc import Sequence

from mapjax.data import skeletons
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.metrics import instances, precision
from mapjax.task import Counts, Metric

NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
_SIGMAS = (0.026, *(0.025,) * 2, *(0.035,) * 2, *(0.079,) * 2, *(0.072,) * 2, *(0.062,) * 2)
_SIGMAS += (*(0.107,) * 2, *(0.087,) * 2, *(0.089,) * 2)
COCO = dict(zip(skeletons.PERSON.names, _SIGMAS, strict=True))  # of people
OTHER = round(sum(COCO.values()) / len(COCO), 3)  # where neither the data nor COCO say one


def make(source: Source, sigmas: Sequence[float] = ()) -> Metric:
    """Make COCO's metric of keypoints against the truth of `source`, whose records have keypoints.

    A result holds "keypoints" beside its boxes (instances.py).

    Args:
      sigmas: of each keypoint; by default those that the data set says, else COCO's for keypoints of its names, and
        their mean, 0.067, for all others.

    Raises:
      UserError: the records have no keypoints; not one sigma above 0 for each.
    """
    instances.require(source, "keypoints", "keypoint_precision")
    chosen = sigmas_of(source, sigmas)

    def summarize(counts: Counts) -> dict[str, float]:
        truth = precision.coco_truth(source)
        evaluated = precision.evaluate(source, counts, truth, kind="keypoints", sigmas=chosen)
        return precision.figures(source, evaluated, NAMES, "keypoint_")

    measure = functools.partial(precision.measure, needs="keypoints")
    return Metric(measure, precision.merge, summarize, functools.partial(precision.files, source), best="keypoint_AP")


def sigmas_of(source: Source, given: Sequence[float] = ()) -> tuple[float, ...]:
    """Choose the sigma of each keypoint of a source, as `make` says; errors likewise.

    Example:
      >>> from mapjax.data.source import Source
      >>> from mapjax.metrics import keypoint_precision
      >>> keypoint_precision.sigmas_of(Source("", "", ("cat",), (1,), [], {}, "", keypoints=("nose", "tail")))
      (0.026, 0.067)
    """
    names = source.keypoints
    found = tuple(given) or source.sigmas or tuple(COCO.get(name, OTHER) for name in names)
    if len(found) != len(names) or not all(sigma > 0 for sigma in found):
        raise UserError(
            f"keypoint_precision: sigmas={found} must be {len(names)} numbers above 0, one for each keypoint of "
            f"{source.name}."
        )
    return found
