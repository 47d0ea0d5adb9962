"""The JSON of COCO data sets, and the ids in it."""

import pathlib
import reprlib
from collections.abc import Mapping
from typing import Any

from mapjax.config import regular
from mapjax.data import documents, fields
from mapjax.errors import UserError


def load(file: pathlib.Path) -> dict[str, Any]:
    """Read a JSON file of COCO's form.

    Raises:
      UserError: it is not there, cut short, or lacks a list.
    """
    try:
        content = documents.parse_json(regular.read_bytes(file))
    except FileNotFoundError as error:
        raise UserError(f"{file}: there is no such annotation file.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}).") from error
    except RecursionError as error:
        raise UserError(f"{file} has lists within lists, too deep to be read; a COCO file has three levels.") from error
    except ValueError as error:
        raise UserError(f"{file} is not whole JSON ({error}); it may be cut short: fetch it again.") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{file} lacks the list {key!r}; a COCO file has images, annotations and categories.")
    return content


def number_of(entry: Any, key: str, what: str, file: pathlib.Path) -> int:
    """Return a whole-number id of an entry.

    Raises:
      UserError: there is none, or it is no whole number of 64 bits.
    """
    if not isinstance(entry, Mapping) or key not in entry:
        raise UserError(f"{file}: {what} has no {key!r}; add it.")
    number = fields.whole(entry[key])
    if number is None:
        shown = reprlib.repr(entry[key])
        raise UserError(f"{file}: {key!r} of {what} is {shown}; COCO's ids are whole numbers of 64 bits, so write one.")
    return number
