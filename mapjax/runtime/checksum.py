"""The checksum of a file, and of all files of a folder in the format of sha256sum, for `sha256sum -c SHA256SUMS`.

A flipped bit in the arrays of a checkpoint is read back without complaint, so what was written is noted beside it.
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence

from etils import epath

NAME = "SHA256SUMS"


def write(folder: pathlib.Path, leave_out: Sequence[str] = ()) -> None:
    """Note the checksum of every file under `folder`; the list is written whole or not at all.

    Args:
      leave_out: names of files that may still change.

    Raises:
      OSError: a file cannot be read, or the list cannot be written.
    """
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder, leave_out)]
    partial = folder / (NAME + ".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    os.replace(partial, folder / NAME)


def damage(folder: pathlib.Path) -> str | None:
    """Say what of `folder` is not as it was written, "FILE is missing" or "FILE has changed since it was written".

    None where everything is as it was; also where no checksums were written, as older versions did not.
    """
    listed = folder / NAME
    if not listed.exists():
        return None
    for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not name or len(digest) != 64:
            return f"{NAME} has changed since it was written"
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != digest:
            return f"{name} has changed since it was written"
    return None


def _files(folder: pathlib.Path, leave_out: Sequence[str]) -> list[pathlib.Path]:
    names = (NAME, NAME + ".partial", *leave_out)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in names)


def sha256(file: pathlib.Path | epath.Path) -> str:
    """Give the SHA-256 of a file, on a disk or in the cloud, in hexadecimal."""
    with file.open("rb") as stream:
        # epath says less of its streams than they can do.
        return hashlib.file_digest(stream, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
