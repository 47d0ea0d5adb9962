"""Metrics of classifiers that give an image any number of classes, each by a probability of its own.

The counts are the answers themselves, `{index of the record: {"probabilities", "labels"}}`, as in accuracy.py. A class
without truth in the split has nothing to measure: its figures are -1, and the means over classes leave it out.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.data.source import Source, name_of
from mapjax.metrics import accuracy, calibration
from mapjax.metrics.accuracy import average, merge, most_probable, take
from mapjax.task import Batch, Counts, Metric, Result

THRESHOLD = 0.5  # from here on a class counts as predicted


class Answers(NamedTuple):
    """The answers to n images in order of their `indexes` in the source, and the truth."""

    indexes: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]
    labels: Bool[np.ndarray, "n c"]


def make(source: Source) -> Metric:
    """Make the metric against the truth of `source`; only measured images count, so a part of a split can be scored.

    Its scalars, the most telling first; -1 is "nothing to measure":
      mAP: mean over the classes with truth of the average precision, the area under precision over recall as a step
        function (scikit-learn's, without interpolation).
      f1, precision, recall: means over those classes, at probability 0.5.
      f1_micro: of all decisions together.
      ece: expected calibration error of all decisions, 15 bins of the probability of "yes".
      AP/CLASS, f1/CLASS, precision/CLASS, recall/CLASS.

    Example:
      >>> import numpy as np
      >>> import mapjax
      >>> from mapjax.metrics import multilabel
      >>> metric = multilabel.make(mapjax.Source("", "val", ("cat", "dog"), (1, 2), [], {}, ""))
      >>> batch = {"labels": np.eye(2, dtype=bool), "index": np.arange(2), "mask": np.array([True, True])}
      >>> metric.summarize(metric.measure({"probabilities": np.eye(2, dtype="float32")}, batch))["mAP"]
      1.0
    """

    def summarize(counts: Counts) -> dict[str, float]:
        return scalars(answers(source, counts), source.classes)

    def files(counts: Counts) -> dict[str, Any]:
        return {"predictions.json": rows(source, answers(source, counts))}

    return Metric(measure, merge, summarize, files, best="mAP")


def measure(result: Result, batch: Batch) -> Counts:
    """Take the answers to the real images of a batch: {index: {"probabilities" float32 (c,), "labels" bool (c,)}}."""
    return take(result, batch, {"labels": np.asarray(batch["labels"], bool)})


def answers(source: Source, counts: Counts) -> Answers:
    """Stack the answers in order of their images; one that is not a number is 0."""
    indexes = np.array(sorted(counts), np.int64)
    shape = (-1, len(source.classes))
    found = np.array([counts[i]["probabilities"] for i in indexes], np.float32).reshape(shape)
    labels = np.array([counts[i]["labels"] for i in indexes], bool).reshape(shape)
    return Answers(indexes, np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0), labels)


def scalars(found: Answers, classes: tuple[str, ...]) -> dict[str, float]:
    """Compute what `make` lists."""
    taken = found.probabilities >= THRESHOLD
    hits, truths, predicted = (hit.sum(0) for hit in (taken & found.labels, found.labels, taken))
    by_class = accuracy.rates(hits, truths, predicted)
    both = int(truths.sum() + predicted.sum())
    precisions = [average_precision(p, y) for p, y in zip(found.probabilities.T, found.labels.T)]
    named = {"AP": np.array(precisions)} | {name: getattr(by_class, name) for name in ("f1", "precision", "recall")}
    mean = {name: average(values, truths > 0) for name, values in named.items()}
    figures = {"mAP": mean.pop("AP"), "f1": mean.pop("f1"), "f1_micro": float(2 * hits.sum() / both) if both else -1.0}
    figures |= mean
    figures["ece"] = calibration.expected_error(calibration.bins(found.probabilities.ravel(), found.labels.ravel()))
    return figures | {
        f"{name}/{label}": float(v) for name, values in named.items() for label, v in zip(classes, values)
    }


def average_precision(probabilities: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Sum precision over the steps of recall, equal probabilities at once; -1 without a positive label."""
    if not labels.any():
        return -1.0
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    hits = np.cumsum(labels[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1])


def rows(source: Source, found: Answers) -> list[dict[str, Any]]:
    """Write the answers for predictions.json: the file, its classes, the predicted ones, and the five most probable."""
    listed = []
    for index, probabilities, labels in zip(found.indexes, found.probabilities, found.labels):
        order = np.argsort(-probabilities, kind="stable")
        names = {
            "labels": [source.classes[k] for k in np.flatnonzero(labels)],
            "predicted": [source.classes[k] for k in order if probabilities[k] >= THRESHOLD],
        }
        top = most_probable(source.classes, probabilities)
        listed.append({"file": name_of(source, int(index)), **names, "top": top})
    return listed
