"""What a run answered to each image, as its folder says it: for figures of images drawn again and again.

A figure is a function of how often each image counts (n,); for once each it is what result.json says.
"""

import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import hotcoco
import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.metrics import precision as coco
from mapjax.runtime import workdir

Times = Int[np.ndarray, " n"]
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads precision


class Answers(NamedTuple):
    """The images of a run by name, in a fixed order, and a figure of them."""

    names: tuple[str, ...]
    figure: Callable[[Times], float]


class Ranked(NamedTuple):
    """Detections of one class, the most confident first, against the truth at each IoU threshold.

    image: of each.
    hits: the places of those that found an object, in order; of thresholds with fewer the rest is d.
    passed: counts neither way (a crowd's).
    objects: in each image.
    """

    image: Int[np.ndarray, " d"]
    hits: Int[np.ndarray, "iou h"]
    passed: Bool[np.ndarray, "iou d"]
    objects: Int[np.ndarray, " n"]


def read(folder: pathlib.Path, metric: str) -> Answers | None:
    """Read the answers of a run that a metric is computed from; None for one that is not known here.

    Raises:
      UserError: a file of the folder is missing or damaged.
    """
    reader = READERS.get(metric)
    return None if reader is None else reader(folder)


def accuracy(right: Bool[np.ndarray, " n"], times: Times) -> float:
    """Give the share of images that are right."""
    return float(right @ times / times.sum())


def mean_iou(pixels: Int[np.ndarray, "n 3 c"], times: Times) -> float:
    """Give mIoU as metrics/iou.py does, from each image's pixels in both maps, the true and the predicted ones."""
    both, truth, predicted = np.tensordot(times, pixels, 1)
    occurs = truth > 0
    iou = both / np.maximum(truth + predicted - both, 1)
    return float(iou[occurs].mean()) if occurs.any() else -1.0


def average_precision(ranked: list[Ranked], times: Times) -> float:
    """Give COCO's AP: the mean over classes with truth and over thresholds of the precision at 101 recalls."""
    objects = [int(one.objects @ times) for one in ranked]
    found = [_at_recalls(one, times, count) for one, count in zip(ranked, objects) if count]
    return float(np.mean(found)) if found else -1.0


def _at_recalls(one: Ranked, times: Times, objects: int) -> Float[np.ndarray, " iou"]:
    """Give the mean precision of a class at each threshold.

    Precision is highest, and recall rises, where an object is found: only there it is looked at.
    """
    weight = np.append(times[one.image], 0)
    right = np.cumsum(weight[one.hits], 1)
    counted = np.cumsum(weight)[one.hits]
    if one.passed.any():
        passed = np.cumsum(np.where(one.passed, weight[:-1], 0), 1)
        counted -= np.take_along_axis(passed, np.minimum(one.hits, passed.shape[1] - 1), 1)
    precision = np.where(one.hits < len(one.image), right / np.maximum(counted, 1), 0.0)
    best_after = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    best_after = np.concatenate([best_after, np.zeros((len(best_after), 1))], 1)
    recall = right / objects
    return np.array([best[np.searchsorted(reached, RECALLS)].mean() for best, reached in zip(best_after, recall)])


def _labels(folder: pathlib.Path) -> Answers:
    rows = workdir.read_json(folder / "predictions.json")
    right = np.array([row["label"] == row["predicted"] for row in rows], bool)
    return Answers(tuple(row["file"] for row in rows), partial(accuracy, right))


def _label_maps(folder: pathlib.Path) -> Answers:
    rows, classes = (workdir.read_json(folder / name) for name in ("predictions.json", "classes.json"))
    pixels = np.zeros((len(rows), 3, len(classes)), np.int64)
    for row, table in zip(rows, pixels):
        for name, counts in row["pixels"].items():
            table[:, classes.index(name)] = counts["both"], counts["truth"], counts["predicted"]
    return Answers(tuple(row["file"] for row in rows), partial(mean_iou, pixels))


def _detections(folder: pathlib.Path, thresholds: tuple[float, ...] = ()) -> Answers:
    truth, found = (workdir.read_json(folder / name) for name in ("truth.json", "predictions.json"))
    known = coco.indexed(truth)
    evaluated = hotcoco.COCOeval(known, known.load_res(found), "bbox")
    if thresholds:
        evaluated.params.iou_thrs = list(thresholds)
    evaluated.evaluate()
    places = {image["id"]: place for place, image in enumerate(truth["images"])}
    by_class: dict[int, list[Mapping[str, Any]]] = {}
    whole = list(evaluated.params.area_rng[0])
    for one in evaluated.eval_imgs:
        if one is not None and list(one["aRng"]) == whole:
            by_class.setdefault(one["category_id"], []).append(one)
    ranked = [_ranked(images, places) for _, images in sorted(by_class.items())]
    return Answers(tuple(image["file_name"] for image in truth["images"]), partial(average_precision, ranked))


def _ranked(images: list[Mapping[str, Any]], places: Mapping[int, int]) -> Ranked:
    """Put the detections of one class on all images in one order."""
    objects = np.zeros(len(places), np.int64)
    scores: list[Float[np.ndarray, " d"]] = []
    owner, matched, passed = [], [], []
    for one in images:
        place = places[one["image_id"]]
        objects[place] = np.count_nonzero(~np.asarray(one["gtIgnore"], bool))
        scores.append(np.asarray(one["dtScores"], np.float64))
        owner.append(np.full(len(scores[-1]), place))
        matched.append(np.asarray(one["dtMatched"], bool))
        passed.append(np.asarray(one["dtIgnore"], bool))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right, left_out = np.concatenate(matched, 1)[:, order], np.concatenate(passed, 1)[:, order]
    places_of = [np.flatnonzero(row) for row in right & ~left_out]
    hits = np.full((len(places_of), max(map(len, places_of))), len(order))
    for row, found in zip(hits, places_of):
        row[: len(found)] = found
    return Ranked(np.concatenate(owner)[order], hits, left_out, objects)


READERS: dict[str, Callable[[pathlib.Path], Answers]] = {
    "top1": _labels,
    "mIoU": _label_maps,
    "AP": _detections,
    "AP50": partial(_detections, thresholds=(0.5,)),
}
