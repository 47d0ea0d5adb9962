"""Standard output and error of a program that goes on when no one reads them any more, or their disk is full."""

import contextlib
import errno
import io
import logging
import os
import sys
from typing import Any

from mapjax.errors import printable

_LOST = (errno.EPIPE, errno.EIO)  # the reader of the pipe, or the terminal, is gone


class Lasting(io.FileIO):
    """A descriptor to write to: what no one can take is dropped, and `head` does not end the training it looks at."""

    def write(self, data: Any) -> int:
        """Write, or drop what cannot be written."""
        try:
            return super().write(data) or 0
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _LOST:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
            return memoryview(data).nbytes


class Harmless(logging.LogRecord):
    """A line of the log, without what would steer the terminal in names from files."""

    def getMessage(self) -> str:
        """Give the line."""
        return printable(super().getMessage(), keep="\n")


def outlast() -> None:
    """Let standard output and error outlast their readers, for this process and what writes through `sys`."""
    _occupy()
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # none at all, or one in memory
            old.flush()
            raw = Lasting(old.fileno(), "w", closefd=False)
            new = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=old.encoding, errors=old.errors, line_buffering=old.line_buffering
            )
            setattr(sys, name, new)


def _occupy() -> None:
    """Open what was closed before the start: a file of a run would get its number, and what libraries print there."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        null = os.dup(null)  # the lowest number that is free
    os.close(null)
