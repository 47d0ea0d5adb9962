"""Data sets that `mapjax prepare` wrote: sharded ArrayRecord files, an index, and the labels in a file of their own.

    --data array_record:DIR        --data array_record:gs://BUCKET/DIR

Opening one reads `index.json` and `SPLIT.labels.npz` only; an image is one read at random in its shard, by any thread,
process or host. On Google Cloud Storage ArrayRecord reads the shards itself, and etils.epath the two small files.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from mapjax import regular
from mapjax.data import labelled, labels, splits
from mapjax.data.prepared import encoding
from mapjax.data.prepared import index as index_file
from mapjax.data.prepared.truth import Truth, load
from mapjax.data.source import Record, Records, Source
from mapjax.errors import UserError
from mapjax.runtime import checksum
from mapjax.runtime.names import encoded, require_text

FORMAT, VERSION = "mapjax array_record", 1
INDEX = "index.json"

_THREADS = 16  # for the latency of asking many files for their size, and of reading them
_BUFFER = 1 << 15  # bytes that ArrayRecord reads at least: more would be read in vain at random

Entry = Mapping[str, Any]  # of a file in the index: file, bytes, sha256; of a shard also records


class Shards:
    """The stored records of one split. Safe to share between threads, and to send to other processes."""

    def __init__(self, folder: str, shards: Sequence[Entry]):
        """Take the data set's folder, and its shards as in the index; none is opened before it is needed."""
        self._folder, self._shards = folder, list(shards)
        self._ends = np.cumsum([0, *(shard["records"] for shard in shards)])
        self._readers: dict[int, Any] = {}
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> bytes:
        """Return one stored record.

        Raises:
          UserError: its shard cannot be read there, or is damaged.
        """
        shard = self._shard_of(index)
        row = index - int(self._ends[shard])
        try:
            reader = self._readers.get(shard) or self._open(shard)
            return reader.read(row, row + 1)[0]  # a range is read in this thread; a list would wake others up
        except (RuntimeError, ValueError, OSError, IndexError) as error:
            raise self.damaged(index, error) from error

    def damaged(self, index: int, error: Exception) -> UserError:
        """Make the error of a record that cannot be read."""
        file = epath.Path(self._folder) / self._shards[self._shard_of(index)]["file"]
        reason = str(error).partition(";")[0]
        return UserError(f"{file} cannot be read at record {index} of its split ({reason}); {_mend(self._folder)}.")

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right")) - 1

    def _open(self, shard: int) -> Any:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]  # compiled

        with self._opening:
            if shard not in self._readers:
                path = str(epath.Path(self._folder) / self._shards[shard]["file"])
                self._readers[shard] = array_record_module.ArrayRecordReader(
                    path, options="readahead_buffer_size:0", file_reader_buffer_size=_BUFFER
                )
            return self._readers[shard]

    def __reduce__(self):
        return type(self), (self._folder, self._shards)


class Stored:
    """Records of some rows of a split: the labels from arrays, and with the image from a shard."""

    def __init__(self, shards: Shards, truth: Truth, rows: Int[np.ndarray, " n"]):
        """Take the stored records, the labels of all of them, and which are meant."""
        self._shards, self._truth, self._rows = shards, truth, rows

    def record(self, index: int) -> Record:
        """Read the record at `index`; its `image` is the encoded image.

        Raises:
          UserError: it cannot be read.
        """
        row = int(self._rows[index])
        data = self._shards[row]
        try:
            record = encoding.decode(data)
            self._truth.require_alike(record, row)
        except ValueError as error:
            raise self._shards.damaged(row, error) from error
        return record

    def truth(self, index: int) -> Record:
        """Return the labels of the record at `index`."""
        return self._truth.at(int(self._rows[index]))

    def label_map(self, index: int) -> np.ndarray:
        """Read the label map of the record at `index`; errors as for `record`."""
        return self.record(index)["label_map"]

    def objects(self) -> Mapping[str, np.ndarray]:
        """Return the objects of all records."""
        return self._truth.objects(self._rows)


def make(
    *,
    split: str,
    seed: int = 0,
    path: str,
    hold_out: float | int = 0.1,
    verify: bool = False,
    needs: str = "",
) -> Source:
    """Open one split of a prepared data set; no shard is opened, only its presence and its size are checked.

    Args:
      split: one of those prepared; "val" is held out of "train" where there is none.
      seed: of the held-out part.
      path: the folder, on a disk or `gs://BUCKET/DIR`.
      hold_out: share of "train" that becomes "val" where no "val" was prepared; 0 for none.
      verify: read all shards of the split first, and compare their checksums.
      needs: the kind of label that the task learns from, which must have been prepared; "": whatever there is.

    Raises:
      UserError: no index there, one of another version, no such split, labels of another kind, or a file that is
        missing, cut short or damaged.

    Example:
      from mapjax.data.prepared import reader
      source = reader.make(split="train", path="DIR")        # which mapjax prepare wrote
      len(source.records), source.classes
    """
    where = f"array_record:{path}"
    require_text(path, "array_record:")
    index = read_index(path)
    found, part = splits.locate(split, index["splits"], where, hold_out)
    entry = index["splits"][found]
    require_sizes(path, [entry["labels"], *entry["shards"]])
    if verify:
        require_checksums(path, entry["shards"])
    truth = read_truth(path, entry)
    kinds = _kinds(index, truth)
    if lost := [kind for kind in kinds if truth.lacks(kind)]:
        raise UserError(f"{path}/{entry['labels']['file']} is damaged: it has no {lost[0]}; {_mend(path)}.")
    if not labels.serve(kinds, needs):
        raise UserError(
            f"{where} was prepared with {', '.join(kinds) or 'images alone'}, and this task learns from {needs}; "
            f"prepare its source again, into another folder, with mapjax prepare --needs {needs}."
        )
    leading = labels.KINDS[kinds[0]].of if kinds else ""
    known, rows = truth.labels(), np.arange(len(truth))
    if part != "whole":
        names = list(truth.all_names)
        grouped = np.zeros(len(names), np.int32) if known is None else known
        rows = labelled.rows_of(part, names, grouped, seed, hold_out)
    stored = Stored(Shards(path, entry["shards"]), truth, rows)
    fingerprint = entry["fingerprint"] if part == "whole" else _hashed(entry["fingerprint"], rows.tobytes())
    return Source(
        name=where,
        split=split,
        classes=tuple(index["classes"]),
        category_ids=tuple(index["category_ids"]),
        records=Records(
            len(rows),
            stored.record,
            None if known is None else known[rows],
            names=truth.names(rows),
            truth=stored.truth,
            objects=stored.objects if leading == "object" else None,
            sizes=truth.sizes(rows),
            label_map=stored.label_map if leading == "pixel" else None,
        ),
        dropped=dict(entry["dropped"]),
        fingerprint=fingerprint,
        keypoints=tuple(index.get("keypoints", ())),
        noted=dict(entry.get("noted", {})),
        skeleton=tuple((one, other) for one, other in index.get("skeleton", ())),
        sigmas=tuple(index.get("sigmas", ())),
    )


def _kinds(index: Mapping[str, Any], truth: Truth) -> list[str]:
    """List the kinds of labels of the records, first that as which they are looked at; the index of 0.1 has but it."""
    return index.get("kinds") or list(dict.fromkeys(kind for kind in (index.get("kind"), *truth.kinds()) if kind))


def read_index(path: str) -> dict[str, Any]:
    """Read the index of a prepared data set.

    Raises:
      UserError: there is none, it is no such index, one of another version, or lacks a key.
    """
    file = epath.Path(path) / INDEX
    data = _read(file, f"{path} has no {INDEX}; is it the --out folder of a `mapjax prepare` that came to its end?")
    try:
        index = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not whole JSON ({error}); {_mend(path)}.") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"{file} is not the index of a data set by `mapjax prepare`; name the folder that has one.")
    if index.get("version") != VERSION:
        raise UserError(
            f"{file} is of version {index.get('version')} of the format and this mapjax reads version {VERSION}; "
            "prepare the data again with it, or install the mapjax that wrote it."
        )
    if wrong := index_file.fault(index):
        raise UserError(f"{file} is damaged: {wrong}; {_mend(path)}.")
    return index


def read_truth(path: str, entry: Entry) -> Truth:
    """Read the labels of a split; `entry` is the split's in the index.

    Raises:
      UserError: the file is missing or damaged.
    """
    file = epath.Path(path) / entry["labels"]["file"]
    data = _read(file, f"{file} is missing; {_mend(path)}.")
    if hashlib.sha256(data).hexdigest() != entry["labels"]["sha256"]:
        raise UserError(f"{file} is damaged: its checksum is not that of {INDEX}; {_mend(path)}.")
    try:
        return Truth(load(data))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; {_mend(path)}.") from error


def require_sizes(path: str, files: Sequence[Entry]) -> None:
    """Check that files are there, whole.

    Raises:
      UserError: naming the first that is missing or has another size than in the index.
    """
    for file, size in zip(files, sizes(path, files)):
        name = epath.Path(path) / file["file"]
        if size is None:
            raise UserError(f"{name} is missing; {_mend(path)}.")
        if size != file["bytes"]:
            state = "cut short" if size < file["bytes"] else "not the file that was prepared"
            raise UserError(f"{name} is {state}: {size:,} of {file['bytes']:,} bytes; {_mend(path)}.")


def sizes(path: str, files: Sequence[Entry]) -> list[int | None]:
    """Return the bytes of files; None for one that is missing."""

    def size(file: Entry) -> int | None:
        try:
            return int(epath.Path(path, file["file"]).stat().length)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(size, files))


def require_checksums(path: str, files: Sequence[Entry], seen: Callable[[int], None] = lambda count: None) -> None:
    """Read files whole and compare their checksums with the index; `seen` is told how many are done.

    Raises:
      UserError: naming the first that differs, and how many more do.
    """
    wrong = []
    with ThreadPoolExecutor(_THREADS) as pool:
        found: Iterable[str] = pool.map(lambda file: checksum.sha256(epath.Path(path) / file["file"]), files)
        for count, (file, digest) in enumerate(zip(files, found), 1):
            wrong += [file["file"]] if digest != file["sha256"] else []
            seen(count)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"{epath.Path(path) / wrong[0]}{more} is damaged: its checksum is wrong; {_mend(path)}.")


def _read(file: epath.Path, missing: str) -> bytes:
    try:
        return file.read_bytes() if "://" in os.fspath(file) else regular.read_bytes(file)
    except FileNotFoundError as error:
        raise UserError(missing) from error
    except ImportError as error:
        raise UserError(f"{file} is in the cloud, and what reads it is not installed: pip install gcsfs.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}).") from error


def _mend(path: str) -> str:
    return f"run the command again that prepared {path}, which writes only what is missing, or copy it anew"


def _hashed(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(encoded(part) if isinstance(part, str) else part)
    return digest.hexdigest()[:16]
