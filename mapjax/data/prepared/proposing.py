"""Proposals of the images of a source, found once and kept: in parts, so that a run that was stopped goes on.

Of each split a folder of its own, named after its fingerprint: boxes.npy, counts.npy, and done.json at last. Which
process finds what makes no difference.
"""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mapjax.data import documents, images, selective_search
from mapjax.data.prepared.shards import TMP, end_with_parent, write_file
from mapjax.data.proposals import BOXES, COUNTS, DONE, split_folder
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.runtime import checksum

PART = 32  # images of a part, which is what a run that is stopped may lose of each worker


class Found(NamedTuple):
    """What the folder of a split holds.

    empty: images without any proposal.
    made: images that this call has looked at.
    """

    images: int
    boxes: int
    empty: int
    made: int


def write(
    source: Source,
    out: pathlib.Path,
    mode: str,
    *,
    workers: int = 1,
    progress: Callable[[int], None] = lambda images: None,
) -> Found:
    """Find the proposals of a split that are not there yet, and join them.

    Args:
      out: the folder of all splits.
      mode: of selective search; "fast" or "quality".
      workers: processes.
      progress: told how many images are done.

    Raises:
      UserError: no such mode, a split without images, a folder that cannot be written or that holds another mode's
        boxes, or a worker that was killed.
    """
    selective_search.require_mode(mode, "--proposals")
    folder, length = split_folder(out, source), len(source.records)
    if not length:
        raise UserError(f"{source.name} has no images in its split {source.split!r}; leave it out of --splits.")
    if (done := _done(folder)) is not None:
        if done["mode"] != mode:
            raise UserError(f"{folder} holds proposals of {done['mode']!r}; name another --out, or remove it.")
        return Found(length, done["boxes"], done["empty"], 0)
    parts = [range(start, min(start + PART, length)) for start in range(0, length, PART)]
    files = [folder / f"{part.start:08d}.{mode}.npz{TMP}" for part in parts]
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        missing = [(part, file) for part, file in zip(parts, files) if _load(file, len(part)) is None]
        ready = length - sum(len(part) for part, _ in missing)
        progress(ready)
        for count in _all(missing, source, mode, workers):
            progress(ready := ready + count)
        boxes, empty = _join(folder, files, parts, mode)
    return Found(length, boxes, empty, sum(len(part) for part, _ in missing))


def _all(jobs: Sequence[tuple[range, pathlib.Path]], source: Source, mode: str, workers: int) -> Iterator[int]:
    """Write parts; yields how many images each has."""
    if workers <= 1 or len(jobs) <= 1:
        yield from (_part(source, mode, *job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    start = {"initializer": _start, "initargs": (source, mode)}
    with futures.ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, **start) as pool:
        try:
            for done in futures.as_completed([pool.submit(_part_here, *job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for lack of memory; run the command again, with fewer --workers: "
                "it goes on where it stopped."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: Callable[..., int] | None = None  # of a worker process


def _start(source: Source, mode: str) -> None:
    global _worker
    _worker = partial(_part, source, mode)
    end_with_parent()


def _part_here(rows: range, file: pathlib.Path) -> int:
    assert _worker is not None
    return _worker(rows, file)


def _part(source: Source, mode: str, rows: range, file: pathlib.Path) -> int:
    found = [_search(source, row, mode) for row in rows]
    data = io.BytesIO()
    np.savez(data, counts=np.array(list(map(len, found)), np.int32), boxes=np.concatenate(found))
    write_file(file, data.getvalue())
    return len(rows)


def _search(source: Source, row: int, mode: str) -> np.ndarray:
    """Give the boxes of a record in the pixels of its labels; none of an image that cannot be read."""
    try:
        record = source.records[row]
        size = record.get("size")
        if size is None:
            image = images.read(record["image"])
        else:
            whole = (int(size[0]), int(size[1]))
            image = images.read_as_labelled(record["image"], whole, stored=bool(record.get("stored")))
    except UserError:
        return np.zeros((0, 4), np.float32)
    return selective_search.search(image, mode).astype(np.float32)


def _load(file: pathlib.Path, count: int) -> dict[str, Any] | None:
    """Read a part; None if it is not there, or not whole."""
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        with np.load(file) as stored:
            found = {name: stored[name] for name in ("counts", "boxes")}
        if len(found["counts"]) == count and found["boxes"].shape == (int(found["counts"].sum()), 4):
            return found
    return None


def _join(folder: pathlib.Path, files: Sequence[pathlib.Path], parts: Sequence[range], mode: str) -> tuple[int, int]:
    """Write all parts as one array, and remove them; gives how many boxes, and images without."""

    def held(number: int, key: str) -> np.ndarray:
        if (part := _load(files[number], len(parts[number]))) is None:
            raise UserError(f"{folder} was changed meanwhile; run the command again.")
        return part[key]

    counts = np.concatenate([held(number, "counts") for number in range(len(parts))])
    total, start, unfinished = int(counts.sum()), 0, folder / f"{BOXES}{TMP}"
    if total:
        boxes = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float32, shape=(total, 4))
        for number in range(len(parts)):  # one part at a time in memory
            part = held(number, "boxes")
            boxes[start : start + len(part)] = part
            start += len(part)
        boxes.flush()
        os.replace(unfinished, folder / BOXES)
    else:
        np.save(folder / BOXES, np.zeros((0, 4), np.float32))
    np.save(folder / COUNTS, counts)
    empty = int((counts == 0).sum())
    digest = hashlib.sha256((checksum.sha256(folder / BOXES) + checksum.sha256(folder / COUNTS)).encode()).hexdigest()
    facts = {"mode": mode, "images": len(counts), "boxes": total, "empty": empty, "sha256": digest}
    write_file(folder / DONE, (json.dumps(facts, indent=1) + "\n").encode("ascii"))
    for file in files:
        file.unlink(missing_ok=True)
    return total, empty


def _done(folder: pathlib.Path) -> dict[str, Any] | None:
    """Read what a finished folder says of itself."""
    with contextlib.suppress(OSError, ValueError):
        facts = documents.parse_json((folder / DONE).read_bytes())
        if isinstance(facts, dict) and {"mode", "boxes", "empty"} <= facts.keys():
            return facts
    return None


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); make room or name another --out, and run the command "
            "again: it goes on where it stopped."
        ) from error
