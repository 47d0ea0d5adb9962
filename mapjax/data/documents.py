"""JSON, XML and YAML as tools on other systems write them: not all of it UTF-8, and no more than a budget."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import yaml

from mapjax import regular

MOST_YAML = 1_000_000  # bytes; that of 10,000 classes has 200,000
_DEEPEST = 20  # lists and mappings within each other, where three are in use
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # of texts only; libyaml's is 10 times as fast
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


def read(file: str | os.PathLike, most: int) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises:
      OSError: it cannot be read.
      ValueError: it is longer.
    """
    with regular.open_file(file) as opened:
        data = opened.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def parse_yaml(data: bytes) -> Any:
    """Read YAML as lists, mappings and texts: `no` is a name and no truth value, `01` is not 1. Nothing is executed.

    Raises:
      ValueError: it is no YAML, is too deep or too long, gives a key twice, or refers to its own parts, as none of
        these files does and a few bytes that grow without bound do.

    Example:
      >>> from mapjax.data import documents
      >>> documents.parse_yaml(b"nc: 2\\nnames: [no, cat]")
      {'nc': '2', 'names': ['no', 'cat']}
    """
    if len(data) > MOST_YAML:
        raise ValueError(f"it has more than {MOST_YAML:,} bytes")
    try:
        text = data.decode("utf-8-sig")
        _require_plain(text)
        loader = _LOADER(text)
        node = loader.get_single_node()
        if (twice := _repeated(node)) is not None:
            raise ValueError(f"it has the key {twice!r} twice")
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _require_plain(text: str) -> None:
    """Go through YAML before anything is made of it, and stop at what grows without bound."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it refers to its own parts by *")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError("it has lists within lists, too deep to be read")


def _repeated(node: Any) -> str | None:
    """Find a key that a mapping, or one in it, has twice."""
    if not isinstance(node, yaml.MappingNode):
        return None
    seen = set[str]()
    keys = (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    twice = next((key for key in keys if key in seen or seen.add(key)), None)
    return twice if twice is not None else next(filter(None, (_repeated(inner) for _, inner in node.value)), None)
