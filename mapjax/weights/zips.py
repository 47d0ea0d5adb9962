"""Zips of tensors: opened without trusting what their table of contents says of sizes."""

import contextlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator

from mapjax.weights import budget
from mapjax.weights.budget import NotPlain
from mapjax.weights.stored import shown

START, EMPTY = b"PK\x03\x04", b"PK\x05\x06"  # what a zip begins with, with and without members
_END = 2**16 + 98  # bytes at its end that its last records may be in, with a comment
_ELSEWHERE = 2**32 - 1  # in place of a size that the longer record has


def contents(file: io.BufferedIOBase) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """Open a zip, and list its members by name.

    Raises:
      NotPlain: it has no whole table of contents, or one that is too long.
    """
    try:
        budget.require(_table_size(file), budget.HEADER, "bytes of a zip's table of contents")
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, OverflowError, ValueError) as error:
        raise NotPlain("is cut short or damaged: its zip has no table of contents.") from error
    return archive, {info.filename: info for info in archive.infolist()}


def require_apart(archive: zipfile.ZipFile, file: io.BufferedIOBase) -> None:
    """Refuse members that lie over one another: together they are longer than the file.

    Raises:
      NotPlain: they are.
    """
    if sum(info.compress_size for info in archive.infolist()) > file.seek(0, os.SEEK_END):
        raise NotPlain("is damaged: the members of its zip are longer than the file, so that they overlap.")


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Tell what goes wrong while a member is read.

    Raises:
      NotPlain: in place of what zipfile and the decompressors raise.
    """
    try:
        yield
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, zlib.error) as error:
        raise NotPlain(f"is damaged, or was saved without checksums: that of {shown(name)} in it is wrong.") from error


def _table_size(file: io.BufferedIOBase) -> int:
    """Give the most bytes that a record at the end says the table of contents has: zipfile takes one of them."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
    tail = file.read()
    # Sizes are behind the 12th byte; in the record of a zip of more than 4 GB or 65,535 members behind the 40th.
    places = [(found.start() + 12, 4) for found in re.finditer(EMPTY, tail)]
    places += [(found.start() + 40, 8) for found in re.finditer(b"PK\x06\x06", tail)]
    sizes = [int.from_bytes(tail[place : place + size], "little") for place, size in places]
    return max((size for size in sizes if size != _ELSEWHERE), default=0)
