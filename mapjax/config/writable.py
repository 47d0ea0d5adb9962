"""Values that a config can hold: what can be written to config.json, and what a computer counts with."""

import math
from collections.abc import Mapping
from typing import Any

DEEPEST = 32  # nodes in nodes
_LARGEST = 2**63 - 1  # of int64


def fault(value: Any, depth: int = 0) -> str:
    """Say what a value must be that no config can hold, or one within it; "" for one that can.

    Example:
      >>> from mapjax.config import writable
      >>> writable.fault({"sizes": [1, 10**400]})
      'of whole numbers below 2**63'
    """
    if depth > DEEPEST:
        return f"nested in at most {DEEPEST} steps"
    if isinstance(value, Mapping):
        if any(isinstance(key, str) and "." in key for key in value):
            return "nodes whose keys are names without dots"
        inner = (value.keys(), value.values())
        return next(filter(None, (fault(one, depth + 1) for part in inner for one in part)), "")
    if isinstance(value, list | tuple):
        return next(filter(None, (fault(one, depth + 1) for one in value)), "")
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "of whole numbers below 2**63"
    if isinstance(value, float) and not math.isfinite(value):
        return "of finite numbers"
    if isinstance(value, str) and ("\0" in value or (not value.isascii() and _is_unwritable(value))):
        return "of text without zero bytes and lone surrogates"
    return ""


def _is_unwritable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")  # as names of files may need it
    except UnicodeEncodeError:
        return True
    return False
