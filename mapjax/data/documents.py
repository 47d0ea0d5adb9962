"""JSON and XML whose text is not all UTF-8, as tools on other systems write them."""

import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")


def parse_json(data: bytes) -> Any:
    """Read JSON; bytes that are no UTF-8 are kept as in the names of files (mapjax.runtime.names).

    Raises:
      ValueError: it is no JSON.
    """
    return json.loads(data.decode(json.detect_encoding(data), "surrogateescape"))


def parse_xml(data: bytes) -> ElementTree.Element:
    """Read XML, also in an encoding that its parser does not know (GBK, Shift JIS); other bytes are escaped as \\xNN.

    Raises:
      ElementTree.ParseError, ValueError, LookupError: it is no XML.
    """
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        declared = _DECLARED.match(data)
        encoding = declared[1].decode("ascii") if declared else "utf-8"
        try:
            text = data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            text = data.decode("utf-8", "backslashreplace")
        return ElementTree.fromstring(text)
