"""NumPy's `.npz` of tensors: a zip of arrays, each behind a header that is Python's text."""

import io
import math
import pathlib
import tokenize
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mapjax.weights import budget, stored, zips
from mapjax.weights.budget import NotPlain
from mapjax.weights.stored import Stored, shown

_EXPANSION = 20  # a compressed file may hold so many times its own size; weights are hardly compressible
_HEADER = 2**14  # bytes that a header may have; NumPy reads no longer ones than 10,000


class Header(NamedTuple):
    """What is told of an array before its numbers, and how many bytes they stand behind."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int


def index(path: pathlib.Path) -> Stored:
    """Read the names and shapes of the tensors of a file; a tensor is unpacked when it is asked for.

    Raises:
      NotPlain: it is cut short, holds what is no tensor, or would unpack to more than is allowed.
    """
    with path.open("rb") as file:
        archive, entries = zips.contents(file)
        size = file.seek(0, io.SEEK_END)
        unpacked = sum(entry.file_size for entry in entries.values())
        budget.require(unpacked, max(budget.UNPACKED, _EXPANSION * size), "unpacked bytes")
        budget.require(len(entries), budget.TENSORS, "tensors")
        headers = {_name(entry): _header(archive, entry) for entry in entries.values()}

    def read(names: Iterable[tuple[str, ...]]) -> Iterator[np.ndarray]:
        with path.open("rb") as file:
            archive, entries = zips.contents(file)
            members = {_name(entry): entry for entry in entries.values()}
            for (name,) in names:
                if name not in members:
                    raise NotPlain("has changed while it was read.")
                yield _array(archive, members[name], headers[name])

    return stored.named((((name,), header.shape) for name, header in headers.items()), read)


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, uncompressed."""
    # Not np.savez, whose own arguments are names that a tensor cannot have.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Header:
    with zips.reading(entry.filename), archive.open(entry) as file:
        start = io.BytesIO(file.read(_HEADER))
    try:
        version = np.lib.format.read_magic(start)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(start)
    # NumPy reads a header as Python's text, which fails in its ways.
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise NotPlain(f"is no .npz file of tensors: {shown(entry.filename)} in it is not an array.") from error
    if dtype.kind not in "fciub":
        raise NotPlain(
            f"holds {shown(_name(entry))} of dtype {str(dtype)[:40]}, which is no number (.npz keeps no bfloat16); "
            "leave it out."
        )
    length = entry.file_size - start.tell()
    if not all(0 <= side < 2**48 for side in shape) or length != dtype.itemsize * math.prod(shape):
        raise NotPlain(
            f"is damaged: tensor {shown(_name(entry))} has {length} bytes, which is not its size, "
            f"{shown(str(shape))[1:-1]} of {dtype}."
        )
    return Header(shape, fortran, dtype, start.tell())


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, header: Header) -> np.ndarray:
    with zips.reading(entry.filename), archive.open(entry) as file:
        file.read(header.length)
        data = file.read()
    if len(data) != header.dtype.itemsize * math.prod(header.shape):
        raise NotPlain(f"is cut short or damaged: tensor {shown(_name(entry))} is not whole.")
    array = np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)
