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

from mapjax import regular
from mapjax.data import box_forms, documents, fields, images, lookup, splits
from mapjax.data.box_forms import Written
from mapjax.data.formats import voc_lists, voc_objects, voc_segmentation
from mapjax.data.records import Labels, Packed, check_box, unlabelled
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.runtime.names import shown

ABOUT = "voc:DIR (boxes, masks or label maps)"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_THREADS = 8  # for the latency of many small files


class _Object(NamedTuple):
    """An object: its number in the file, and of what cannot be read None; of a name that is not there ""."""

    number: int
    name: str
    box: tuple[float, ...] | None
    difficult: bool | None


class _Annotation(NamedTuple):
    """One file: height, width as it says (0 if it does not), its objects, and why it is not XML, or nothing."""

    size: tuple[int, int]
    objects: list[_Object]
    broken: str


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

    Left out and counted in `dropped`: annotations that are broken or missing, images that are missing or unreadable, or
    have an object without a name or four corners, for it would be learned as background; boxes that are empty or
    outside. Counted in `noted`: boxes that are clipped to the image, and `difficult` that cannot be read, which is 0.

    Annotations and images may be in subfolders, and lists name an image by any end of its path.

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
      needs: what the task learns from: "label_map" reads the masks instead (voc_segmentation.py), "masks" those of
        objects (voc_objects.py).

    Raises:
      UserError: no such folder, not a VOC folder, no such split, or most boxes in another form (mapjax.data.box_forms).

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
    if needs == "masks":
        return voc_objects.open_split(split, seed, path, classes, hold_out, stored)
    if needs == "label_map":
        return voc_segmentation.open_split(split, seed, path, classes, hold_out, void, stored)
    root = pathlib.Path(path)
    _require_folders(root)
    annotated = voc_lists.files(root, "Annotations", (".xml",))
    every_image, unread_files = voc_lists.image_files(root)
    image_files = voc_lists.counterparts(annotated, every_image)
    unread = {os.path.splitext(name)[0]: reason for reason, names in unread_files.items() for name in names}
    lists = voc_lists.read(root / "ImageSets" / "Main", sorted(annotated))
    found, part = splits.locate(split, lists, f"voc:{path}", hold_out)
    listed, repeated = voc_lists.once(lists[found])
    stems = splits.take(listed, part, seed, hold_out)
    image_files = lookup.values(stems, image_files)
    with ThreadPoolExecutor(_THREADS) as pool:
        names = sorted(annotated if classes is None else set(stems).intersection(annotated))
        files = [root / "Annotations" / annotated[name] for name in names]
        annotations = dict(zip(names, pool.map(_parse, files, chunksize=64)))
        asked = classes is not None
        if classes is None:
            every = (found for one in annotations.values() for found in one.objects)
            classes = sorted({found.name for found in every if found.name and found.box is not None})
        reader = _Reader({name: number for number, name in enumerate(classes)}, asked)
        folder = root / "JPEGImages"
        sizes = pool.map(lambda stem: _size(folder, image_files.get(stem), annotations.get(stem), stored), stems)
        for stem, (frames, reason) in zip(stems, sizes):
            reader.read(stem, image_files.get(stem, stem), frames, unread.get(stem, reason), annotations.get(stem))
    reader.written.require_plausible(f"{root / 'Annotations'}, split {split!r}")
    reader.noted.update(reader.written.noted())
    packed = Packed(root, reader.kept, stored=stored)
    return Source(
        name=f"voc:{path}",
        split=split,
        classes=tuple(classes),
        category_ids=tuple(range(1, len(classes) + 1)),
        records=packed.records(),
        dropped={**repeated, **reader.dropped},
        fingerprint=packed.fingerprint(),
        noted=dict(reader.noted),
    )


def _require_folders(root: pathlib.Path) -> None:
    """Stop where a folder is not there, and name one a level deeper, or in other letters, that is."""
    for folder in (root, root / "Annotations", root / "JPEGImages"):
        if not folder.is_dir():
            alike = lookup.match(folder.name, names := _folders(folder.parent), ())
            near = [alike] if alike else [name for name in names if (root / name / "Annotations").is_dir()]
            hint = f" (is {shown(str(folder.parent / near[0]))!r} meant?)" if near else ""
            raise UserError(
                f"{folder} is not there{hint}: --data voc:DIR needs a folder with Annotations/ and JPEGImages/."
            )


def _folders(place: pathlib.Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(place) if entry.is_dir()) if place.is_dir() else []


def _parse(file: pathlib.Path) -> _Annotation:
    try:
        root = documents.parse_xml(regular.read_bytes(file))
    except (ElementTree.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
        return _Annotation((0, 0), [], f"{file.name}: {error}")
    if root.tag.casefold() != "annotation":
        return _Annotation((0, 0), [], f"{file.name}: it is <{root.tag}>, not <annotation>")
    height, width = (int(fields.number(root.findtext(f"size/{side}")) or 0) for side in ("height", "width"))
    objects = [
        _Object(
            number,
            node.findtext("name", "").strip(),
            fields.numbers([node.findtext(f"bndbox/{corner}") for corner in _CORNERS], 4),
            fields.flag(node.findtext("difficult")),
        )
        for number, node in enumerate(root.iterfind("object"), start=1)
    ]
    return _Annotation((height, width), objects, "")


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


class _Reader:
    """Makes the labels of one image after the other, and keeps what was odd."""

    def __init__(self, numbers: Mapping[str, int], asked: bool):
        """Take the class of each name; whether these were asked for, so that others are left out."""
        self.dropped: dict[str, list[str]] = collections.defaultdict(list)
        self.noted: dict[str, list[str]] = collections.defaultdict(list)
        self.kept: list[Labels] = []
        self.written = Written(box_forms.CORNERS)
        self._numbers, self._asked = numbers, asked

    def read(
        self,
        stem: str,
        file: str,
        frames: tuple[images.Size, images.Size] | None,
        reason: str,
        annotation: _Annotation | None,
    ) -> None:
        """Keep the labels of an image, or count why it has none: without `frames` for the `reason`."""
        if annotation is None:
            self.dropped["missing annotation"].append(stem)
        elif frames is None:
            self.dropped[reason].append(file)
        else:
            one = self._labels(len(self.kept), stem, f"JPEGImages/{file}", frames, annotation)
            self.kept += [] if one is None else [one]

    def _labels(
        self, position: int, stem: str, file: str, frames: tuple[images.Size, images.Size], annotation: _Annotation
    ) -> Labels | None:
        """Check the objects of one image, whose size is the first of `frames`, that the other way up the second.

        None if its annotation is broken, or an object cannot be read.
        """
        size = frames[0]
        if annotation.broken:
            self.dropped["broken XML"].append(annotation.broken)
            return None
        if min(annotation.size) > 0 and annotation.size != size:
            self.noted["image of another size than the XML says"].append(
                f"{stem}.xml ({annotation.size[0]}×{annotation.size[1]}, and the image {size[0]}×{size[1]}, height × "
                "width)"
            )
        labels = unlabelled(position, file, size)
        for found in annotation.objects:
            where = f"{stem}.xml #{found.number}"
            if self._asked and found.name and found.name not in self._numbers:
                self.dropped["class not asked for"].append(where)
                continue
            if not found.name or found.box is None:
                what = "four finite corners" if found.name else "a name"
                self.dropped[f"image with an object without {what}"].append(where)
                return None
            if other_way := images.fault_of_box(found.box, *frames):
                self.noted[other_way].append(where)
            self.written.add(found.box, *frames, where)
            self._add(labels, found, found.box, where)
        return labels

    def _add(self, labels: Labels, found: _Object, given: tuple[float, ...], where: str) -> None:
        box, reason = check_box(given, labels.size)
        if box is None:
            self.dropped[reason or ""].append(where)
            return
        if box_forms.is_clipped(given, box):
            self.noted["box clipped to the image"].append(where)
        if found.difficult is None:
            self.noted["difficult that cannot be read, taken as 0"].append(where)
        labels.boxes.append(box)
        labels.classes.append(self._numbers[found.name])
        labels.crowd.append(bool(found.difficult))
        labels.areas.append((box[2] - box[0]) * (box[3] - box[1]))
