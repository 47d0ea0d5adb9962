"""Names that may be no text, such as those of files from old archives: kept as they are, and shown escaped.

Bytes of a name that are no UTF-8 are held as Python holds them (PEP 383): byte 0xC4 as "\\udcc4". Opening the file,
JSON and comparing work with that. What goes to people, to pages or to other libraries as text goes through here.
"""

import codecs
import contextlib
import re
import sys

ESCAPED = "mapjax.escaped"  # for the `errors` of text that people read: what cannot be encoded is escaped
JSON = "backslashreplace"  # for the `errors` of JSON that is written as it reads: "\udcc4" is JSON's own escape
_PLAIN = {
    **{"…": "...", "→": "->", "←": "<-", "↔": "<->", "–": "-", "—": "-", "×": "x", "·": "-"},
    **{"≥": ">=", "≤": "<=", "√": "sqrt ", "µ": "u", "²": "^2", "’": "'", "“": '"', "”": '"'},
}
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def shown(name: str) -> str:
    """Return a name as people may see it: bytes that are no text, and what steers a terminal, are escaped.

    Example:
      >>> from mapjax.runtime import names
      >>> names.shown("caf\\udce9.jpg"), names.shown("a\\x1b[31m"), names.shown("café")
      ('caf\\\\xe9.jpg', 'a\\\\x1b[31m', 'café')
    """
    return _CONTROLS.sub(_as_escape, name.encode("utf-8", ESCAPED).decode("utf-8"))


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


def settle_streams() -> None:
    """Let nothing that is printed fail for what the terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # none, closed, or no text stream (a notebook's)
            stream.reconfigure(errors=ESCAPED)  # pyright: ignore[reportAttributeAccessIssue]


def _as_escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


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
