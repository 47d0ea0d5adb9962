"""Unpacking what zlib packed, a piece at a time, so that no more is unpacked than it may be (budgets.py)."""

import io
import zlib

from mapjax.data import budgets

_PIECE = 1 << 16  # bytes; at most a thousand times as many come out of it


def inflate(packed: bytes, name: str, form: int = zlib.MAX_WBITS) -> bytes:
    """Unpack all of a stream, or for a gzip file of all that follow one another.

    Args:
      packed: the stream.
      name: of it, for the errors.
      form: of the stream, as zlib's `wbits`: 31 for gzip, -15 for one without a header.

    Raises:
      TooLarge: more comes out than may be.
      zlib.error: it is damaged.
      EOFError: it is cut short.

    Example:
      >>> import zlib
      >>> from mapjax.data import unpacking
      >>> unpacking.inflate(zlib.compress(b"words"), "a stream")
      b'words'
    """
    found, unpacker = io.BytesIO(), zlib.decompressobj(form)
    for start in range(0, len(packed), _PIECE):
        piece = packed[start : start + _PIECE]
        while piece:
            if unpacker.eof:
                if form != zlib.MAX_WBITS | 16 or not piece.lstrip(b"\0"):
                    return found.getvalue()
                unpacker = zlib.decompressobj(form)
            found.write(unpacker.decompress(piece))
            budgets.require_bytes(found.tell(), name)
            piece = unpacker.unused_data
    if not unpacker.eof:
        raise EOFError("it ends too early")
    return found.getvalue()
