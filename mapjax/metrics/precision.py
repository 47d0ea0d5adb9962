"""Average precision of detections, as COCO defines it (Lin et al. 2014, "Microsoft COCO", arXiv:1405.0312).

The counts are the detections themselves, `{index of the record: {"boxes", "scores", "classes"}}`, with what they have
beside their boxes (instances.py): average precision ranks all detections of a data set together, so nothing shorter is
a monoid. Merging is the union of two dicts, and an image met twice (padding, two processes) counts once. hotcoco
computes the numbers; they equal pycocotools. best_f1.py adds F1 and the score thresholds that are best for it,
detection_errors.py the causes of what AP50 lacks.
"""

import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import hotcoco
import numpy as np
from jaxtyping import Float

from mapjax.data import labels
from mapjax.data.source import Records, Source, truth_of
from mapjax.metrics import best_f1, detection_errors, instances, matching
from mapjax.runtime.names import shown
from mapjax.task import DETECTION, Batch, Counts, Metric, Result

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIZES = ("all", "small", "medium", "large")  # of objects, by their area: below 32², 96² pixels, and more


_ALWAYS = ("image_id", "category_id", "score")
_SAID = {"segm": "segmentation", "keypoints": "keypoints"}  # by the kind of overlap
_TRUTHS: weakref.WeakKeyDictionary[Records, dict[str, Any]] = weakref.WeakKeyDictionary()
_INDEXED: weakref.WeakKeyDictionary[Records, hotcoco.COCO] = weakref.WeakKeyDictionary()


class Curve(NamedTuple):
    """Precision over recall of one class: interpolated at 101 recalls, 0 past the highest recall reached.

    `scores` is the confidence at which each recall is reached; `average` is the area under the curve (AP at that
    IoU), -1 for a class without truth, whose arrays are all -1 too.
    """

    recall: Float[np.ndarray, "101"]
    precision: Float[np.ndarray, "101"]
    scores: Float[np.ndarray, "101"]
    average: float


def make(source: Source) -> Metric:
    """Make COCO's metric against the truth of `source`.

    Only measured images count, so a part of a split can be scored. A figure without any truth to measure (no large
    object, say) is -1, as in pycocotools.

    Example:
      >>> from mapjax.data.formats import scenes
      >>> from mapjax.metrics import precision
      >>> precision.make(scenes.make(split="val", val_length=2)).best
      'AP'
    """

    truth = functools.partial(coco_truth, source)

    def summarize(counts: Counts) -> dict[str, float]:
        named = figures(source, evaluate(source, counts, truth()), NAMES)
        return named | best_f1.scalars(source, counts)

    def written(counts: Counts) -> dict[str, Any]:
        return files(source, counts) | {"errors.json": detection_errors.of(source, counts)._asdict()}

    return Metric(measure, merge, summarize, written, best="AP")


def figures(source: Source, evaluated: hotcoco.COCOeval, names: Sequence[str], prefix: str = "") -> dict[str, float]:
    """Name what was evaluated: the figures of COCO's summary, and AP and AP50 of each class, each after the prefix."""
    evaluated.summary_lines()  # fills `stats`, and unlike summarize() prints nothing
    precision = _table(evaluated, "precision")
    scalars = dict(zip(names, map(float, evaluated.stats), strict=True))
    for name, values in (("AP", precision), ("AP50", precision[:1])):
        scalars |= {f"{name}/{label}": _mean(values[..., k]) for k, label in columns(source)}
    return {f"{prefix}{name}": value for name, value in scalars.items()}


def files(source: Source, counts: Counts) -> dict[str, Any]:
    """Give the answers and the truth in COCO's formats, by the names of their files."""
    truth = coco_truth(source)
    return {"predictions.json": coco_results(source, counts, truth), "truth.json": truth}


def measure(result: Result, batch: Batch, needs: str = "boxes") -> Counts:
    """Take the valid detections of the real images of a batch: {index: {"boxes" n 4, "scores" n, "classes" n}}.

    Masks and keypoints of a result are kept beside them (instances.py).

    Raises:
      KeyError: the result has nothing of the kind that a metric needs.
    """
    if not labels.has(result, needs):
        raise KeyError(needs)
    boxes, scores, classes, valid = (np.asarray(result[key]) for key in DETECTION)
    return {
        int(index): {"boxes": boxes[i][valid[i]], "scores": scores[i][valid[i]], "classes": classes[i][valid[i]]}
        | instances.taken(result, batch, i, valid[i])
        for i, (index, real) in enumerate(zip(np.asarray(batch["index"]), np.asarray(batch["mask"])))
        if real
    }


def merge(one: Counts, other: Counts) -> Counts:
    """Unite the detections of two sets of images; an image in both counts once."""
    return {**one, **other}


def coco_truth(source: Source) -> dict[str, Any]:
    """Give the truth of a source as a COCO annotation dict (what pycocotools reads), written once for a source.

    Boxes are x, y, width, height.
    """
    if not isinstance(source.records, Records):  # a plain list cannot be remembered by
        return _written(source)
    if source.records not in _TRUTHS:
        _TRUTHS[source.records] = _written(source)
    return _TRUTHS[source.records]


def _written(source: Source) -> dict[str, Any]:
    images, annotations, ids = [], [], [int(number) for number in source.category_ids]
    for record in (truth_of(source, index) for index in range(len(source.records))):
        height, width = (int(side) for side in record["size"])
        images.append({"id": int(record["id"]), "file_name": record["file"], "width": width, "height": height})
        boxes = np.asarray(record["boxes"], np.float64).reshape(-1, 4)
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        known = (np.asarray(record[key]).tolist() for key in ("classes", "areas", "crowd"))
        for box, k, area, crowd, beside in zip(sides, *known, instances.of_truth(record)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(record["id"]),
                    "category_id": ids[k],
                    "bbox": box,
                    "area": float(area),
                    "iscrowd": int(crowd),
                    **beside,
                }
            )
    points = instances.of_categories(source)
    categories = [{"id": int(i), "name": name, **points} for i, name in zip(source.category_ids, source.classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_results(source: Source, counts: Counts, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write detections in COCO's results format: a dict each, with box as x, y, width, height in original pixels.

    What they have beside their boxes stands there as `segmentation` and `keypoints`.

    Args:
      truth: what `coco_truth` made of the source.
    """
    ids = {index: truth["images"][index]["id"] for index in counts}
    beside = (more for index in sorted(counts) for more in instances.of_found(counts[index], truth["images"][index]))
    return [
        {"image_id": int(row[0]), "category_id": int(row[6]), "bbox": row[1:5].tolist(), "score": float(row[5]), **more}
        for row, more in zip(_rows(source, counts, ids), beside, strict=True)
    ]


def curves(source: Source, counts: Counts, iou: float = 0.5) -> dict[str, Curve]:
    """Compute the precision–recall curve of every class at one IoU threshold."""
    return curves_by_size(source, counts, iou)["all"]


def curves_by_size(source: Source, counts: Counts, iou: float = 0.5) -> dict[str, dict[str, Curve]]:
    """Compute the curve of every class at one IoU threshold, for objects of each of SIZES."""
    evaluated = evaluate(source, counts, coco_truth(source), iou=iou)
    recall = np.asarray(evaluated.params.rec_thrs)
    found = {}
    for area, size in enumerate(SIZES):
        precision, scores = (_table(evaluated, name, area)[0] for name in ("precision", "scores"))
        found[size] = {
            label: Curve(recall, precision[:, k], scores[:, k], _mean(precision[:, k])) for k, label in columns(source)
        }
    return found


def indexed(truth: Mapping[str, Any]) -> hotcoco.COCO:
    """Index what `coco_truth` gives, or truth.json holds; in it names that are no text are escaped."""
    images = [{**image, "file_name": shown(image["file_name"])} for image in truth["images"]]
    categories = [{**category, "name": shown(category["name"])} for category in truth["categories"]]
    return hotcoco.COCO({**truth, "images": images, "categories": categories})


def evaluate(
    source: Source,
    counts: Counts,
    truth: Mapping[str, Any],
    *,
    iou: float | None = None,
    kind: str = "bbox",
    sigmas: Sequence[float] | None = None,
) -> hotcoco.COCOeval:
    """Match the detections of the measured images to their truth; at COCO's ten IoU thresholds, or at one.

    Args:
      kind: what overlaps: "bbox", "segm" or "keypoints".
      sigmas: of the keypoints.
    """
    ids = {index: truth["images"][index]["id"] for index in sorted(counts)}
    # To hotcoco no image at all is every image.
    known = _index(source, truth) if ids else indexed({**truth, "images": [], "annotations": []})
    found: Any = _rows(source, counts, ids)
    if kind != "bbox":  # without boxes, by which the sizes of answers would be judged
        found = [{key: one[key] for key in (*_ALWAYS, _SAID[kind])} for one in coco_results(source, counts, truth)]
    evaluated = hotcoco.COCOeval(known, known.load_res(found), kind)
    evaluated.params.img_ids = list(ids.values())
    if iou is not None:
        evaluated.params.iou_thrs = [iou]
    if sigmas is not None:
        evaluated.params.kpt_oks_sigmas = list(sigmas)
    evaluated.evaluate()
    evaluated.accumulate()
    return evaluated


def _index(source: Source, truth: Mapping[str, Any]) -> hotcoco.COCO:
    """Index the truth of a source, once for it; a plain list of records cannot be remembered by."""
    if not isinstance(source.records, Records):
        return indexed(truth)
    if source.records not in _INDEXED:
        _INDEXED[source.records] = indexed(truth)
    return _INDEXED[source.records]


def _table(evaluated: hotcoco.COCOeval, name: str, area: int = 0) -> Float[np.ndarray, "iou recall class"]:
    """Take one of the accumulated arrays, for objects of one of SIZES and at most 100 detections an image."""
    tables = evaluated.eval or {}  # accumulate() has filled it
    return np.asarray(tables[name])[:, :, :, area, -1]


def _rows(source: Source, counts: Counts, ids: Mapping[int, int]) -> Float[np.ndarray, "n 7"]:
    """Gather detections as rows: image id, x, y, width, height, score, category id; by index, then as decoded."""
    image, boxes, scores, labels = matching.found(counts)
    rows = np.empty((len(scores), 7))
    rows[:, 0] = np.array([ids[index] for index in sorted(counts)], np.float64)[image]
    rows[:, 1:3], rows[:, 3:5] = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    rows[:, 5], rows[:, 6] = scores, np.asarray(source.category_ids, np.float64)[labels]
    return rows


def columns(source: Source) -> list[tuple[int, str]]:
    """Pair each class with its place in the evaluator's arrays, which are in order of category id."""
    order = np.argsort(np.asarray(source.category_ids, np.int64), kind="stable")
    return sorted(((place, source.classes[k]) for place, k in enumerate(order)), key=lambda pair: order[pair[0]])


def _mean(precision: Float[np.ndarray, "..."]) -> float:
    """Average the entries that have truth (those that are not -1)."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
