"""What detections have beside their boxes, masks and keypoints: as counts hold them, and as COCO's files say them.

A result has of each image "masks", a COCO run length {"size": [h, w], "counts": text} of each row, or "keypoints"
(k n 3: x, y, score), in pixels of the original image. Counts hold masks as shards do (data/labels.py): one array of
characters, for the counts of several processes are put together as arrays.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from mapjax.data import labels, run_lengths
from mapjax.data.source import Source, truth_of
from mapjax.errors import UserError
from mapjax.task import Batch, Result

Entry = dict[str, Any]  # of a COCO annotation


def require(source: Source, kind: str, metric: str) -> None:
    """Refuse a source whose records have no masks, or no keypoints, to be measured against; an empty one is let be.

    Raises:
      UserError: naming what to leave out.
    """
    if len(source.records) and not labels.has(truth_of(source, 0), kind):
        raise UserError(
            f"{source.name}, split {source.split!r}, has no {kind}, which the metric {metric!r} compares; leave it out "
            "of metrics, or read data that have them."
        )


def taken(result: Result, batch: Batch, row: int, valid: Bool[np.ndarray, " k"]) -> Entry:
    """Take what the valid detections of one image have beside their boxes: masks as run lengths, keypoints (n p 3).

    Raises:
      ValueError: a mask is of another size than its image.
    """
    found: Entry = {}
    if labels.has(result, "masks"):
        masks = [result["masks"][row][at] for at in np.flatnonzero(valid).tolist()]
        size = tuple(np.asarray(batch["size"][row]).tolist())
        if wrong := [mask["size"] for mask in masks if tuple(mask["size"]) != size]:
            raise ValueError(f"a mask of {tuple(wrong[0])} answers an image of {size} pixels (height, width)")
        found |= labels.KINDS["masks"].store({"masks": [_characters(mask["counts"]) for mask in masks]})
    if labels.has(result, "keypoints"):
        found["keypoints"] = np.asarray(result["keypoints"][row], np.float32)[valid]
    return found


def masks_of(found: Mapping[str, Any]) -> list[bytes]:
    """Return the masks of the detections of one image, as run lengths."""
    return labels.restore(found)["masks"]


def of_found(found: Mapping[str, Any], image: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield what COCO's results say of each detection of an image beside its box.

    Args:
      image: of the truth, for its height and width.
    """
    restored = labels.restore(found)
    for row in range(len(found["scores"])):
        entry: Entry = {}
        if labels.has(restored, "masks"):
            entry["segmentation"] = segmentation(restored["masks"][row], (image["height"], image["width"]))
        if labels.has(restored, "keypoints"):
            entry["keypoints"] = np.asarray(restored["keypoints"][row], np.float64).ravel().tolist()
        yield entry


def of_truth(record: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield what a COCO annotation says of each object of a record beside its box."""
    height, width = map(int, record["size"])
    for row in range(len(record["classes"])):
        entry: Entry = {}
        if labels.has(record, "masks"):
            mask = record["masks"][row]
            text = mask if isinstance(mask, bytes) else run_lengths.encode(mask)
            entry["segmentation"] = segmentation(text, (height, width))
        if labels.has(record, "keypoints"):
            points = np.asarray(record["keypoints"][row], np.float64)
            entry |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
        yield entry


def of_categories(source: Source) -> Entry:
    """Return what a COCO category says of its keypoints, which all classes of a source share; {} without any."""
    if not source.keypoints:
        return {}
    skeleton = [[one + 1, other + 1] for one, other in source.skeleton]
    return {"keypoints": list(source.keypoints), "skeleton": skeleton}


def segmentation(text: bytes, size: tuple[int, int]) -> Entry:
    """Write run lengths of an image of height, width as JSON can."""
    return {"size": list(size), "counts": text.decode("ascii")}


def _characters(counts: str | bytes) -> bytes:
    return counts.encode("ascii") if isinstance(counts, str) else counts
