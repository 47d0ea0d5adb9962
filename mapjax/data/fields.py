"""Values of a file as they are needed, or None for what cannot be read: nothing beyond range or not finite gets in."""

import math
from typing import Any

_DIGITS = 20  # of the longest whole number of 64 bits, with its sign
_INT64 = 2**63
_YES, _NO = ("true", "yes", "y", "t"), ("", "false", "no", "n", "f")


def whole(value: Any, least: int = -_INT64, most: int = _INT64 - 1) -> int | None:
    """Read a whole number from `least` to `most`; text that says one, and 7.0, are numbers too.

    Example:
      >>> from mapjax.data import fields
      >>> fields.whole("7"), fields.whole(7.0), fields.whole(7.5), fields.whole(True), fields.whole(10**400)
      (7, 7, None, None, None)
    """
    if type(value) is int:  # as nearly all are
        return value if least <= value <= most else None
    if isinstance(value, bool) or (isinstance(value, str) and len(value.strip()) > _DIGITS):
        return None
    if not isinstance(value, str) and not (isinstance(value, float) and value.is_integer()):
        return None
    try:
        found = int(value)
    except ValueError:
        return None
    return found if least <= found <= most else None


def number(value: Any) -> float | None:
    """Read a finite number; text that says one is one too.

    Example:
      >>> from mapjax.data import fields
      >>> fields.number(" 2.5"), fields.number("nan"), fields.number(10**400), fields.number(False)
      (2.5, None, None, None)
    """
    if type(value) is float:  # as nearly all are
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Read a list of so many finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != count:
        return None
    found = tuple(one for one in map(number, values) if one is not None)
    return found if len(found) == count else None


def text(value: Any) -> str | None:
    """Read text; half of a character, as JSON may hold, becomes a question mark, and bytes that are no text stay.

    Example:
      >>> from mapjax.data import fields
      >>> fields.text("cat"), fields.text("c\\ud800t"), fields.text(7)
      ('cat', 'c?t', None)
    """
    if not isinstance(value, str):
        return None
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def flag(value: Any) -> bool | None:
    """Read yes or no: a truth value, a number, or text that says one ("0", "true"); nothing is no.

    Example:
      >>> from mapjax.data import fields
      >>> fields.flag("0"), fields.flag(1), fields.flag("True"), fields.flag(None), fields.flag("Unspecified")
      (False, True, True, False, None)
    """
    if value is None or isinstance(value, bool | int):
        return bool(value)
    if isinstance(value, str) and (word := value.strip().casefold()) in (*_YES, *_NO):
        return word in _YES
    found = number(value)
    return None if found is None else found != 0
