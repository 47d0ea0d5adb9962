"""Keys that a config may have beyond those its experiment file writes: every keyword that its parts take.

A node with a `name` is a part, and the keywords of its `make` are its keys; `model.backbone` and `model.unary` are
models too. Nested nodes that are no parts (augmentations) are named by `OPTIONS` of the module that reads them.
"""

import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mapjax.config import parts
from mapjax.engine import optimizer, schedule
from mapjax.errors import UserError

MODELS = dict.fromkeys(("model", "backbone", "unary"), "models")
KINDS = {"data": "data.formats", "transform": "data.transforms", "task": "tasks"} | MODELS
OFFERED = {  # by the program, to parts of each kind
    "data.formats": ("split", "needs"),
    "data.transforms": ("size", "canvas"),
    "models": ("classes", "dtype", "image_size"),
    "tasks": ("model", "classes", "image_size", "class_counts", "pixel_counts"),
}
RUN = {"eval_size": None, "sizes": (), "sampling": "uniform", "init_from": "", "skip_non_finite": 0, "shift": {}}


def optional(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """List the dotted keys that are not in a config but may be, with their defaults."""
    found = {} if prefix else {key: value for key, value in RUN.items() if key not in config}
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


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a plain config with every key that it may have, so that two of them can be compared."""
    whole = json.loads(json.dumps(config))
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
    if key == "optimizer":
        return dict(optimizer.DEFAULTS)
    if key == "schedule":
        made = schedule.SCHEDULES.get(node["name"])
        return {"warmup": "0 steps", **(_defaults(made, ()) if made else {})}
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
