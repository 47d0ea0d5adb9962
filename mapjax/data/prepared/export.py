"""A data set written back as YOLO, COCO, VOC or label images, with its images as they are; and answers likewise."""

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mapjax.data import headers, images, objects, run_lengths, skeletons
from mapjax.data.labels import has
from mapjax.data.prepared import encoding, forms
from mapjax.data.prepared.forms import About, Objects
from mapjax.data.skeletons import Points
from mapjax.data.source import Record, Source
from mapjax.errors import UserError, near
from mapjax.runtime.names import encoded

FORMS = ("yolo", "coco", "voc", "instances")
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
_LONGEST = 200  # bytes of a file's name


class Written(NamedTuple):
    """What was written: images and objects by split, and what was left out or lost, by reason."""

    images: dict[str, int]
    objects: dict[str, int]
    lost: dict[str, int]


def require_form(name: str) -> None:
    """Refuse a form that is none.

    Raises:
      UserError: naming those there are.
    """
    if name not in FORMS:
        raise UserError(f"--format {name!r} is not written.{near(name, FORMS)}")


def write(
    sources: Mapping[str, Source], out: pathlib.Path, form: str, progress: Callable[[int], None] = lambda images: None
) -> Written:
    """Write splits with boxes into a new folder; images keep their bytes and, where they can, their names.

    YOLO and label images have no place for crowds, VOC and label images none for keypoints: they are counted as lost.
    VOC's classes are known by name only, so that readers sort them.

    Args:
      sources: by the name of each split, all with the same classes.
      form: one of FORMS; "instances" are label images, a number an object.
      progress: told now and then how many images have been written.

    Raises:
      UserError: a form that is none, records without boxes, or without masks for label images, or a folder that holds
        something or cannot be written.
    """
    require_form(form)
    begin(out)
    found = Written({}, {}, {})
    taken = set[str]()
    about = None
    for split, source in sources.items():
        if form != "voc":
            taken = set()
        kept: list[Objects] = []
        for record in _readable(source, found.lost):
            if not has(record, "boxes"):
                raise UserError(f"{source.name} has no boxes, of which {form} is made; use folder or masks as it is.")
            if form == "instances" and not has(record, "masks"):
                raise UserError(f"{source.name} was read without masks, of which label images are made: --needs masks.")
            about = about or _about(source, record)
            one = _objects(record, _stem(str(record["file"]), taken))
            _count_lost(one, form, found.lost)
            put(out, {forms.image_place(form, split, one): record["image"]} | forms.of_image(form, split, one, about))
            kept.append(one if form == "coco" or one.masks is None else one._replace(masks=()))
            progress(sum(found.images.values()) + len(kept))
        found.images[split] = len(kept)
        found.objects[split] = sum(len(one.boxes) for one in kept)
        if about is not None:
            put(out, forms.of_split(form, split, kept, about))
    if about is None:
        raise UserError(f"{', '.join(one.name for one in sources.values())}: there is no image to write.")
    put(out, forms.of_all(form, list(sources), about))
    return found


class Answers:
    """Answers, written as labels: `labels/*.txt` and `classes.txt`, `coco.json`, `Annotations/*.xml`, label images."""

    def __init__(self, out: pathlib.Path, form: str, classes: Sequence[str], points: Points = skeletons.NONE):
        """Take the folder of the answers, the form, the names of the classes, and what is known of keypoints."""
        require_form(form)
        self._out, self._form, self._classes, self._points = out, form, classes, points
        self._ids: dict[int, int] = {}
        self._kept: list[Objects] = []

    def add(self, row: Mapping[str, Any], name: pathlib.PurePath) -> None:
        """Write what is known of one image, an entry of predictions.json; `name` is that of its drawing.

        Raises:
          UserError: it has no boxes, or the folder cannot be written.
        """
        if not has(row, "boxes"):
            raise UserError(f"--format {self._form} writes boxes, and this network answers with none; leave it out.")
        stem = name.with_suffix("").as_posix()
        boxes = np.array(row["boxes"], np.float64).reshape(-1, 4)
        classes = np.array(row["classes"], np.int64)
        self._ids |= dict(zip(row["classes"], row.get("category_ids", ())))
        size = (int(row["height"]), int(row["width"]))
        suffix = os.path.splitext(row["file"])[1]
        one = Objects(len(self._kept) + 1, stem, suffix, size, boxes, classes, list(row["scores"]))
        if has(row, "masks"):
            one = one._replace(masks=[mask["counts"].encode("ascii") for mask in row["masks"]])
        elif self._form == "instances":
            raise UserError("--format instances writes masks, and this network answers with none; leave it out.")
        if has(row, "keypoints"):
            points = np.array(row["keypoints"], np.float64).reshape(len(boxes), -1, 3) if len(boxes) else None
            one = one._replace(keypoints=points)
            if points is not None and not self._points.names:
                self._points = Points(tuple(map(str, range(points.shape[1]))))
        self._kept.append(one)
        put(self._out, forms.of_image(self._form, "", one, self._about()))

    def close(self) -> None:
        """Write what stands for all images; those whose names are numbers have these as ids, as COCO's do."""
        names = [os.path.basename(one.stem) for one in self._kept]
        if all(name.isascii() and name.isdigit() and len(name) < 19 for name in names):
            numbers = [int(name) for name in names]
            if len(set(numbers)) == len(numbers):
                self._kept = [one._replace(id=number) for one, number in zip(self._kept, numbers)]
        put(self._out, forms.of_split(self._form, "", self._kept, self._about()))
        put(self._out, forms.of_all(self._form, [""], self._about()))

    def _about(self) -> About:
        """Number the classes as COCO does, where its numbers are known, else from 1 on."""
        free = max(self._ids.values(), default=0)
        known = self._ids or {number: number + 1 for number in range(len(self._classes))}
        numbers = [known.get(k, free + 1 + k) for k in range(len(self._classes))]
        names, lines = self._points
        return About(self._classes, numbers, names, objects.mirrored(names).tolist(), lines)


def begin(out: pathlib.Path) -> None:
    """Make a new folder, or find that it is empty.

    Raises:
      UserError: it holds something, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if names := os.listdir(out):
            raise UserError(f"{out} holds files already, such as {min(names)}; name another --out, or remove it.")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another --out.") from error


def put(out: pathlib.Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder.

    Raises:
      UserError: one cannot be written.
    """
    for name, data in files.items():
        try:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
        except OSError as error:
            raise UserError(f"{out / name} cannot be written ({error.strerror}); name another --out.") from error


def _readable(source: Source, lost: dict[str, int]) -> Iterable[Record]:
    """Yield the records whose images can be read, these as encoded bytes."""
    for index in range(len(source.records)):
        try:
            record = dict(source.records[index])
            record["image"] = encoding.encoded(record["image"])
            turned = images.read_header(record["image"]).orientation > 1
        except UserError as error:
            reason = images.fault_of(error)
            lost[reason] = lost.get(reason, 0) + 1
            continue
        if turned and record.get("stored"):
            reason = "image turned by EXIF whose labels are not: read it with data.orientation=stored"
            lost[reason] = lost.get(reason, 0) + 1
        yield record


def _objects(record: Record, stem: str) -> Objects:
    suffix = os.path.splitext(str(record["file"]))[1].lower()
    if suffix not in images.EXTENSIONS:
        suffix = _SUFFIXES.get(headers.kind_of(record["image"][: headers.BEGIN]), ".png")
    size = (int(record["size"][0]), int(record["size"][1]))
    beside: dict[str, Any] = {key: record.get(key) for key in ("crowd", "areas", "keypoints")}
    if has(record, "masks"):  # as run lengths, for those of all images are kept
        beside["masks"] = [mask if isinstance(mask, bytes) else run_lengths.encode(mask) for mask in record["masks"]]
    return Objects(int(record["id"]), stem, suffix, size, record["boxes"], record["classes"], None, **beside)


def _about(source: Source, record: Record) -> About:
    about = About(source.classes, source.category_ids)
    if not has(record, "keypoints"):
        return about
    beside = {"skeleton": source.skeleton, "sigmas": source.sigmas, "mirrored": record["mirrored"].tolist()}
    return about._replace(keypoints=source.keypoints, **beside)


def _count_lost(one: Objects, form: str, lost: dict[str, int]) -> None:
    crowds = int(one.crowd.sum()) if form in ("yolo", "instances") and one.crowd is not None else 0
    points = 0 if form not in ("voc", "instances") or one.keypoints is None else len(one.keypoints)
    for what, count in {"crowd": crowds, "object's keypoints": points}.items():
        reason = f"{what}, for which {form} has no place"
        if count:
            lost[reason] = lost.get(reason, 0) + count


def _stem(file: str, taken: set[str]) -> str:
    """Name an image by its file, without folders; a name already given gets -2, -3, …"""
    plain = os.path.splitext(os.path.basename(file.replace("\\", "/")))[0].lstrip(".")
    while len(encoded(plain)) > _LONGEST:
        plain = plain[:-1]
    stem, number = plain or "image", 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{plain or 'image'}-{number}"
    taken.add(stem.casefold())
    return stem
