"""Pascal VOC folders: `Annotations/*.xml`, `JPEGImages/*`, `ImageSets/Main/*.txt`; or their masks.

The numbers of `bndbox` are taken as they are, as x1,y1,x2,y2 with the origin at 0: the original VOC counted pixels from
1 and included the last, most tools that write the format do not, and nothing in a file tells them apart. `difficult`
objects become `crowd`: no positives in training, ignored in evaluation. Images without objects are kept.
"""

import collections
import os
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mapjax.data import documents, images, lookup, splits
from mapjax.data.formats import voc_lists, voc_segmentation
from mapjax.data.records import Labels, Packed, check_box, unlabelled
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.runtime import regular

ABOUT = "voc:DIR (boxes or label maps)"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_THREADS = 8  # for the latency of many small files


class _Object(NamedTuple):
    name: str
    box: tuple[float, ...]
    difficult: bool


class _Annotation(NamedTuple):
    """One file: height, width as it says (0 if it does not), its objects, and what is wrong: (reason, where)."""

    size: tuple[int, int]
    objects: list[tuple[int, _Object]]
    wrong: list[tuple[str, str]]


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    classes: Sequence[str] | None = None,
    hold_out: float | int = 0.1,
    void: int | str | Sequence[int | str] | None = None,
    orientation: str = "upright",
    needs: str = "boxes",
) -> Source:
    """Read one split of a VOC folder; no image is decoded, only headers are read.

    Left out and counted in `dropped`: annotations that are broken or missing, images that are missing or unreadable,
    objects without a name or with a box that is incomplete, empty or outside; boxes are clipped to the image.

    Args:
      split: a list in `ImageSets/Main`; "val" is held out of "train" where there is none. Without any lists, all
        annotated images are "train".
      seed: of the held-out part.
      path: the folder.
      classes: their names in order; by default all names found in all annotations, sorted.
      hold_out: share of "train" that becomes "val" if there is no such list; 0 for none.
      void: of masks, ids or names of pixels without a class, besides 255 and "void".
      orientation: "upright" or "stored": labels were drawn on images as EXIF turns them, or as they are stored.
        An annotation that gives the size of the other is believed.
      needs: what the task learns from: "label_map" reads the masks instead (mapjax.data.voc_segmentation).

    Raises:
      UserError: no such folder, not a VOC folder, or no such split.

    Example:
      >>> import pathlib, tempfile
      >>> import cv2, numpy as np
      >>> from mapjax.data.formats import voc
      >>> box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>"
      >>> with tempfile.TemporaryDirectory() as path:
      ...     for name in ("Annotations", "JPEGImages"):
      ...         (pathlib.Path(path) / name).mkdir()
      ...     _ = cv2.imwrite(f"{path}/JPEGImages/a.jpg", np.zeros((4, 6, 3), np.uint8))
      ...     text = f"<annotation><filename>a.jpg</filename><object><name>cat</name>{box}</object></annotation>"
      ...     _ = (pathlib.Path(path) / "Annotations" / "a.xml").write_text(text)
      ...     source = voc.make(split="train", path=path, hold_out=0)
      ...     source.classes, source.records[0]["boxes"].tolist()
      (('cat',), [[1.0, 1.0, 3.0, 3.0]])
    """
    stored = images.is_stored(orientation)
    if needs == "label_map":
        return voc_segmentation.open_split(split, seed, path, classes, hold_out, void, stored)
    root = pathlib.Path(path)
    for folder in (root, root / "Annotations", root / "JPEGImages"):
        if not folder.is_dir():
            raise UserError(f"{folder} is not there: --data voc:DIR needs a folder with Annotations/ and JPEGImages/.")
    annotated = sorted(entry.name[:-4] for entry in os.scandir(root / "Annotations") if entry.name.endswith(".xml"))
    image_files, unread_files = voc_lists.image_files(root)
    unread = {os.path.splitext(name)[0]: reason for reason, names in unread_files.items() for name in names}
    lists = voc_lists.read(root / "ImageSets" / "Main", annotated)
    found, part = splits.locate(split, lists, f"voc:{path}", hold_out)
    stems = splits.take(lists[found], part, seed, hold_out)
    image_files = lookup.values(stems, image_files)
    dropped: dict[str, list[str]] = collections.defaultdict(list)
    with ThreadPoolExecutor(_THREADS) as pool:
        names = annotated if classes is None else sorted(set(stems) & set(annotated))
        files = [root / "Annotations" / f"{name}.xml" for name in names]
        annotations = dict(zip(names, pool.map(_parse, files, chunksize=64)))
        if classes is None:
            classes = sorted({found.name for one in annotations.values() for _, found in one.objects})
        numbers = {name: number for number, name in enumerate(classes)}
        folder = root / "JPEGImages"
        sizes = pool.map(lambda stem: _size(folder, image_files.get(stem), annotations.get(stem), stored), stems)
        labels = []
        for stem, (frames, reason) in zip(stems, sizes):
            if stem not in annotations:
                dropped["missing annotation"].append(stem)
            elif frames is None:
                dropped[unread.get(stem, reason)].append(image_files.get(stem, stem))
            else:
                file = f"JPEGImages/{image_files[stem]}"
                one = _labels(len(labels), stem, file, frames, annotations[stem], numbers, dropped)
                labels += [] if one is None else [one]
    packed = Packed(root, labels, stored=stored)
    return Source(
        name=f"voc:{path}",
        split=split,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        records=packed.records(),
        dropped=dict(dropped),
        fingerprint=packed.fingerprint(),
    )


def _parse(file: pathlib.Path) -> _Annotation:
    try:
        root = documents.parse_xml(regular.read_bytes(file))
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        return _Annotation((0, 0), [], [("broken XML", f"{file.name}: {error}")])
    try:
        size = int(float(root.findtext("size/height", "0"))), int(float(root.findtext("size/width", "0")))
    except ValueError:
        size = (0, 0)
    objects, wrong = [], []
    for number, node in enumerate(root.iterfind("object"), start=1):
        name = node.findtext("name", "").strip()
        try:
            box = tuple(float(node.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS)
            difficult = bool(int(float(node.findtext("difficult", "0").strip() or 0)))
        except ValueError:
            wrong.append(("incomplete object", f"{file.name} #{number}"))
            continue
        if name:
            objects.append((number, _Object(name, box, difficult)))
        else:
            wrong.append(("incomplete object", f"{file.name} #{number}"))
    return _Annotation(size, objects, wrong)


def _size(
    folder: pathlib.Path, file: str | None, annotation: _Annotation | None, stored: bool
) -> tuple[tuple[images.Size, images.Size] | None, str]:
    """The image's size from its header (annotations often lie), or None and the reason why it cannot be used.

    With EXIF there are two, upright and as `stored`; the annotation may tell on which of them it was drawn, and the
    other is given too.
    """
    if file is None:
        return None, "missing image"
    try:
        header = images.read_header(str(folder / file))
    except UserError as error:
        return None, images.fault_of(error)
    return images.frames(header, annotation.size if annotation else (0, 0), stored=stored), ""


def _labels(
    position: int,
    stem: str,
    file: str,
    frames: tuple[images.Size, images.Size],
    annotation: _Annotation,
    numbers: Mapping[str, int],
    dropped: dict[str, list[str]],
) -> Labels | None:
    """Check the objects of one image, whose size is the first of `frames`; None if its annotation is broken."""
    size = frames[0]
    for reason, where in annotation.wrong:
        dropped[reason].append(where)
        if reason == "broken XML":
            return None
    labels = unlabelled(position, file, size)
    for number, found in annotation.objects:
        box, reason = check_box(found.box, size)
        if other_way := images.fault_of_box(found.box, *frames):
            dropped[other_way].append(f"{stem}.xml #{number}")
        if box is None or found.name not in numbers:
            dropped[reason or "class not asked for"].append(f"{stem}.xml #{number}")
            continue
        labels.boxes.append(box)
        labels.classes.append(numbers[found.name])
        labels.crowd.append(found.difficult)
        labels.areas.append((box[2] - box[0]) * (box[3] - box[1]))
    return labels
