"""Intersection over union of label maps, and the other figures of a confusion matrix of pixels; boundary F1.

The counts are whole numbers that the device has counted image by image (ops/label_maps.py), so any split over
batches, devices and processes gives the same figures exactly:

    confusion  (c c) pixels of each true class (rows) given each class (columns)
    contours   (c 4) contour pixels: predicted, of these near a true one; true, of these near a predicted one
    images     index → (3 c) pixels in both, true, predicted
    maps       index → label map (h w), predicted in original pixels: of some evenly spread images, and the worst

Pixels without a true class do not count. A class that no pixel has is not measured, even if it is predicted somewhere:
its figures are -1, and the means over the classes leave it out.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mapjax.data.source import Source, name_of
from mapjax.ops import label_maps
from mapjax.sharding import mesh as shard
from mapjax.task import Batch, Counts, Metric, Result

SHOWN, WORST = 12, 12  # images whose maps are kept for the report
TOGETHER = 4  # images whose contours are compared at once


def make(source: Source, tolerance: float = 0.0075) -> Metric:
    """Make the metric against the truth of `source`.

    Args:
      tolerance: distance within which contours agree, as a share of the diagonal of the largest image.

    Its scalars, the most telling first; -1 is "nothing to measure":
      mIoU: intersection over union, the mean over the classes.
      pixel_accuracy: share of the pixels that are right.
      class_accuracy: the mean of that over the classes.
      fwIoU: IoU weighted by the classes' pixels.
      dice: 2 · both / (true + predicted), the mean over the classes.
      boundary_f1: of the contours, likewise.
      IoU/CLASS, accuracy/CLASS, dice/CLASS, boundary_f1/CLASS.

    Example:
      >>> from mapjax.data.formats import scenes
      >>> from mapjax.metrics import iou
      >>> iou.make(scenes.make(split="val", val_length=2, needs="label_map")).best
      'mIoU'
    """
    kept = frozenset(np.unique(np.linspace(0, max(len(source.records) - 1, 0), SHOWN).astype(int)).tolist())

    def score(result: Result, batch: Batch) -> Result:
        return scored(result["map_logits"], batch, len(source.classes), tolerance)

    def measure(result: Result, batch: Batch) -> Counts:
        real = np.flatnonzero(np.asarray(batch["mask"]))
        indexes = np.asarray(batch["index"])[real].tolist()
        tables = np.asarray(result["confusion"])[real].astype(np.int64)
        images = {i: np.stack([t.diagonal(), t.sum(1), t.sum(0)]) for i, t in zip(indexes, tables)}
        chosen = set(_worst(images)) | kept.intersection(images)
        sizes = np.asarray(batch["size"])[real].tolist()
        rows = {i: (row, h, w) for i, row, (h, w) in zip(indexes, real.tolist(), sizes) if i in chosen}
        return {
            "confusion": tables.sum(0),
            "contours": np.asarray(result["contours"])[real].sum(0, dtype=np.int64),
            "images": images,
            "maps": {i: np.array(result["label_map"][row, :h, :w]) for i, (row, h, w) in rows.items()},
        }

    def merge(one: Counts, other: Counts) -> Counts:
        if not one or not other:
            return one or other
        # What came from another process has lost its empty dicts.
        images, maps = ({**one.get(name, {}), **other.get(name, {})} for name in ("images", "maps"))
        chosen = set(_worst({i: images[i] for i in maps})) | kept
        sums = {name: one[name] + other[name] for name in ("confusion", "contours")}
        return {**sums, "images": images, "maps": {i: found for i, found in maps.items() if i in chosen}}

    def summarize(counts: Counts) -> dict[str, float]:
        return scalars(counts["confusion"], counts["contours"], source.classes)

    def files(counts: Counts) -> dict[str, Any]:
        confusion = {"classes": list(source.classes), "rows": "truth", "columns": "predicted"}
        return {
            "predictions.json": [_row(source, index, counts["images"][index]) for index in sorted(counts["images"])],
            "confusion.json": {**confusion, "matrix": counts["confusion"].tolist()},
        }

    return Metric(measure, merge, summarize, files, best="mIoU", score=score)


def scored(logits: Float[Array, "b i j c"], batch: Batch, classes: int, tolerance: float) -> Result:
    """Compare a batch with its `truth_map` in original pixels: "label_map", "confusion" and "contours" of stages.py.

    Args:
      logits: over the frame of the batch's images, at any stride.
    """
    frame, canvas = batch["image"].shape[1:3], batch["truth_map"].shape[1:3]
    radius = max(1.0, tolerance * float(np.hypot(*canvas)))

    def compare(one):
        logits, matrix, truth = (part[None] for part in one)
        found = label_maps.map_back(logits, matrix, frame, canvas).argmax(-1).astype(jnp.uint8)
        return {"label_map": found[0], "confusion": label_maps.confusion(truth, found, classes)[0]}

    def outline(pair):
        truth, found = (one[None] for one in pair)
        return label_maps.contours(truth, found, classes, radius)[0]

    def judge(logits, matrix, truth):
        # One image after the other: the scores of a large one for many classes take more memory than all else.
        found = jax.lax.map(compare, (logits, matrix, truth))
        # Some together, since the body of a loop runs on one core of a CPU, and few, for its cache.
        return found | {"contours": jax.lax.map(outline, (truth, found["label_map"]), batch_size=TOGETHER)}

    return shard.per_example(judge)(logits, batch["matrix"], batch["truth_map"])


def scalars(confusion: Int[np.ndarray, "c c"], contours: Int[np.ndarray, "c 4"], classes: tuple[str, ...]):
    """Compute what `make` lists."""
    both, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    occurs = truth > 0
    iou, dice = both / np.maximum(truth + predicted - both, 1), 2 * both / np.maximum(truth + predicted, 1)
    by_class = {"IoU": iou, "accuracy": both / np.maximum(truth, 1), "dice": dice, "boundary_f1": boundary_f1(contours)}
    measured = {name: occurs if name != "boundary_f1" else contours[:, 2] > 0 for name in by_class}
    mean = {name: _average(values, measured[name]) for name, values in by_class.items()}
    figures = {
        "mIoU": mean["IoU"],
        "pixel_accuracy": float(both.sum() / truth.sum()) if occurs.any() else -1.0,
        "class_accuracy": mean["accuracy"],
        "fwIoU": _average(iou, truth),
        "dice": mean["dice"],
        "boundary_f1": mean["boundary_f1"],
    }
    for name, values in by_class.items():
        shown = np.where(measured[name], values, -1.0).tolist()
        figures |= {f"{name}/{label}": value for label, value in zip(classes, shown)}
    return figures


def boundary_f1(contours: Int[np.ndarray, "c 4"]) -> Float[np.ndarray, " c"]:
    """Harmonic mean of the contours' precision and recall (Csurka et al. 2013), over all images together."""
    drawn, right, meant, found = contours.T
    precision, recall = right / np.maximum(drawn, 1), found / np.maximum(meant, 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def image_iou(parts: Int[np.ndarray, "3 c"]) -> float:
    """Give the mean IoU of one image over the classes that are in it; 1 for an image without any."""
    both, truth, predicted = parts
    iou = both / np.maximum(truth + predicted - both, 1)
    return float(iou[truth > 0].mean()) if (truth > 0).any() else 1.0


def _worst(images: dict[int, np.ndarray]) -> list[int]:
    return sorted(images, key=lambda index: (image_iou(images[index]), index))[:WORST]


def _average(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else -1.0


def _row(source: Source, index: int, parts: Int[np.ndarray, "3 c"]) -> dict[str, Any]:
    """Describe one image: its pixels of each class by name, so that figures can be computed again."""
    both, truth, predicted = parts.tolist()
    named = {
        name: {"both": a, "truth": b, "predicted": c}
        for name, a, b, c in zip(source.classes, both, truth, predicted)
        if b or c
    }
    return {"index": index, "file": name_of(source, index), "mIoU": round(image_iou(parts), 4), "pixels": named}
