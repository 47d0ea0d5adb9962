"""The labels of many records as a few arrays: small enough to open for a million images, none of which is read.

Keys of one value a record (`id`, `size`, `label`, `labels`) are stacked; lists of objects (`boxes`, `classes`, `crowd`,
`areas`) stand end to end, and `objects` says how many each record has. File names stand end to end in UTF-8, and
`name_bytes` says how long each is. So two parts of a split are put together by concatenating every array.
"""

import io
from collections.abc import Sequence
from typing import overload

import numpy as np
from jaxtyping import Int, UInt8

from mapjax.data.source import Record
from mapjax.stages import KEYS

Arrays = dict[str, np.ndarray]

LISTS = ("boxes", "classes", "crowd", "areas")
_STACKED = ("size", "label", "labels")


def pack(records: Sequence[Record]) -> Arrays:
    """Pack the labels of records that all have the same keys; images and masks are left out."""
    if not records:
        return {}
    names = [record["file"].encode("utf-8", "surrogateescape") for record in records]
    arrays = {
        "id": np.array([record["id"] for record in records], np.int64),
        "name_bytes": np.array([len(name) for name in names], np.int32),
        "names": np.frombuffer(b"".join(names), np.uint8),
    }
    for key in _STACKED:
        if key in records[0]:
            arrays[key] = np.stack([np.asarray(record[key], KEYS[key].dtype) for record in records])
    if "boxes" in records[0]:
        arrays["objects"] = np.array([len(record["boxes"]) for record in records], np.int32)
        for key in LISTS:
            if key in records[0]:
                arrays[key] = np.concatenate([np.asarray(record[key], KEYS[key].dtype) for record in records])
    return arrays


def join(parts: Sequence[Arrays]) -> Arrays:
    """Put parts together, in order; empty ones have no keys."""
    filled = [part for part in parts if part]
    return {key: np.concatenate([part[key] for part in filled]) for key in filled[0]} if filled else {}


def save(arrays: Arrays) -> bytes:
    """Write arrays as an .npz; the same arrays always give the same bytes."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def load(data: bytes) -> Arrays:
    """Read what `save` wrote; nothing in it is executed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return dict(stored)


class Names(Sequence[str]):
    """File names, decoded when they are asked for."""

    def __init__(self, data: UInt8[np.ndarray, " b"], ends: Int[np.ndarray, " n1"], rows: Int[np.ndarray, " m"]):
        """Take all names in UTF-8, where each ends (and a 0 before), and which of them are meant."""
        self._data, self._ends, self._rows = data, ends, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Names(self._data, self._ends, self._rows[index])
        row = self._rows[index]
        return self._data[self._ends[row] : self._ends[row + 1]].tobytes().decode("utf-8", "surrogateescape")


class Truth:
    """Random access to the labels in packed arrays."""

    def __init__(self, arrays: Arrays):
        """Take what `pack` or `join` made."""
        self._arrays = arrays
        self._objects = _ends(arrays["objects"]) if "objects" in arrays else None
        self._name_ends = _ends(arrays["name_bytes"])
        self._stacked = [key for key in _STACKED if key in arrays]
        self._lists = [key for key in LISTS if key in arrays]
        self.all_names = self.names(np.arange(len(self)))

    def __len__(self) -> int:
        return len(self._arrays["id"])

    def at(self, row: int) -> Record:
        """Return the labels of one record, arrays that may be written to."""
        record: Record = {"id": int(self._arrays["id"][row]), "file": self.all_names[row]}
        record |= {key: np.array(self._arrays[key][row])[()] for key in self._stacked}
        if self._objects is not None:
            rows = slice(int(self._objects[row]), int(self._objects[row + 1]))
            record |= {key: self._arrays[key][rows].copy() for key in self._lists}
        return record

    def labels(self) -> np.ndarray | None:
        """Return the `label` of every record, int32 (n,), or `labels`, bool (n c); None where they have boxes."""
        return self._arrays.get("label", self._arrays.get("labels"))

    def sizes(self, rows: Int[np.ndarray, " m"]) -> np.ndarray | None:
        """Return the sizes of some records, int32 (m 2); None where they have none."""
        return self._arrays["size"][rows] if "size" in self._arrays else None

    def objects(self, rows: Int[np.ndarray, " m"]) -> Arrays:
        """Return the objects of some records, their rows ascending, end to end, as `Records.objects` does."""
        counts = self._arrays["objects"][rows]
        chosen = np.repeat(np.isin(np.arange(len(self)), rows), self._arrays["objects"])
        return {"counts": counts} | {key: self._arrays[key][chosen] for key in self._lists}

    def names(self, rows: Int[np.ndarray, " m"]) -> Names:
        """Return the file names of some records."""
        return Names(self._arrays["names"], self._name_ends, rows)


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
