"""The labels of many records as a few arrays: small enough to open for a million images, none of which is read.

What a record has one of (`id`, `size`, `label`) is stacked; what its objects have (`boxes`, `classes`, …) stands end to
end, and `objects` says how many each record has; a mask is run lengths, and `mask_bytes` says how long each is. File
names stand end to end in UTF-8, and `name_bytes` says how long each is. Which array is which, the rows of labels.py
say. So two parts of a split are put together by concatenating every array.
"""

import io
from collections.abc import Sequence
from typing import overload

import numpy as np
from jaxtyping import Int, UInt8

from mapjax.data import labels
from mapjax.data.labels import OBJECTS, RECORD
from mapjax.data.source import Record
from mapjax.runtime.names import encoded
from mapjax.stages import KEYS

Arrays = dict[str, np.ndarray]

# Array → what counts its rows.
LAYOUT = {"size": RECORD, **{name: counts for kind in labels.KINDS.values() for name, counts in kind.layout.items()}}


def pack(records: Sequence[Record]) -> Arrays:
    """Pack the labels of records that all have the same keys; images and label maps are left out."""
    if not records:
        return {}
    names = [encoded(record["file"]) for record in records]
    arrays = {
        "id": np.array([record["id"] for record in records], np.int64),
        "name_bytes": np.array([len(name) for name in names], np.int32),
        "names": np.frombuffer(b"".join(names), np.uint8),
    }
    stored = [labels.store(record) for record in records]
    if labels.has(records[0], "boxes"):
        arrays[OBJECTS] = np.array([len(record["boxes"]) for record in records], np.int32)
    for name, counts in LAYOUT.items():
        if name in stored[0]:
            dtype = KEYS[name].dtype if name in KEYS else None
            parts = [np.asarray(record[name], dtype) for record in stored]
            arrays[name] = np.stack(parts) if counts == RECORD else np.concatenate(parts)
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
        self._layout = {name: counts for name, counts in LAYOUT.items() if name in arrays}
        counting = {*self._layout.values(), "name_bytes"} - {RECORD}
        self._ends = {name: _ends(arrays[name]) for name in counting}
        self.all_names = self.names(np.arange(len(self)))

    def __len__(self) -> int:
        return len(self._arrays["id"])

    def at(self, row: int) -> Record:
        """Return the labels of one record, arrays that may be written to."""
        record: Record = {"id": int(self._arrays["id"][row]), "file": self.all_names[row]}
        for name, counts in self._layout.items():
            if counts == RECORD:
                record[name] = np.array(self._arrays[name][row])[()]
            else:
                record[name] = self._arrays[name][self._rows(counts, row)].copy()
        return labels.restore(record)

    def _rows(self, counts: str, row: int) -> slice:
        """Find the rows of one record in an array whose rows `counts` counts."""
        ends = self._ends[counts]
        if counts == OBJECTS:
            return slice(int(ends[row]), int(ends[row + 1]))
        objects = self._rows(self._layout[counts], row)
        return slice(int(ends[objects.start]), int(ends[objects.stop]))

    def kinds(self) -> list[str]:
        """Return the kinds of labels of the records, but for label maps, which are not here."""
        return [
            name for name, kind in labels.KINDS.items() if kind.layout and kind.layout.keys() <= self._arrays.keys()
        ]

    def labels(self) -> np.ndarray | None:
        """Return the `label` of every record, int32 (n,), or `labels`, bool (n c); None where they have neither."""
        kind = labels.of_image(self._arrays)
        return None if kind is None else self._arrays[kind]

    def sizes(self, rows: Int[np.ndarray, " m"]) -> np.ndarray | None:
        """Return the sizes of some records, int32 (m 2); None where they have none."""
        return self._arrays["size"][rows] if "size" in self._arrays else None

    def objects(self, rows: Int[np.ndarray, " m"]) -> Arrays:
        """Return the objects of some records, their rows ascending, end to end, as `Records.objects` does."""
        counts = self._arrays[OBJECTS][rows]
        chosen = np.repeat(np.isin(np.arange(len(self)), rows), self._arrays[OBJECTS])
        listed = [name for name, counts in self._layout.items() if counts == OBJECTS]
        return {"counts": counts} | {name: self._arrays[name][chosen] for name in listed}

    def names(self, rows: Int[np.ndarray, " m"]) -> Names:
        """Return the file names of some records."""
        return Names(self._arrays["names"], self._ends["name_bytes"], rows)


def _ends(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
