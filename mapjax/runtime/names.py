"""Names that may be no text, such as those of files from old archives: kept as they are, and shown escaped.

Bytes of a name that are no UTF-8 are held as Python holds them (PEP 383): byte 0xC4 as "\\udcc4". Opening the file,
JSON and comparing work with that. What goes to people, to pages or to other libraries as text goes through here.
"""

import codecs
import contextlib
import os
import pathlib
import re
import sys

from mapjax.config import regular
from mapjax.errors import UserError, printable

ESCAPED = "mapjax.escaped"  # for the `errors` of text that people read: what cannot be encoded is escaped
JSON = "backslashreplace"  # for the `errors` of JSON that is written as it reads: "\udcc4" is JSON's own escape
_PLAIN = {
    **{"…": "...", "→": "->", "←": "<-", "↔": "<->", "–": "-", "—": "-", "×": "x", "·": "-"},
    **{"≥": ">=", "≤": "<=", "√": "sqrt ", "µ": "u", "²": "^2", "’": "'", "“": '"', "”": '"'},
}
_BYTES = re.compile("[\udc80-\udcff]")


def shown(name: str) -> str:
    """Return a name as people may see it: bytes that are no text, and what steers a terminal, are escaped.

    Example:
      >>> from mapjax.runtime import names
      >>> names.shown("caf\\udce9.jpg"), names.shown("a\\x1b[31m"), names.shown("café")
      ('caf\\\\xe9.jpg', 'a\\\\x1b[31m', 'café')
    """
    return printable(name.encode("utf-8", ESCAPED).decode("utf-8"))


def encoded(name: str) -> bytes:
    """Return the bytes of a name, those on the disk; also of what no file can be called, lone surrogates.

    Example:
      >>> from mapjax.runtime import names
      >>> names.encoded("caf\\udce9"), names.encoded("é")
      (b'caf\\xe9', b'\\xc3\\xa9')
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def is_text(name: str) -> bool:
    """Tell whether a name is text, without bytes that are no UTF-8."""
    return _BYTES.search(name) is None


def read_list(file: pathlib.Path) -> str:
    """Read a list of file names, whose bytes may be no UTF-8, with every line's end as \\n.

    Raises:
      OSError: it cannot be read.
      UnicodeDecodeError: it is no text, or UTF-16, which is full of zeros.
    """
    data = regular.read_bytes(file)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise UnicodeDecodeError("utf-8", data, 0, 1, "zeros or the mark of UTF-16")
    text = data.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def require_text(path: str | os.PathLike, what: str) -> None:
    """Stop at a folder whose name the libraries that write there cannot take; `what` names it for the message.

    Raises:
      UserError: it, or a folder that it is in, has bytes that are no UTF-8.
    """
    whole = os.path.abspath(path)
    try:
        whole.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} {shown(whole)}: its name is no UTF-8; name another folder, or rename it.") from error


def settle_streams() -> None:
    """Let nothing that is printed fail for what the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # none, closed, or no text stream (a notebook's)
            stream.reconfigure(errors=ESCAPED)  # pyright: ignore[reportAttributeAccessIssue]


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks: a byte that is no text as \\xNN, our own signs in ASCII, the rest as \\uNNNN."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return _PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(ESCAPED, _escape)
