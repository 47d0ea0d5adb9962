"""The files of YOLO, COCO, VOC and label images: what they hold of the objects of an image; formats/ reads them."""

import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax import saxutils

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from mapjax.data import geometry, run_lengths
from mapjax.data.prepared import drawn
from mapjax.data.run_lengths import Mask
from mapjax.errors import UserError, printable
from mapjax.runtime.names import encoded

Files = dict[str, bytes]  # path below the folder → content


class Objects(NamedTuple):
    """An image, and the objects in it, in its pixels.

    id: of the image.
    stem, suffix: of its file.
    size: height, width.
    scores, crowd, areas, masks, keypoints: of each box, where they are known.
    """

    id: int
    stem: str
    suffix: str
    size: geometry.Size
    boxes: Float[np.ndarray, "n 4"]
    classes: Int[np.ndarray, " n"]
    scores: Sequence[float] | None = None
    crowd: Bool[np.ndarray, " n"] | None = None
    areas: Float[np.ndarray, " n"] | None = None
    masks: Sequence[Mask] | Bool[np.ndarray, "n h w"] | None = None
    keypoints: Float[np.ndarray, "n k 3"] | None = None


class About(NamedTuple):
    """What all images have in common: names and numbers of the classes, and what there is to know of keypoints.

    mirrored, skeleton, sigmas: as a Source has them.
    """

    classes: Sequence[str]
    category_ids: Sequence[int]
    keypoints: Sequence[str] = ()
    mirrored: Sequence[int] = ()
    skeleton: Sequence[tuple[int, int]] = ()
    sigmas: Sequence[float] = ()


def image_place(form: str, split: str, one: Objects) -> str:
    """Return where a form has the file of an image."""
    beside = ("images", split)
    folder = {"yolo": beside, "coco": (split or "images",), "voc": ("JPEGImages",), "instances": beside}[form]
    return posixpath.join(*folder, one.stem + one.suffix)


def of_image(form: str, split: str, one: Objects, about: About) -> Files:
    """Return the files that a form has for one image."""
    if form == "yolo":
        return {posixpath.join("labels", split, f"{one.stem}.txt"): yolo_rows(one).encode("ascii")}
    if form == "instances":
        return {posixpath.join("instances", split, f"{one.stem}.png"): _numbered(one, len(about.classes))}
    if form != "voc":
        return {}
    files = {f"Annotations/{one.stem}.xml": encoded(voc_annotation(one, about.classes))}
    if one.masks is not None:
        for folder, data in zip(
            ("SegmentationObject", "SegmentationClass"), drawn.voc(list(one.masks), one.classes, one.size), strict=True
        ):
            files[f"{folder}/{one.stem}.png"] = data
    return files


def _numbered(one: Objects, count: int) -> bytes:
    """Draw a label image of the objects that are no crowds, of `count` classes."""
    rows = range(len(one.boxes)) if one.crowd is None else np.flatnonzero(~one.crowd).tolist()
    masks = [one.masks[row] for row in rows] if one.masks is not None else []
    try:
        return drawn.numbered(masks, np.asarray(one.classes)[list(rows)], one.size, count)
    except ValueError as error:
        raise UserError(f"{one.stem}: {error}; choose --format coco.") from error


def of_split(form: str, split: str, images: Sequence[Objects], about: About) -> Files:
    """Return the files that a form has for a split."""
    if form == "coco":
        text = json.dumps(coco_content(images, about))
        return {f"annotations/instances_{split}.json" if split else "coco.json": text.encode("ascii")}
    if form == "voc" and split:
        listed = encoded("".join(f"{one.stem}\n" for one in images))
        masked = encoded("".join(f"{one.stem}\n" for one in images if one.masks is not None))
        files = {f"ImageSets/Main/{split}.txt": listed}
        if masked:  # "classes.txt" is of SegmentationClass
            names = "".join(f"{printable(name)}\n" for name in ("background", *about.classes))
            files |= {f"ImageSets/Segmentation/{split}.txt": masked, "classes.txt": encoded(names)}
        return files
    return {}


def of_all(form: str, splits: Sequence[str], about: About) -> Files:
    """Return the files that a form has once."""
    if form in ("coco", "voc"):
        return {}
    if form == "instances" or splits == [""]:
        return {"classes.txt": encoded("".join(f"{printable(name)}\n" for name in about.classes))}
    lines = ["path: .", *(f"{split}: images/{split}" for split in splits)]
    if about.keypoints:
        lines += [f"kpt_shape: [{len(about.keypoints)}, 3]", f"flip_idx: {list(about.mirrored)}"]
        lines += [f"kpt_names: {{0: {json.dumps(list(about.keypoints))}}}"]
    lines += ["names:", *(f"  {number}: {json.dumps(name)}" for number, name in enumerate(about.classes))]
    return {"data.yaml": ("\n".join(lines) + "\n").encode("ascii")}


def yolo_rows(one: Objects) -> str:
    """Write the objects that are no crowds: of each a polygon if it has a mask, else its box, and its keypoints behind.

    Of a mask of several parts the parts are joined by seams; holes are lost. A score has no place.

    Example:
      >>> import numpy as np
      >>> from mapjax.data.prepared import forms
      >>> one = forms.Objects(1, "a", ".png", (16, 20), np.array([[2.0, 4, 12, 12]]), np.array([3]))
      >>> forms.yolo_rows(one)
      '3 0.35 0.5 0.5 0.5\\n'
    """
    height, width = one.size
    lines = []
    for row, (box, number) in enumerate(zip(one.boxes.astype(np.float64), one.classes.tolist())):
        if one.crowd is not None and one.crowd[row]:
            continue
        values = np.array([*(box[:2] + box[2:]) / 2, *(box[2:] - box[:2])]) / (width, height, width, height)
        if one.keypoints is not None:
            values = np.concatenate([values, (one.keypoints[row] / (width, height, 1)).ravel()])
        elif one.masks is not None:
            outline = polygon(run_lengths.bits(one.masks[row], one.size))
            values = (outline / (width, height)).ravel() if len(outline) else values
        lines.append(" ".join([str(number), *(f"{value:.9g}" for value in values.tolist())]) + "\n")
    return "".join(lines)


def polygon(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 2"]:
    """Return the outline of a mask through the centres of its border pixels, its parts joined by seams; none for none.

    Drawn again it is the same pixels, but for holes, which are filled, and seams.
    """
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    parts = sorted((one[:, 0].astype(np.float64) + 0.5 for one in found), key=len, reverse=True)
    ring = parts[0] if parts else np.zeros((0, 2))
    for part in parts[1:]:
        apart = ((ring[:, None] - part[None]) ** 2).sum(axis=2)
        here, there = divmod(int(apart.argmin()), len(part))
        bridge = np.concatenate([part[there:], part[: there + 1], ring[here : here + 1]])
        ring = np.concatenate([ring[: here + 1], bridge, ring[here + 1 :]])
    return np.resize(ring, (3, 2)) if 0 < len(ring) < 3 else ring


def voc_annotation(one: Objects, classes: Sequence[str]) -> str:
    """Write one XML: boxes as they are, crowds as difficult, scores as `score`; keypoints have no place."""
    objects = [
        f"  <object>\n    <name>{saxutils.escape(printable(str(classes[number])))}</name>\n"
        f"    <difficult>{int(one.crowd is not None and bool(one.crowd[row]))}</difficult>\n"
        + (f"    <score>{one.scores[row]:g}</score>\n" if one.scores is not None else "")
        + "    <bndbox>"
        + "".join(f"<{side}>{value:.9g}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
        + "</bndbox>\n  </object>\n"
        for row, (box, number) in enumerate(zip(one.boxes.tolist(), one.classes.tolist()))
    ]
    height, width = one.size
    return (
        f"<annotation>\n  <filename>{saxutils.escape(printable(one.stem + one.suffix))}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"{''.join(objects)}</annotation>\n"
    )


def coco_content(images: Sequence[Objects], about: About) -> dict[str, Any]:
    """Make the content of a COCO file; scores stand as `score`, as in COCO's lists of results."""
    points: dict[str, Any] = {}
    if about.keypoints:
        lines = [[one + 1, other + 1] for one, other in about.skeleton]
        points = {"keypoints": list(about.keypoints), "skeleton": lines}
        points |= {"sigmas": list(about.sigmas)} if about.sigmas else {}
    categories = [
        {"id": int(number), "name": name, **points}
        for number, name in zip(about.category_ids, about.classes, strict=True)
    ]
    entries = [
        {"id": one.id, "file_name": one.stem + one.suffix, "height": one.size[0], "width": one.size[1]}
        for one in images
    ]
    objects = [_coco_object(one, row, about) for one in images for row in range(len(one.boxes))]
    numbered = [{"id": number, **entry} for number, entry in enumerate(objects, start=1)]
    return {"images": entries, "annotations": numbered, "categories": categories}


def _coco_object(one: Objects, row: int, about: About) -> Mapping[str, Any]:
    x1, y1, x2, y2 = (float(f"{side:.9g}") for side in one.boxes[row].tolist())
    area = (x2 - x1) * (y2 - y1) if one.areas is None else float(one.areas[row])
    entry: dict[str, Any] = {
        "image_id": one.id,
        "category_id": int(about.category_ids[int(one.classes[row])]),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": area if math.isfinite(area) else 0.0,
        "iscrowd": int(one.crowd is not None and bool(one.crowd[row])),
    }
    if one.scores is not None:
        entry["score"] = float(one.scores[row])
    if one.masks is not None:
        mask = one.masks[row]
        text = mask if isinstance(mask, bytes) else run_lengths.encode(mask)
        entry["segmentation"] = {"size": list(one.size), "counts": text.decode("ascii")}
    if one.keypoints is not None:
        points = one.keypoints[row]
        entry["keypoints"] = [round(value, 4) for value in points.ravel().tolist()]
        entry["num_keypoints"] = int((points[:, 2] > 0).sum())
    return entry
