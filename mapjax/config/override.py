"""Values of a config replaced by their dotted keys, as the command line has them."""

import ast
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mapjax.config import keys, migrate, schema, writable
from mapjax.errors import UserError, near


def override(config: ConfigDict, key: str, text: str) -> None:
    """Replace one value by its dotted key; the text is read as a value of the type that stands there.

    Raises:
      UserError: an unknown key (the near ones are named), or a value of another type.
    """
    migrate.require_new(key, text)
    *parents, last = key.split(".")
    node: Any = config
    for depth, part in enumerate([*parents, last]):
        if not isinstance(node, ConfigDict) or part not in node:
            node = _opened(config, key, None if isinstance(node, ConfigDict) else ".".join(parents[:depth]))
            break
        if depth < len(parents):
            node = node[part]
    try:
        node[last] = _checked(key, _parse(text, node[last]), f"--config.{key}={text}")
    except (ValueError, SyntaxError, TypeError, OverflowError) as error:
        kind = type(node[last]).__name__
        raise UserError(f"--config.{key}={text}: expected a value like {node[last]!r} ({kind}).") from error


def override_all(config: ConfigDict, overrides: Mapping[str, str]) -> None:
    """Replace values by their dotted keys; names first, as what a part takes depends on its name.

    Raises:
      UserError: as `override`.
    """
    for key, text in sorted(overrides.items(), key=lambda pair: not pair[0].endswith(".name")):
        override(config, key, text)


def _opened(config: ConfigDict, key: str, leaf: str | None) -> ConfigDict:
    """Add a key that a part takes but the experiment does not write, with its default; give the node it is in.

    Raises:
      UserError: no part takes it; `leaf` is the value on its way that has no keys.
    """
    known = keys.optional(config.to_dict())
    if key not in known:
        names = [leaf] if leaf is not None else [name for name, _ in keys.flat_values(config)] + list(known)
        raise UserError(f"--config.{key}: there is no such key.{_near_key(key, names)}")
    *parents, last = key.split(".")
    node: Any = config
    for part in parents:
        if part not in node or node[part] is None:
            with node.unlocked():
                node[part] = ConfigDict()
        node = node[part]
    with node.unlocked():
        node[last] = known[key]
    return node


def _checked(key: str, value: Any, origin: str) -> Any:
    """Check a value by the schema; of a group of keys, those that it leaves out are at their defaults again."""
    plain = value.to_dict() if isinstance(value, ConfigDict) else value
    if key in schema.GROUPS:
        for inner in plain:
            migrate.require_new(f"{key}.{inner}")
        schema.require_known({key: plain}, origin)
        return ConfigDict(schema.group(key) | plain)
    if key == "streams":
        schema.require_known({key: plain}, origin)
        return ConfigDict({name: schema.stream(node) for name, node in plain.items()})
    known = schema.find(key)
    if known is not None and (fault := schema.fault(known, plain)):
        raise UserError(f"{origin} must be {fault}.")
    if fault := writable.fault(plain):
        raise UserError(f"{origin} must be {fault}.")
    return tuple(value) if isinstance(value, list) else value


def _parse(text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    if isinstance(old, ConfigDict):
        return ConfigDict(dict(ast.literal_eval(text)))
    value = literal(text)
    if isinstance(old, bool):
        if not isinstance(value, bool):
            raise ValueError(text)
        return value
    if isinstance(old, int) and isinstance(value, bool | float):
        raise ValueError(text)
    if isinstance(old, int | float):
        if isinstance(value, str):
            raise ValueError(text)
        return type(old)(value)
    if isinstance(old, tuple) and isinstance(value, str):
        if not all(isinstance(one, str) for one in old):
            raise ValueError(text)
        return (value,)  # of names, one may be written by itself
    if isinstance(old, tuple):
        return tuple(value)
    return value


def literal(text: str) -> Any:
    """Read a Python value ("0.2", "(4, 6)"), true, false or none; anything else is the text itself."""
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _near_key(key: str, known: list[str]) -> str:
    """Prefer keys with the same last part, or whose initials it is (lr), wherever they are."""
    last = key.split(".")[-1]
    same = [k for k in known if last in (k.split(".")[-1], "".join(word[:1] for word in k.split(".")[-1].split("_")))]
    return f" Did you mean {' or '.join(repr(k) for k in same[:3])}?" if same else near(key, known)
