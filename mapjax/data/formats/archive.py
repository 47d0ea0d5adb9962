"""Archives of images read in place: a `.zip`, or a `.tar` that is not compressed, by random access.

Opening one lists it; a member is then one read at its offset, by any thread and in any process.
"""

import bisect
import os
import pathlib
import posixpath
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mapjax.data import budgets, unpacking
from mapjax.errors import UserError
from mapjax.runtime.names import shown

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_STORED, _DEFLATED, _PLAIN = range(3)  # a member of a zip as it is, or deflated; a member of a tar
_LOCAL = struct.Struct("<4s22xHH")  # of a member's own header in a zip: its mark, and the lengths of name and extra
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, OSError, NotImplementedError,
    ValueError, OverflowError, LookupError, RecursionError,  # of numbers that cannot be
)  # fmt: skip
_UTF8 = 0x800  # flag of a member of a zip whose name is in UTF-8; others are taken for it where they can be
_LONGEST_LINK = 4096  # bytes of a path
_MOST_LINKED = 100  # times that links may lead to the files of an archive
_BACKSLASH = re.compile(r"[\udc81-\udcfe].|\\", re.DOTALL)
_PIECE = 1 << 10  # bytes read of a member for its first ones
_SLACK = 128  # bytes read for an extra field, whose length the directory does not tell


class Members(Sequence[bytes]):
    """The contents of some files of an archive. Safe to share between threads, and to send to other processes."""

    def __init__(self, path: str, starts: np.ndarray, sizes: np.ndarray, names: np.ndarray, kinds: np.ndarray):
        """Take of each file: where it (in a zip: its header) starts, size as stored, length of its name, and kind."""
        self.path, self.starts, self.sizes, self.names, self.kinds = path, starts, sizes, names, kinds
        self._descriptor: int | None = None
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return one file. What cannot be unpacked comes back as it is stored, so that decoding tells the damage.

        Raises:
          TooLarge: it is, or unpacks to, too many bytes (budgets.py).
          UserError: the archive cannot be read.
        """
        start, size, kind = int(self.starts[index]), int(self.sizes[index]), self.kinds[index]
        budgets.require_bytes(size, f"a file in {shown(self.path)}")
        if kind == _PLAIN:
            return self._read(size, start)
        header = _LOCAL.size + int(self.names[index])
        found = self._read(header + _SLACK + size, start)
        if found[:4] != b"PK\x03\x04":
            return found
        begin = _LOCAL.size + sum(_LOCAL.unpack_from(found)[1:])
        if begin + size > len(found):
            found, begin = self._read(size, start + begin), 0
        stored = found[begin : begin + size]
        return stored if kind == _STORED else _inflated(stored, self.path)

    def begin(self, index: int, length: int) -> bytes:
        """Return the first bytes of one file, at most `length`."""
        start, size, kind = int(self.starts[index]), int(self.sizes[index]), self.kinds[index]
        if kind == _PLAIN:
            return self._read(min(size, length), start)
        found = self._read(_LOCAL.size, start)
        if found[:4] != b"PK\x03\x04":
            return b""
        stored = self._read(min(size, _PIECE), start + _LOCAL.size + sum(_LOCAL.unpack(found)[1:]))
        if kind == _STORED:
            return stored[:length]
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, length)
        except zlib.error:
            return b""

    def take(self, rows: Int[np.ndarray, " n"]) -> "Members":
        """Return the files at some positions."""
        return Members(self.path, self.starts[rows], self.sizes[rows], self.names[rows], self.kinds[rows])

    def _read(self, size: int, start: int) -> bytes:
        descriptor = self._descriptor
        if descriptor is None:
            with self._opening:
                if self._descriptor is None:
                    self._descriptor = _open(self.path)
                descriptor = self._descriptor
        try:
            return os.pread(descriptor, size, start)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}).") from error

    def __reduce__(self):
        return type(self), (self.path, self.starts, self.sizes, self.names, self.kinds)

    def __del__(self):
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)


class Listing(NamedTuple):
    """What an archive holds: the names of its files, in order, what each is, and the names of its folders."""

    files: list[str]
    members: Members
    folders: list[str]


def read_listing(path: str | os.PathLike) -> Listing:
    """List an archive; no file in it is read.

    Raises:
      UserError: it is not there, not an archive of these kinds, compressed as a whole, encrypted or cut short.
    """
    name = os.fspath(path)
    descriptor = _open(name)
    try:
        begin = os.read(descriptor, 6)
        length = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    packing = next((packing for mark, packing in _COMPRESSED.items() if begin.startswith(mark)), None)
    if packing is not None:
        raise UserError(
            f"{name} is compressed as a whole ({packing}) and cannot be read in place; unpack it, or repack it as a "
            ".zip or a plain .tar."
        )
    try:
        rows, folders = _list_zip(name) if begin.startswith(b"PK") else _list_tar(name)
    except _BROKEN as error:
        raise UserError(f"{name} is not a whole .zip or .tar archive ({error}); fetch it again.") from error
    rows.sort()
    if any(start < 0 or start + size > length for _, start, size, _, _ in rows):
        raise UserError(f"{name} is cut short: files that it lists are not in it; fetch it again.")
    columns = [np.array([row[i] for row in rows], kind) for i, kind in ((1, "i8"), (2, "i8"), (3, "i4"), (4, "u1"))]
    return Listing([row[0] for row in rows], Members(name, *columns), sorted(folders))


_Row = tuple[str, int, int, int, int]  # name, start, size as stored, length of the name in bytes, kind


def _list_zip(path: str) -> tuple[list[_Row], list[str]]:
    rows, folders, links = [], [], list[tuple[str, str]]()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            raw = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")  # bytes as they are there
            name = _cleaned(raw.partition(b"\0")[0].decode("utf-8", "surrogateescape"))
            if info.is_dir() or raw.endswith(b"\\"):
                folders.append(name)
                continue
            if info.flag_bits & 1:
                raise UserError(f"{path}: {shown(name)} is encrypted; repack the archive without a password.")
            kind = {zipfile.ZIP_STORED: _STORED, zipfile.ZIP_DEFLATED: _DEFLATED}.get(info.compress_type)
            if kind is None:
                method = "a method other than deflate"
                raise UserError(f"{path}: {shown(name)} is packed by {method}; repack it as a plain .zip.")
            if stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= _LONGEST_LINK:
                links.append((name, archive.read(info).decode("utf-8", "surrogateescape")))
            else:
                rows.append((name, info.header_offset, info.compress_size, len(raw), kind))
    return _with_links(rows, folders, links)


def _list_tar(path: str) -> tuple[list[_Row], list[str]]:
    rows, folders, links = [], [], list[tuple[str, str]]()
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        seen = 0
        while (info := archive.next()) is not None:
            if info.size < 0 or archive.offset <= info.offset or info.offset < seen:  # it would be read again and again
                raise tarfile.ReadError(f"{info.name!r} has a size below 0")
            seen = archive.offset
            archive.members = []  # pyright: ignore  # or it keeps an object for each file
            if info.isdir():
                folders.append(_cleaned(info.name))
            elif info.islnk():
                links.append((_cleaned(info.name), f"/{_cleaned(info.linkname)}"))
            elif info.issym():
                links.append((_cleaned(info.name), info.linkname))
            elif info.isreg() and not info.issparse():
                rows.append((_cleaned(info.name), info.offset_data, info.size, 0, _PLAIN))
    return _with_links(rows, folders, links)


def _with_links(rows: list[_Row], folders: list[str], links: Sequence[tuple[str, str]]) -> tuple[list[_Row], list[str]]:
    """Add what links lead to, under their names; a link to another link, out of the archive or around itself is none.

    Args:
      links: names, and where they lead: from the folder that they are in, or with a / from the top.
    """
    if not links:
        return rows, folders
    known, places = {row[0]: row for row in rows}, sorted(set(folders))
    names = sorted(known)
    more, inner = list[_Row](), list[str]()
    for name, to in links:
        target = posixpath.normpath(to[1:] if to.startswith("/") else posixpath.join(posixpath.dirname(name), to))
        if target in known:
            more.append((name, *known[target][1:]))
        elif not f"{name}/".startswith(f"{target}/"):
            more += [(name + one[len(target) :], *known[one][1:]) for one in _below(names, target)]
            inner += [name + one[len(target) :] for one in _below(places, target)]
        if len(more) + len(inner) > _MOST_LINKED * (len(rows) + len(folders)):
            raise UserError(f"links in the archive lead to its files more than {_MOST_LINKED} times each; remove some.")
    return [*rows, *more], [*folders, *inner]


def _below(names: Sequence[str], folder: str) -> Sequence[str]:
    """Return the names below a folder; they are sorted."""
    return names[bisect.bisect_left(names, f"{folder}/") : bisect.bisect_left(names, f"{folder}0")]  # 0 follows /


def _cleaned(name: str) -> str:
    """Return a name with folders parted by /, as written on any system.

    A byte that is no text may be the first half of a letter (GBK, Shift JIS), whose second half can be a backslash.
    """
    name = _BACKSLASH.sub(lambda found: found[0] if len(found[0]) > 1 else "/", name)
    return name.removeprefix("./").strip("/")


def _open(path: str) -> int:
    try:
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error


def _inflated(stored: bytes, path: str) -> bytes:
    try:
        return unpacking.inflate(stored, f"a file in {shown(path)}", -zlib.MAX_WBITS)
    except (zlib.error, EOFError):
        return stored
