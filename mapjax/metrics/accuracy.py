"""Accuracy of classifiers that give an image one class: top-1 and top-5, precision, recall, F1, and calibration.

The counts are the answers themselves, `{index of the record: {"probabilities", "label"}}`: merging is the union of two
dicts, an image met twice (padding, two processes) counts once, and a report can show every answer. Figures by class are
scikit-learn's with zero_division=0: a class that is never predicted has precision 0. A class without truth in the split
has nothing to measure: its figures are -1, and the means over classes leave it out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mapjax.data.source import Source, name_of
from mapjax.metrics import calibration
from mapjax.task import Batch, Counts, Metric, Result

TOP = 5
_LEAST = float(np.finfo(np.float32).tiny)  # a probability of 0 has no logarithm


class Answers(NamedTuple):
    """The answers to n images in order of their `indexes` in the source, and the truth, 0-based classes.

    probabilities: each row sums to 1, whatever the network gives (independent sigmoids, say).
    """

    indexes: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, " n"]


class Rates(NamedTuple):
    """Precision, recall and F1 of each class; -1 for a class without truth."""

    precision: Float[np.ndarray, " c"]
    recall: Float[np.ndarray, " c"]
    f1: Float[np.ndarray, " c"]


def make(source: Source) -> Metric:
    """Make the metric against the truth of `source`; only measured images count, so a part of a split can be scored.

    Its scalars, the most telling first; -1 is "nothing to measure":
      top1, top5: share of the images whose class is the most probable, or among the five (for more than 5 classes).
      f1, precision, recall: means over the classes with truth; f1_weighted, precision_weighted, recall_weighted: by
        the number of truths.
      nll: mean negative log-likelihood of the truth, in nats.
      ece: expected calibration error, 15 bins.
      temperature: that which makes the truth most likely, fitted on all measured images.
      ece_scaled: the error left after scaling each half of the images by the temperature fitted on the other half.
      precision/CLASS, recall/CLASS, f1/CLASS.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.formats import digits
      >>> from mapjax.metrics import accuracy
      >>> metric = accuracy.make(digits.make(split="val"))
      >>> batch = {"label": np.array([3, 5]), "index": np.arange(2), "mask": np.array([True, True])}
      >>> metric.summarize(metric.measure({"probabilities": np.eye(10, dtype="float32")[[3, 4]]}, batch))["top1"]
      0.5
    """

    def summarize(counts: Counts) -> dict[str, float]:
        return scalars(answers(source, counts), source.classes)

    def files(counts: Counts) -> dict[str, Any]:
        found = answers(source, counts)
        matrix = confusion_matrix(found.labels, found.probabilities.argmax(1), len(source.classes))
        confusion = {"classes": list(source.classes), "rows": "truth", "columns": "predicted"}
        return {"predictions.json": rows(source, found), "confusion.json": {**confusion, "matrix": matrix.tolist()}}

    return Metric(measure, merge, summarize, files, best="top1")


def measure(result: Result, batch: Batch) -> Counts:
    """Take the answers to the real images of a batch: {index: {"probabilities" float32 (c,), "label" int32}}."""
    return take(result, batch, {"label": np.asarray(batch["label"], np.int32)})


def take(result: Result, batch: Batch, truth: dict[str, np.ndarray]) -> Counts:
    """Take the probabilities and the truth of the real images of a batch, by the images' indexes."""
    columns = {"probabilities": np.asarray(result["probabilities"], np.float32), **truth}
    return {
        int(index): {name: values[i] for name, values in columns.items()}
        for i, (index, real) in enumerate(zip(np.asarray(batch["index"]), np.asarray(batch["mask"])))
        if real
    }


def merge(one: Counts, other: Counts) -> Counts:
    """Unite the answers to two sets of images; an image in both counts once."""
    return {**one, **other}


def answers(source: Source, counts: Counts) -> Answers:
    """Stack the answers in order of their images; one that is not a number stands for all classes alike."""
    indexes = np.array(sorted(counts), np.int64)
    found = np.array([counts[i]["probabilities"] for i in indexes], np.float32).reshape(-1, len(source.classes))
    found[~np.isfinite(found).all(1)] = 0
    found = np.maximum(found, _LEAST)
    labels = np.array([counts[i]["label"] for i in indexes], np.int64)
    return Answers(indexes, found / found.sum(1, keepdims=True), labels)


def scalars(found: Answers, classes: tuple[str, ...]) -> dict[str, float]:
    """Compute what `make` lists."""
    number = len(found.labels)
    matrix = confusion_matrix(found.labels, found.probabilities.argmax(1), len(classes))
    truths = matrix.sum(1)
    by_class = rates(matrix.diagonal(), truths, matrix.sum(0))
    figures = {"top1": float(matrix.trace()) / number if number else -1.0}
    if len(classes) > TOP:
        figures["top5"] = _top(found, TOP) if number else -1.0
    named = {"f1": by_class.f1, "precision": by_class.precision, "recall": by_class.recall}
    figures |= {name: average(values, truths > 0) for name, values in named.items()}
    figures |= {f"{name}_weighted": average(values, truths) for name, values in named.items()}
    figures |= _calibration(found)
    return figures | {
        f"{name}/{label}": float(v) for name, values in named.items() for label, v in zip(classes, values)
    }


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: int
) -> Int[np.ndarray, "c c"]:
    """Count images by their class (row) and the predicted class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def rates(hits: Int[np.ndarray, " c"], truths: Int[np.ndarray, " c"], predicted: Int[np.ndarray, " c"]) -> Rates:
    """Compute precision, recall and F1 of each class from how often it was right, true and predicted."""
    shares = hits / np.maximum(predicted, 1), hits / np.maximum(truths, 1), 2 * hits / np.maximum(truths + predicted, 1)
    return Rates(*(np.where(truths > 0, share, -1.0) for share in shares))


def average(values: Float[np.ndarray, " c"], weights: Any) -> float:
    """Average over classes by their weights (c,), 0 for one that does not count; -1 where none does."""
    total = np.sum(weights)
    return float(values @ np.asarray(weights, np.float64) / total) if total else -1.0


def rows(source: Source, found: Answers) -> list[dict[str, Any]]:
    """Write the answers for predictions.json: the file, its class, the predicted one, and the five most probable."""
    listed = []
    for index, probabilities, label in zip(found.indexes, found.probabilities, found.labels):
        top = most_probable(source.classes, probabilities)
        names = {"label": source.classes[label], "predicted": top[0]["class"]}
        listed.append({"file": name_of(source, int(index)), **names, "probability": top[0]["probability"], "top": top})
    return listed


def most_probable(
    classes: Sequence[str], probabilities: Float[np.ndarray, " c"], digits: int = 6
) -> list[dict[str, Any]]:
    """List the five most probable classes, of equals the first, with their probabilities to so many digits."""
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return [{"class": classes[k], "probability": round(float(probabilities[k]), digits)} for k in order]


def _top(found: Answers, number: int) -> float:
    """Compute the share of images with fewer than `number` classes before the true one; of equals the first leads."""
    of_truth = found.probabilities[np.arange(len(found.labels)), found.labels][:, None]
    equal_before = (found.probabilities == of_truth) & (np.arange(found.probabilities.shape[1]) < found.labels[:, None])
    before = (found.probabilities > of_truth).sum(1) + equal_before.sum(1)
    return float((before < number).mean())


def _calibration(found: Answers) -> dict[str, float]:
    number = len(found.labels)
    names = ("nll", "ece", "temperature", "ece_scaled")
    if not number:
        return dict.fromkeys(names, -1.0)
    logits = np.log(found.probabilities)
    correct = found.probabilities.argmax(1) == found.labels
    nll = -np.float64(logits[np.arange(number), found.labels]).mean()
    error = calibration.expected_error(calibration.bins(found.probabilities.max(1), correct))
    scaled = -1.0
    if number > 1:
        confidence = calibration.held_out_confidence(logits, found.labels)
        scaled = calibration.expected_error(calibration.bins(confidence, correct))
    return dict(zip(names, (float(nll), error, calibration.temperature(logits, found.labels), scaled)))
