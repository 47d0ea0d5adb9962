"""Regular files only: reading a pipe, a socket or a device may wait, or go on, for ever."""

import errno
import io
import os
import stat


def open_file(path: str | os.PathLike) -> io.BufferedReader:
    """Open a regular file to read its bytes.

    Raises:
      OSError: it is not there, something else, or cannot be read; `strerror` says why.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a null in its name
        raise FileNotFoundError(errno.ENOENT, str(error), path) from error
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a folder, pipe, socket or device", path)
    return open(path, "rb")


def read_bytes(path: str | os.PathLike) -> bytes:
    """Read a regular file; errors as for `open_file`."""
    with open_file(path) as file:
        return file.read()


def read_text(path: str | os.PathLike) -> str:
    """Read a regular file as UTF-8, with or without its mark; errors as for `open_file`, and UnicodeDecodeError."""
    return read_bytes(path).decode("utf-8-sig")
