"""Records of labelled image files, packed into a few arrays: light for a million boxes, cheap to send to a process."""

import hashlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mapjax.data.run_lengths import Mask
from mapjax.data.source import Record, Records
from mapjax.runtime.names import encoded


class Labels(NamedTuple):
    """The labels of one image: size height, width; a row of each list per object.

    segmentations: polygons or run lengths (coco_masks.py); empty unless asked for.
    keypoints: x,y,visibility (k 3); likewise.
    """

    id: int
    file: str
    size: tuple[int, int]
    boxes: list[tuple[float, float, float, float]]
    classes: list[int]
    crowd: list[bool]
    areas: list[float]
    segmentations: list[Any]
    keypoints: list[np.ndarray]


def unlabelled(number: int, file: str, size: tuple[int, int]) -> Labels:
    """Start the labels of an image of height, width."""
    return Labels(number, file, size, [], [], [], [], [], [])


class Packed:
    """Records over image files below `folder`; `image` is the path, so that nothing is decoded before it is needed."""

    def __init__(
        self,
        folder: pathlib.Path,
        labels: Sequence[Labels],
        draw_mask: Callable[[Any, tuple[int, int]], Mask] | None = None,
        mirrored: Int[np.ndarray, " k"] | None = None,
        stored: bool = False,
    ):
        """Pack labels.

        Args:
          draw_mask: segmentation, size → mask; with it the records have `masks`.
          mirrored: the keypoint that each becomes in a mirror; with it they have `keypoints`.
          stored: the labels were drawn on the images as stored, whatever EXIF says.
        """
        self._folder, self._beside = folder, {"stored": np.bool_(True)} if stored else {}
        self._files = [one.file for one in labels]
        self._ids = np.array([one.id for one in labels], np.int64)
        self._sizes = np.array([one.size for one in labels], np.int32).reshape(-1, 2)
        self._ends = np.cumsum([0, *(len(one.classes) for one in labels)])
        self._boxes: Float[np.ndarray, "n 4"] = np.array([b for one in labels for b in one.boxes], np.float32)
        self._boxes = self._boxes.reshape(-1, 4)
        self._classes: Int[np.ndarray, " n"] = np.array([c for one in labels for c in one.classes], np.int32)
        self._crowd = np.array([c for one in labels for c in one.crowd], bool)
        self._areas = np.array([a for one in labels for a in one.areas], np.float32)
        self._draw_mask, self._mirrored = draw_mask, mirrored
        self._segmentations = [s for one in labels for s in one.segmentations] if draw_mask else []
        if mirrored is not None:
            points = np.array([points for one in labels for points in one.keypoints], np.float32)
            self._keypoints = points.reshape(-1, len(mirrored), 3)

    def records(self) -> Records:
        """Give random access to the records."""
        files = [str(self._folder / file) for file in self._files]
        return Records(len(files), self._record, files=files, objects=self._objects, sizes=self._sizes)

    def _objects(self) -> dict[str, np.ndarray]:
        lists = {"boxes": self._boxes, "classes": self._classes, "crowd": self._crowd, "areas": self._areas}
        return {"counts": np.diff(self._ends), **lists}

    def _record(self, index: int) -> Record:
        rows = slice(int(self._ends[index]), int(self._ends[index + 1]))
        record: Record = {
            "id": int(self._ids[index]),
            "file": self._files[index],
            "image": str(self._folder / self._files[index]),
            "size": self._sizes[index].copy(),
            "boxes": self._boxes[rows].copy(),
            "classes": self._classes[rows].copy(),
            "crowd": self._crowd[rows].copy(),
            "areas": self._areas[rows].copy(),
            **self._beside,
        }
        if self._draw_mask is not None:
            height, width = self._sizes[index].tolist()
            record["masks"] = [self._draw_mask(found, (height, width)) for found in self._segmentations[rows]]
        if self._mirrored is not None:
            record |= {"keypoints": self._keypoints[rows].copy(), "mirrored": self._mirrored.copy()}
        return record

    def fingerprint(self) -> str:
        """Return a hash of the file names and of all labels."""
        digest = hashlib.sha256(encoded("\n".join(self._files)))
        for array in (self._ids, self._sizes, self._ends, self._boxes, self._classes, self._crowd, self._areas):
            digest.update(np.ascontiguousarray(array).tobytes())
        if self._mirrored is not None:
            digest.update(self._keypoints.tobytes())
        digest.update(repr([*self._beside]).encode() if self._beside else b"")
        return digest.hexdigest()[:16]


def check_box(
    box: Sequence[float | int], size: tuple[int, int]
) -> tuple[tuple[float, float, float, float] | None, str | None]:
    """Clip a box x1,y1,x2,y2 to the image of height, width.

    Returns:
      The clipped box and None, or None and the reason to drop it.
    """
    x1, y1, x2, y2 = map(float, box)
    height, width = size
    if not all(map(math.isfinite, box)):
        return None, "box that is not finite"
    if x2 <= x1 or y2 <= y1:
        return None, "empty box"
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return None, "box outside the image"
    return clipped, None
