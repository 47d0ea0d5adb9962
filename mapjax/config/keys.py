"""The keys of a config: those it has, and those it may have besides, which are all keywords that its parts take.

A node with a `name` is a part, and the keywords of its `make` are its keys; `model.backbone` and `model.unary` are
models too. Nested nodes that are no parts (augmentations) are named by `OPTIONS` of the module that reads them.
"""

import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mapjax.config import parts, schema
from mapjax.errors import UserError

KINDS = parts.KINDS | dict.fromkeys(("backbone", "unary"), parts.KINDS["model"])  # models within models
COLUMN = 42  # at which the table's texts begin, where there is room
OFFERED = {  # by the program, to parts of each kind
    "data.formats": ("split", "needs"),
    "data.transforms": ("size", "canvas"),
    "models": ("classes", "dtype", "image_size"),
    "tasks": ("model", "classes", "image_size", "class_counts", "pixel_counts"),
}


def optional(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """List the dotted keys that are not in a config but may be, with their defaults."""
    found: dict[str, Any] = {}
    for key, node in config.items():
        if not isinstance(node, Mapping):
            continue
        path = f"{prefix}{key}."
        if "name" in node:
            for word, value in _keywords(key, node).items():
                outer, _, last = word.rpartition(".")
                inside = node.get(outer, {}) if outer else node
                if isinstance(inside, Mapping) and last not in inside:
                    found[path + word] = value
        found |= optional(node, path)
    return found


def flat_values(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> list[tuple[str, Any]]:
    """List the dotted keys of all values, with the values."""
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, ConfigDict | Mapping) and len(value):
            pairs += flat_values(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def table(config: ConfigDict) -> str:
    """Write all keys of a config as --config.KEY=VALUE, those of the schema with meaning [type; unit; default]."""
    plain, lines = config.to_dict(), []
    for name, one in schema.KEYS.items():
        group, _, last = name.rpartition(".")
        values = flat_values({name: (plain[group] if group else plain)[last]})
        values.sort(key=lambda pair: pair[0] != f"{name}.name")
        for number, (key, value) in enumerate(values):
            found = schema.find(key) or (one if number == 0 else None)  # a part's meaning stands beside its name
            lines.append(_line(key, value, found))
        if name == "streams" and not plain[name]:
            lines += [_line(f"streams.NAME.{key}", inner.default, inner) for key, inner in schema.STREAM.items()]
    more = [f"--config.{key}={value}" for key, value in sorted(optional(plain).items())]
    return "\n".join([*lines, "", "and, of its parts, with their defaults:", "", *more])


def _line(key: str, value: Any, known: schema.Key | None) -> str:
    line = f"{f'--config.{key}={value}':<{COLUMN}}"
    if known is None:
        return line.rstrip()
    default = "" if key.partition(".")[0] in schema.PARTS else f"default {known.default!r}"
    return f"{line}  {known.help} [{'; '.join(filter(None, (schema.words(known.kind), known.unit, default)))}]"


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a plain config with every key that it may have, so that two of them can be compared."""
    whole = json.loads(json.dumps(schema.complete(config)))
    for key, value in optional(config).items():
        *parents, last = key.split(".")
        node = whole
        for part in parents:
            node[part] = node.get(part) or {}
            node = node[part]
        node[last] = value
    return json.loads(json.dumps(whole))


def _keywords(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with defaults that a node's part takes; none for a part that is not there (its message comes later)."""
    if key not in KINDS:
        return {}
    try:
        make = parts.find(KINDS[key], node["name"])
    except UserError:
        return {}
    nested = getattr(importlib.import_module(make.__module__), "OPTIONS", {})
    inner = {f"{outer}.{word}": value for outer, known in nested.items() for word, value in known.items()}
    return {word: value for word, value in _defaults(make, OFFERED[KINDS[key]]).items() if word not in nested} | inner


def _defaults(function: Callable[..., Any], offered: Sequence[str]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in offered}
