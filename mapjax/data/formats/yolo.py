"""YOLO: `data.yaml`, images, and a text file of labels for each: boxes, polygons or keypoints, as shares from 0 to 1.

`data.yaml` has `path`; `train`, `val` and `test` (a folder, several, or a .txt with a path a line); `names` (a list, or
a mapping from 0 on) and `nc`; and of keypoints `kpt_shape` and `flip_idx`. The labels of `…/images/a.jpg` are
in `…/labels/a.txt`. Without data.yaml there are `images/` and `labels/`, and `classes.txt`, or classes are numbered. An
image without a label file, or with an empty one, has no objects.
"""

import collections
import contextlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mapjax.data import box_forms, documents, images, objects, skeletons, splits
from mapjax.data.box_forms import Written
from mapjax.data.formats import coco_masks, yolo_files, yolo_rows
from mapjax.data.formats.yolo_rows import Object, Row
from mapjax.data.formats.yolo_yaml import Layout
from mapjax.data.records import Labels, Packed, check_box, unlabelled
from mapjax.data.source import Source
from mapjax.errors import UserError, near

ABOUT = "yolo:DIR (boxes, masks or keypoints)"

_THREADS = 8  # for the latency of many small files
_MOST_LABELS = 50_000_000  # bytes of a label file
_BEYOND = "an object of a class beyond the names"
_MANY = 0.1  # share of the images from which on unreadable ones are no slips
_PIXELS = 2.0  # no share is as large, and nearly every number of pixels is


class _Read(NamedTuple):
    """One image: height, width, and those the other way up; its rows; its label file, why odd; why it is left out."""

    frames: tuple[images.Size, images.Size]
    rows: list[Row]
    label: str
    missing: str
    fault: str


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    skeleton: Sequence[Any] | None = None,
    hold_out: float | int = 0.1,
    orientation: str = "upright",
    needs: str = "boxes",
) -> Source:
    """Read one split of a YOLO data set; no image is decoded, only headers are read.

    Rows of five, polygons and rows with keypoints may be mixed: a polygon's box is the smallest around it. Left out and
    counted in `dropped`: images that are missing or unreadable, or have a row that cannot be read, for its object would
    be learned as background; boxes that are empty or outside. Counted in `noted`: images without a label file or with
    an empty one, which have no objects; boxes that are clipped to the image.

    Args:
      split: a key of data.yaml or a folder; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the folder, or its data.yaml.
      classes: names in order; objects of others are dropped. By default all, by id.
      masks: records have `masks`, of the polygons; an image with an object that has none is left out.
      skeleton: pairs of keypoints, by the names of `kpt_names` or else "0", "1", …, that a line joins where they are
        drawn.
      hold_out: share of "train" that becomes "val" if there is none; 0 for none.
      orientation: "upright" or "stored": labels were drawn on images as EXIF turns them, or as they are stored.
      needs: what the task learns from. "masks": as `masks`; "keypoints": records have `keypoints`.

    Raises:
      UserError: nothing there by these names; a data.yaml that cannot be read or contradicts itself; a tenth of the
        images with a row that cannot be read or of a class beyond the names; most labels in pixels, or in another form
        (mapjax.data.box_forms).

    Example:
      >>> import pathlib, tempfile
      >>> import cv2, numpy as np
      >>> from mapjax.data.formats import yolo
      >>> with tempfile.TemporaryDirectory() as path:
      ...     for name in ("images", "labels"):
      ...         (pathlib.Path(path) / name).mkdir()
      ...     _ = cv2.imwrite(f"{path}/images/a.png", np.zeros((4, 6, 3), np.uint8))
      ...     _ = (pathlib.Path(path) / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
      ...     _ = (pathlib.Path(path) / "data.yaml").write_text("train: images\\nnames: [cat]")
      ...     source = yolo.make(split="train", path=path, hold_out=0)
      ...     source.classes, source.records[0]["boxes"].tolist()
      (('cat',), [[1.5, 1.0, 4.5, 3.0]])
    """
    stored = images.is_stored(orientation)
    layout = yolo_files.find(path)
    if needs == "keypoints" and not layout.points[0]:
        raise UserError(f"{layout.where} has no kpt_shape, which says how many keypoints an object has: write [17, 3].")
    found, part = splits.locate(split, layout.splits, f"yolo:{path}", hold_out)
    listed = yolo_files.images_of(layout, found)
    reader = _Reader(layout, masks or needs == "masks", needs == "keypoints", listed.dropped)
    with ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(partial(_read, layout, stored), listed.files, chunksize=64))
    reader.require_labels(listed.files, read, found)
    names = layout.names or _numbered(layout, found, read)
    numbers = _numbers(names, classes, layout.where)
    kept = set(splits.take(listed.files, part, seed, hold_out))
    for file, one in zip(listed.files, read):
        if file in kept:
            reader.add(file, one, numbers)
    reader.require_plausible(f"{layout.where}, split {split!r}")
    mirrored = np.array(layout.mirrored or range(layout.points[0]), np.int32) if reader.keypoints else None
    packed = Packed(layout.root, reader.kept, coco_masks.fill if reader.masks else None, mirrored, stored)
    chosen = names if classes is None else tuple(classes)
    return Source(
        name=f"yolo:{path}",
        split=split,
        classes=chosen,
        category_ids=tuple(range(1, len(chosen) + 1)),
        records=packed.records(),
        dropped=dict(reader.dropped),
        fingerprint=packed.fingerprint(),
        keypoints=layout.point_names if reader.keypoints else (),
        noted=dict(reader.noted),
        skeleton=skeletons.named(skeleton or (), layout.point_names, layout.where) if reader.keypoints else (),
    )


def _read(layout: Layout, stored: bool, file: str) -> _Read:
    """Read the header of an image, and its labels."""
    nothing = (0, 0), (0, 0)
    try:
        frames = images.frames(images.read_header(str(layout.root / file)), (0, 0), stored=stored)
    except UserError as error:
        return _Read(nothing, [], "", "", images.fault_of(error))
    places = yolo_files.label_files(layout.root, file)
    label = next((name for name in places if os.path.lexists(layout.root / name)), None)
    if label is None:
        return _Read(frames, [], places[0], "image without a label file, taken as one without objects", "")
    try:
        text = documents.read(layout.root / label, _MOST_LABELS).decode("utf-8-sig")
    except (OSError, ValueError):
        return _Read(frames, [], label, "", "image whose label file cannot be read as text")
    rows = yolo_rows.read(text, layout.points)
    return _Read(frames, rows, label, "" if rows else "image with an empty label file, one without objects", "")


def _numbered(layout: Layout, found: str, read: Sequence[_Read]) -> tuple[str, ...]:
    """Number the classes, as no file names them, up to the largest that a label of any split has."""
    largest = max((row.category for one in read for row in one.rows), default=-1)
    for split in layout.splits:
        with contextlib.suppress(UserError):  # a split that is not there has no labels
            for file in yolo_files.images_of(layout, split).files if split != found else ():
                rows = _read(layout, False, file).rows
                largest = max(largest, max((row.category for row in rows), default=-1))
    return tuple(map(str, range(largest + 1)))


def _numbers(names: Sequence[str], classes: Sequence[str] | None, where: str) -> list[int]:
    """Return the class of each id; -1 for one that is not asked for."""
    for name in classes or ():
        if name not in names:
            raise UserError(f"{where} names no class {name!r}.{near(name, names)}")
    places = {name: number for number, name in enumerate(names if classes is None else classes)}
    return [places.get(name, -1) for name in names]


class _Reader:
    """Makes the labels of one image after the other, and keeps what was odd."""

    def __init__(
        self,
        layout: Layout,
        masks: bool,
        keypoints: bool,
        dropped: Mapping[str, Sequence[str]],
    ):
        """Take what records are to have, and what is left out already."""
        self.masks, self.keypoints = masks, keypoints
        self.kept: list[Labels] = []
        self.dropped: dict[str, list[str]] = collections.defaultdict(list)
        self.dropped.update({reason: list(names) for reason, names in dropped.items()})
        self.noted: dict[str, list[str]] = collections.defaultdict(list)
        self._written, self._layout = Written(box_forms.CENTRES), layout
        self._large: list[str] = []
        self._forms: dict[str, list[str]] = collections.defaultdict(list)
        self._spoilt: dict[str, list[str]] = collections.defaultdict(list)
        self._seen = self._labelled = 0

    def require_labels(self, files: Sequence[str], read: Sequence[_Read], split: str) -> None:
        """Stop where not one image of a split has a label file."""
        usable = [(file, one) for file, one in zip(files, read) if not one.fault]
        if usable and all(one.missing.startswith("image without") for _, one in usable):
            file, one = usable[0]
            raise UserError(
                f"{self._layout.where}: not one of {len(usable)} images of {split!r} has a label file: that of {file} "
                f"would be {self._layout.root / one.label}; put them there, or correct the paths."
            )

    def add(self, file: str, read: _Read, numbers: Sequence[int]) -> None:
        """Keep the labels of an image, or count why it has none."""
        if read.fault:
            self.dropped[read.fault].append(file)
            return
        if read.missing:
            self.noted[read.missing].append(file)
        self._labelled += bool(read.rows)
        labels = unlabelled(len(self.kept), file, read.frames[0])
        for row in read.rows:
            where = f"{read.label} line {row.line}"
            fault = row.fault or (_BEYOND if row.category >= len(numbers) else "")
            if not fault and numbers[row.category] < 0:
                self.dropped["class not asked for"].append(where)
                continue
            if not fault and self.masks and yolo_rows.form_of(row, self._layout.points) != yolo_rows.POLYGON:
                fault = "an object without a polygon"
            if fault:
                more = f", class {row.category}" if fault == _BEYOND else ""
                self._spoilt[fault].append(f"{where}{more}")
                self.dropped[f"image with {fault}"].append(f"{where}{more}")
                return
            if row.numbers and max(map(abs, row.numbers[:4])) >= _PIXELS:
                self._large.append(where)
            self._seen += 1
            found = yolo_rows.place(row, read.frames[0], self._layout.points)
            self._add(labels, found, numbers[row.category], where, read.frames)
        self.kept.append(labels)

    def _add(
        self, labels: Labels, found: Object, number: int, where: str, frames: tuple[images.Size, images.Size]
    ) -> None:
        self._forms[found.form].append(where)
        if found.form != yolo_rows.POLYGON:
            self._written.add(found.given, *frames, where)
        box, reason = check_box(found.corners, labels.size)
        if box is None:
            self.dropped[reason or ""].append(where)
            return
        if box_forms.is_clipped(found.corners, box):
            self.noted["box clipped to the image"].append(where)
        labels.boxes.append(box)
        labels.classes.append(number)
        labels.crowd.append(False)
        labels.areas.append(min(found.area, (box[2] - box[0]) * (box[3] - box[1])))
        if self.masks:
            labels.segmentations.append((found.polygon,))
        if self.keypoints:
            self._add_keypoints(labels, found, where)

    def _add_keypoints(self, labels: Labels, found: Object, where: str) -> None:
        seen = objects.seen(found.keypoints, labels.size)
        if not np.array_equal(seen[:, 2] > 0, found.keypoints[:, 2] > 0):
            self.dropped["keypoint outside the image"].append(where)
        if found.form != yolo_rows.KEYPOINTS:
            self.noted["row without keypoints, taken as not labelled"].append(where)
        labels.keypoints.append(seen)

    def require_plausible(self, where: str) -> None:
        """Stop where many images have a row that cannot be read, or most labels are in another form.

        Raises:
          UserError: naming the first of them, how many there are, and the mend.
        """
        for fault, rows in self._spoilt.items():
            if len(rows) > _MANY * self._labelled:
                mend = yolo_rows.MENDS.get(fault) or self._mend(fault)
                raise UserError(
                    f"{where}: {len(rows)} of {self._labelled} images have {fault}, such as {rows[0]}; {mend}."
                )
        if 2 * len(self._large) > self._seen:
            raise UserError(
                f"{where}: {len(self._large)} of {self._seen} rows have numbers far above 1, such as {self._large[0]}; "
                "they look like pixels: divide x and widths by the width of the image, y and heights by its height."
            )
        self._written.require_plausible(where)
        self.noted.update(self._written.noted())
        if len(self._forms) > 1:
            fewest = min(self._forms, key=lambda form: len(self._forms[form]))
            self.noted[f"{' and '.join(sorted(self._forms))} are mixed; {fewest}"] = self._forms[fewest]

    def _mend(self, fault: str) -> str:
        if fault == _BEYOND:
            count = len(self._layout.names or ())
            return (
                f"there are {count} names, of the ids 0 to {count - 1}: add those that are missing, or correct the ids"
            )
        return "draw polygons, or choose a task that learns from boxes"
