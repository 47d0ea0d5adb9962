"""Who works in a folder: a locked file in it that says so, and that the kernel unlocks when its process ends."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system that has none: it goes without


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[tuple[IO[str], str]]:
    """Lock a file for the time of the block, and write into it who does.

    Gives the file, which a process that inherits it keeps locked, and "", or who has it locked already.

    Raises:
      OSError: it cannot be written.

    Example:
      >>> import pathlib, tempfile
      >>> from mapjax.runtime import lock
      >>> path = pathlib.Path(tempfile.mkdtemp(), "lock")
      >>> with lock.held(path) as (_, first), lock.held(path) as (_, second):
      ...     print(repr(first), second.startswith("process "))
      '' True
    """
    with path.open("a+", encoding="utf-8") as file:
        yield file, take(file)


def take(file: IO[str]) -> str:
    """Lock an open file, and write into it who does; give who has it locked already, or ""."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.readline().strip() or "another program"
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    file.truncate(0)
    note(file, f"process {os.getpid()} of {socket.gethostname()}")
    return ""


def note(file: IO[str], line: str) -> None:
    """Write a line into the file of a lock, where the disk has room for it; the lock holds without."""
    with contextlib.suppress(OSError):
        os.write(file.fileno(), f"{line}\n".encode())


def is_gone(holder: str) -> bool:
    """Say whether a holder was a process of this machine that has ended; what it started may still hold its lock.

    Example:
      >>> import os, socket
      >>> from mapjax.runtime import lock
      >>> lock.is_gone(f"process {os.getpid()} of {socket.gethostname()}")
      False
    """
    word, _, rest = holder.partition(" ")
    number, _, host = rest.partition(" of ")
    if word != "process" or not number.isdecimal() or host != socket.gethostname():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
