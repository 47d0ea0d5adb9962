"""Kinds of input: how a small sound one is written, and how users' programs read it."""

import contextlib
import gzip
import io
import json
import pathlib
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.random import Generator
from rich.console import Console

from mapjax.config import load as configs
from mapjax.config import parts
from mapjax.data import images
from mapjax.data.checks import quality
from mapjax.data.prepared import prepare
from mapjax.data.source import Source, label_map_of, largest_size, name_of, truth_of
from mapjax.errors import UserError
from mapjax.runs import predict
from mapjax.runtime import log, workdir
from mapjax.study import bundle
from mapjax.weights import files

LOOKED_AT = 6  # records of a split
SHOWN = Console(file=io.StringIO(), width=100)


class Kind(NamedTuple):
    """One kind of input.

    write(folder, rng): write a sound one; what it gives is what may be damaged.
    use(folder): read it as a program does, and say how many things were read; a UserError is a clean result.
    """

    write: Callable[[pathlib.Path, Generator], Sequence[pathlib.Path]]
    use: Callable[[pathlib.Path], int]


def encoded_image(rng: Generator, form: str = "PNG", size: tuple[int, int] = (20, 16), **options: Any) -> bytes:
    """Encode a small image."""
    data = io.BytesIO()
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    PIL.Image.fromarray(pixels).save(data, form, **options)
    return data.getvalue()


def _put(path: pathlib.Path, data: bytes | str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _images(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    exif = PIL.Image.Exif()
    exif[0x0112] = int(rng.integers(1, 9))
    forms = {
        "a.jpg": ("JPEG", {"exif": exif}), "b.jpg": ("JPEG", {"progressive": True}), "c.png": ("PNG", {}),
        "d.tif": ("TIFF", {}), "e.tif": ("TIFF", {"compression": "tiff_lzw"}), "f.gif": ("GIF", {}),
        "g.bmp": ("BMP", {}), "h.webp": ("WEBP", {}), "i.png": ("PNG", {"optimize": True}),
    }  # fmt: skip
    name = str(rng.choice(list(forms)))
    form, options = forms[name]
    return [_put(folder / "images" / name, encoded_image(rng, form, **options))]


def _use_images(folder: pathlib.Path) -> int:
    found = predict.find_images(folder / "images")
    for file in found:
        images.read(file)
        images.read_size(file)
    return len(found)


def _folders(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    made = []
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            for number in range(2):
                made.append(_put(folder / "data" / split / name / f"{number}.png", encoded_image(rng)))
    return made


def _zip(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    members = {file.relative_to(folder / "data"): file for file in _folders(folder, rng)}
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][rng.integers(2)]) as archive:
        for name, file in members.items():
            archive.write(file, name)
    return [path]


def _tar(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    _folders(folder, rng)
    path = folder / "data.tar"
    with tarfile.open(path, "w", format=[tarfile.PAX_FORMAT, tarfile.GNU_FORMAT][rng.integers(2)]) as archive:
        archive.add(folder / "data", ".")
    return [path]


def _table(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    made = [_put(folder / "data" / f"{number}.png", encoded_image(rng)) for number in range(4)]
    several = rng.random() < 0.5
    lines = ["path,labels,split" if several else "path,label,split"]
    lines += [
        f"{file.name},{'a;b' if several else 'ab'[k % 2]},{('train', 'val')[k // 2]}" for k, file in enumerate(made)
    ]
    return [_put(folder / "data" / "labels.csv", "\n".join(lines)), *made]


def _idx(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    made = []
    for split, count in (("train", 8), ("t10k", 4)):
        pixels = rng.integers(0, 256, (count, 6, 5), np.uint8)
        for name, array in (
            (f"{split}-images-idx3-ubyte", pixels),
            (f"{split}-labels-idx1-ubyte", np.arange(count) % 2),
        ):
            data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
            zipped = rng.random() < 0.3
            made.append(_put(folder / "data" / (name + ".gz" * zipped), gzip.compress(data) if zipped else data))
    return made


def _coco(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    made = []
    for split in ("train", "val"):
        entries = [{"id": k, "file_name": f"{k}.png", "width": 20, "height": 16} for k in range(3)]
        objects = []
        for k in range(6):
            x, y, w, h = (float(v) for v in rng.integers(1, 8, 4))
            run_lengths: Any = [[x, y, x + w, y, x + w, y + h]]
            if k % 3 == 1:
                run_lengths = {"size": [16, 20], "counts": [5, 10, 305]}
            elif k % 3 == 2:
                run_lengths = {"size": [16, 20], "counts": "52203"}
            objects.append({
                "id": k, "image_id": k // 2, "category_id": 1 + k % 2, "bbox": [x, y, w, h], "area": w * h,
                "iscrowd": int(k == 5), "segmentation": run_lengths, "keypoints": [x, y, 2, 0, 0, 0],
                "num_keypoints": 1,
            })  # fmt: skip
        categories = [{"id": 1 + k, "name": name, "keypoints": ["left_a", "b"], "skeleton": [[1, 2]]}
                      for k, name in enumerate(("cat", "dog"))]  # fmt: skip
        content = {"images": entries, "annotations": objects, "categories": categories}
        made.append(_put(folder / "data" / "annotations" / f"instances_{split}.json", json.dumps(content)))
        made += [_put(folder / "data" / split / entry["file_name"], encoded_image(rng)) for entry in entries]
    return made


VOC = """<annotation><filename>{name}</filename><size><width>20</width><height>16</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><truncated>1</truncated>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>12.5</ymax></bndbox></object></annotation>"""


def _voc(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    made = []
    for number in range(4):
        made.append(_put(folder / "data" / "Annotations" / f"{number}.xml", VOC.format(name=f"{number}.jpg")))
        made.append(_put(folder / "data" / "JPEGImages" / f"{number}.jpg", encoded_image(rng, "JPEG")))
    for split, names in (("train", "0\n1\n"), ("val", "2\n3\n")):
        made.append(_put(folder / "data" / "ImageSets" / "Main" / f"{split}.txt", names))
    return made


def _yolo(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    """Rows of five, polygons and keypoints; folders or lists of files."""
    form = int(rng.integers(3))
    rows = ("0 0.5 0.5 0.25 0.25", "1 0.1 0.1 0.9 0.1 0.5 0.8", "1 0.5 0.5 0.25 0.25 0.5 0.5 2 0 0 0")
    lists = rng.random() < 0.3
    described = "path: .\nnc: 2\nnames:\n  0: cat\n  1: dog\n" + ("kpt_shape: [2, 3]\nflip_idx: [1, 0]\n" * (form == 2))
    described += "".join(f"{split}: {f'{split}.txt' if lists else f'images/{split}'}\n" for split in ("train", "val"))
    made = [_put(folder / "data" / "data.yaml", described)]
    for split in ("train", "val"):
        for number in range(3):
            made.append(_put(folder / "data" / "labels" / split / f"{number}.txt", f"{rows[0]}\n{rows[form]}\n"))
            made.append(_put(folder / "data" / "images" / split / f"{number}.png", encoded_image(rng)))
        if lists:
            names = "\n".join(f"./images/{split}/{number}.png" for number in range(3))
            made.append(_put(folder / "data" / f"{split}.txt", names))
    return made


def _masks(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    made = [_put(folder / "data" / "classes.txt", "sky\nroad\n")]
    for split in ("train", "val"):
        for number in range(2):
            data = io.BytesIO()
            mask = PIL.Image.fromarray(rng.integers(0, 2, (16, 20), np.uint8))
            mask.save(data, "PNG")
            made.append(_put(folder / "data" / "masks" / split / f"{number}.png", data.getvalue()))
            made.append(_put(folder / "data" / "images" / split / f"{number}.png", encoded_image(rng)))
    return made


def _prepared(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    kind, write = [("folder", _folders), ("coco", _coco)][rng.integers(2)]
    write(folder / "raw", rng)
    node = {"name": kind, "path": str(folder / "raw" / "data")}
    sources = prepare.open_splits(node, ("train", "val"))
    plan = prepare.make_plan(sources, folder / "data", 1, None)
    prepare.prepare(sources, folder / "data", plan, data="fuzz")
    return [file for file in sorted((folder / "data").iterdir()) if file.is_file()]


def _weights(ending: str, folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    path = folder / f"weights{ending}"
    tensors = {"conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "fc.bias": np.zeros(7, np.float32)}
    files.write(path, tensors)
    return [path]


def _use_weights(folder: pathlib.Path) -> int:
    return sum(len(files.read(file)) for file in sorted(folder.glob("weights*")))


def _config(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    recipe = str(rng.choice(["classify", "detect", "segment"]))
    return [_put(folder / "config.json", json.dumps(configs.to_dict(configs.load(recipe)), indent=1))]


def _use_config(folder: pathlib.Path) -> int:
    config = configs.load(str(folder / "config.json"))
    json.dumps(configs.to_dict(config), allow_nan=False)
    workdir.open_for(folder / "run", configs.to_dict(config), ("a",))
    return len(config)


def _study(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    about = {
        "cells": [{"name": "one", "overrides": {"batch": 8}, "metrics": {"top1": {"by_seed": {"0": 0.5}}}}],
        "seeds": [0], "data": None, "experiment": "x", "baseline": "one", "metrics": {"top1": "max"},
        "tests": {"dark": {"corruption": {"noise": 80.0}}}, "by_class": "",
    }  # fmt: skip
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("study.json", json.dumps(about))
        file.writestr("cells/one.json", json.dumps(configs.to_dict(configs.load("classify"))))
    return [path]


def _use_study(folder: pathlib.Path) -> int:
    return len(bundle.read(folder / "study.zip")[0].cells)


def _run(folder: pathlib.Path, rng: Generator) -> list[pathlib.Path]:
    lines = [json.dumps({"kind": "train", "step": step, "loss": 0.5}) for step in (1, 2, 3)]
    return [
        _put(folder / "classes.json", '["a", "b"]'),
        _put(folder / "result.json", json.dumps({"metrics": {"top1": 0.5}, "data": {"eval": {"fingerprint": "x"}}})),
        _put(folder / "metrics.jsonl", "\n".join(lines)),
    ]


def _use_run(folder: pathlib.Path) -> int:
    last = log.last_step(folder / "metrics.jsonl")
    log.drop_after(folder / "metrics.jsonl", 2)
    for name in ("classes.json", "result.json"):
        workdir.read_json(folder / name)
    return last


def _use_data(name: str, needs: Sequence[str], folder: pathlib.Path, *, where: str = "data") -> int:
    """Open both splits for each kind of labels, say what is in them, and look at some records."""
    read, refusals = 0, []
    for need in needs:
        for split in ("train", "val"):
            try:
                node = {"name": name, "path": str(folder / where)}
                source = parts.make("data.formats", node, split=split, needs=need)
                summary = quality.inspect(source, 10)
                SHOWN.print(quality.table(summary))
                quality.require_trainable(source, summary)
                read += sum(_is_read(source, index, need) for index in range(min(LOOKED_AT, len(source.records))))
                json.dumps(source.dropped)
                largest_size(source)
            except UserError as error:
                refusals.append(error)
    if refusals and not read:
        raise refusals[0]
    return read


def _is_read(source: Source, index: int, need: str) -> bool:
    """Look at a record in every way; an image or a mask that cannot be read is told by a UserError."""
    with contextlib.suppress(UserError):
        name_of(source, index)
        truth_of(source, index)
        images.read(source.records[index]["image"])
        if need == "label_map":
            label_map_of(source, index)
        return True
    return False


def _data(write: Any, name: str, *needs: str, **options: Any) -> Kind:
    return Kind(write, partial(_use_data, name, needs or ("label",), **options))


KINDS = {
    "images": Kind(_images, _use_images),
    "folder": _data(_folders, "folder"),
    "zip": _data(_zip, "folder", where="data.zip"),
    "tar": _data(_tar, "folder", where="data.tar"),
    "table": _data(_table, "table", where="data/labels.csv"),
    "idx": _data(_idx, "idx"),
    "coco": _data(_coco, "coco", "boxes", "masks", "keypoints", "label_map"),
    "voc": _data(_voc, "voc", "boxes"),
    "yolo": _data(_yolo, "yolo", "boxes", "masks", "keypoints"),
    "masks": _data(_masks, "masks", "label_map"),
    "prepared": _data(_prepared, "array_record", "label", "boxes"),
    "safetensors": Kind(partial(_weights, ".safetensors"), _use_weights),
    "npz": Kind(partial(_weights, ".npz"), _use_weights),
    "pth": Kind(partial(_weights, ".pth"), _use_weights),
    "config": Kind(_config, _use_config),
    "study": Kind(_study, _use_study),
    "run": Kind(_run, _use_run),
}
