"""Proposals from outside, beside the records of a source: boxes that may hold an object, the likeliest first.

They are what `mapjax prepare --proposals` left in a folder (prepared/proposing.py), a folder for each split, found by
its fingerprint; or a file of boxes in COCO's results format.
"""

import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mapjax.data import documents
from mapjax.data.source import Record, Records, Source, name_of, truth_of
from mapjax.errors import UserError

BESIDE = "beside"  # in the folder "proposals" of the data
SPLIT = "{split}"  # in the name of a file, stands for the split's
FOLDER, DONE, BOXES, COUNTS = "proposals", "done.json", "boxes.npy", "counts.npy"
NONE = "image without proposals"
_MOST_BYTES = 4_000_000_000  # of a file of boxes


class Stored(NamedTuple):
    """The proposals of a split: of record i the rows from ends[i] to ends[i + 1] of an array, which stays on the disk.

    boxes: x1,y1,x2,y2 in pixels of the original image; the file, or the array itself.
    digest: of what they are.
    """

    boxes: pathlib.Path | Float[np.ndarray, "n 4"]
    ends: Int[np.ndarray, " i"]
    digest: str


def attach(source: Source, where: str, data: str = "") -> Source:
    """Give a source whose records have `proposals`; its fingerprint depends on them too.

    Images without any are counted among what is noted of the source.

    Args:
      where: a folder of `mapjax prepare --proposals`, "beside" for the one in the data's own, or a JSON file in COCO's
        results format, whose "image_id" is the `id` of a record; "{split}" in its name is the split's.
      data: the path of the data.

    Raises:
      UserError: nothing there, or what is there is of other data, or no such file.
    """
    path = folder_of(data) if where == BESIDE else pathlib.Path(where.replace(SPLIT, source.split))
    stored = _opened(source, path) if path.is_dir() or not path.suffix else results(source, path)
    counts = np.diff(stored.ends)
    missing = [name_of(source, index) for index in np.flatnonzero(counts == 0).tolist()]
    if len(missing) == len(counts):
        raise UserError(f"{path} has no proposal for any of the {len(counts)} images of {source.split!r}; name others.")
    records: Any = source.records
    known = {name: getattr(records, name, lambda: None)() for name in ("labels", "files", "sizes")}
    beside = Records(
        len(records),
        partial(_at, records, stored),
        names=_Names(source),
        truth=partial(_truth, source, stored),
        objects=getattr(records, "objects", None),
        label_map=getattr(records, "label_map", None),
        **known,
    )
    noted = {**source.noted, **({NONE: missing} if missing else {})}
    whole = hashlib.sha256(f"{source.fingerprint} {stored.digest}".encode()).hexdigest()[:16]
    return source._replace(records=beside, noted=noted, fingerprint=f"proposed-{whole}")


class _Names(Sequence[str]):
    """The names of a source's records, each found when it is asked for: some are drawn with their image."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source.records)

    def __getitem__(self, index: Any) -> Any:
        return name_of(self._source, index)


def _at(records: Any, stored: Stored, index: int) -> Record:
    return {**records[index], "proposals": of(stored, index)}


def _truth(source: Source, stored: Stored, index: int) -> Record:
    return {**truth_of(source, index), "proposals": of(stored, index)}


def of(stored: Stored, index: int) -> Float[np.ndarray, "n 4"]:
    """Return the proposals of record `index`."""
    boxes = _mapped(str(stored.boxes)) if isinstance(stored.boxes, pathlib.Path) else stored.boxes
    return np.array(boxes[stored.ends[index] : stored.ends[index + 1]], np.float32)


@functools.lru_cache(maxsize=8)
def _mapped(file: str) -> np.ndarray:
    return np.load(file, mmap_mode="r")


def folder_of(data: str) -> pathlib.Path:
    """Return where the proposals of data are kept by default: beside it.

    Raises:
      UserError: the data has no path, as an embedded set has none.
    """
    if not data or "://" in data:
        raise UserError(
            "proposals='beside': this data is in no folder; write them to one with mapjax prepare --proposals fast "
            "--out DIR, and set proposals='DIR'."
        )
    path = pathlib.Path(data)
    return (path if path.is_dir() else path.parent) / FOLDER


def split_folder(path: pathlib.Path, source: Source) -> pathlib.Path:
    """Return the folder of a split's proposals: its fingerprint is in the name."""
    return path / f"{source.split}-{hashlib.sha256(source.fingerprint.encode()).hexdigest()[:16]}"


def _opened(source: Source, path: pathlib.Path) -> Stored:
    folder = split_folder(path, source)
    mend = f"mapjax prepare --data {source.name} --splits {source.split} --proposals fast --out {path}"
    if not folder.is_dir():
        others = [one.name for one in path.glob(f"{source.split}-*")] if path.is_dir() else []
        if others:
            raise UserError(
                f"{path}: its proposals of {source.split!r} are of other data than {source.name}, or of what it was "
                f"before it changed: the fingerprint no longer fits; make them again: {mend}."
            )
        raise UserError(f"{path} has no proposals of {source.split!r}; make them once: {mend}.")
    try:
        facts = documents.parse_json((folder / DONE).read_bytes())
        counts = np.load(folder / COUNTS)
        stored = np.load(folder / BOXES, mmap_mode="r")
        if len(counts) != len(source.records) or stored.shape != (int(counts.sum()), 4):
            raise ValueError("lengths differ")
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not finished; run the command again: {mend}.") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder} is damaged ({error}); remove it, and run: {mend}.") from error
    return Stored(folder / BOXES, np.cumsum([0, *counts]), f"{facts.get('mode')} {facts.get('sha256')}")


def results(source: Source, file: pathlib.Path) -> Stored:
    """Read a file of boxes in COCO's results format: [{"image_id": 1, "bbox": [x, y, width, height], "score": 0.9}].

    Raises:
      UserError: it cannot be read, is no such list, or has boxes for images that the source does not have.
    """
    try:
        data = documents.read(file, _MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"proposals={str(file)!r} cannot be read ({reason}); name a folder or a JSON file.") from error
    try:
        rows = documents.parse_json(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON ({error}); {_FORM}.") from error
    ids, boxes, scores = _table(file, rows)
    places = {int(truth_of(source, index)["id"]): index for index in range(len(source.records))}
    strange = sorted(set(ids.tolist()) - places.keys())
    if strange:
        raise UserError(
            f"{file} has proposals for {len(strange)} images that {source.name} does not have in its split "
            f"{source.split!r}, such as image_id {strange[0]}; give each split its own file, as in "
            "proposals='boxes_{split}.json'."
        )
    index = np.array([places[one] for one in ids.tolist()], np.int64)
    order = np.lexsort((-scores, index))  # of each image the best first; without scores as they come
    counts = np.bincount(index, minlength=len(source.records))
    return Stored(boxes[order], np.cumsum([0, *counts]), hashlib.sha256(data).hexdigest()[:16])


_FORM = 'write COCO\'s results, as in [{"image_id": 1, "bbox": [x, y, width, height], "score": 0.9}]'


def _table(file: pathlib.Path, rows: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give ids, boxes x1,y1,x2,y2 and scores of COCO's results.

    Raises:
      UserError: naming the first row that is none.
    """
    if not isinstance(rows, list):
        held = "an object, as annotations are" if isinstance(rows, dict) else "no list"
        raise UserError(f"{file} is not in COCO's results format: it holds {held}; {_FORM}.")
    ids, boxes, scores = [], [], []
    for number, row in enumerate(rows):
        try:
            identifier, box, score = row["image_id"], [float(side) for side in row["bbox"]], float(row.get("score", 0))
            if type(identifier) is not int or len(box) != 4 or min(box[2:]) <= 0:
                raise ValueError
            if not all(map(math.isfinite, [*box, score])):
                raise ValueError
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            found = json.dumps(row)[:80]
            raise UserError(f"{file}: its row {number} is no box of COCO's results ({found}); {_FORM}.") from error
        ids.append(identifier)
        boxes.append(box)
        scores.append(score)
    table = np.array(boxes, np.float32).reshape(-1, 4)
    table[:, 2:] += table[:, :2]
    return np.array(ids, np.int64), table, np.array(scores, np.float64)
