"""Configs: an experiment file's `get_config()` or a run's config.json, with overrides from the command line, locked.

`experiments/detect.py:bccd` calls `get_config("bccd")`; `--config.optimizer.learning_rate=3e-4` replaces one
value, which keeps its type. A key that does not exist is a mistake, and the near ones are named.
"""

import ast
import importlib.util
import inspect
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mapjax.errors import UserError, near

EMBEDDED = ("scenes", "digits")  # need no path
FORMATS = (*EMBEDDED, "voc", "coco", "folder", "idx", "tfds", "table", "masks", "array_record")


def load(name: str, overrides: Mapping[str, str] | None = None, *, data: str | None = None) -> ConfigDict:
    """Load an experiment file and apply overrides.

    Args:
      name: "FILE.py" or "FILE.py:VARIANT"; or "FILE.json", the config.json of a run.
      overrides: dotted key → value as text.
      data: a data set as on the command line, "voc:DIR"; of `config.data` it leaves what that says of the same format,
        but no names of classes.

    Raises:
      UserError: no such file or variant, an unknown key, or a value of another type.
    """
    config: Any = _read(pathlib.Path(name)) if name.endswith(".json") else call(name, "get_config")
    config = with_data(config, data) if data is not None else config
    config.lock()
    override_all(config, overrides or {})
    return config


def with_data(config: ConfigDict, data: str) -> ConfigDict:
    """Give a copy of a config for other data, named as on the command line; see `load`."""
    own, given = to_dict(config)["data"], parse_data(data)
    if own.get("path") != given.get("path"):
        own.pop("classes", None)  # the names are those of its own data
    return from_dict(to_dict(config) | {"data": merged(own, given)})


def call(name: str, function: str) -> Any:
    """Call a function of an experiment file, with the variant if one is named: "FILE.py" or "FILE.py:VARIANT".

    Raises:
      UserError: no such file, function or variant.
    """
    path, _, variant = name.partition(":")
    file = find(path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise UserError(f"--config {path}: the file defines no {function}().")
    made = getattr(module, function)
    if variant and not inspect.signature(made).parameters:
        raise UserError(f"--config {name}: {function}() of this file takes no variant.")
    try:
        return made(*([variant] if variant else []))
    except (KeyError, ValueError) as error:
        if not variant:
            raise
        raise UserError(f"--config {name}: there is no variant {variant!r} ({error}).") from error


def find(name: str) -> pathlib.Path:
    """Find an experiment file: its path, or the bare name of one that mapjax ships, as "detect".

    Raises:
      UserError: no such file.
    """
    file = pathlib.Path(name)
    if file.is_file():
        return file
    package = pathlib.Path(__file__).parents[1]
    shipped = {
        found.stem: found for where in (package.parent, package) for found in (where / "experiments").glob("*.py")
    }
    if name in shipped:
        return shipped[name]
    folder = file.parent if file.parent.is_dir() else pathlib.Path("experiments")
    beside = [str(found) for found in folder.glob("*.py")]
    raise UserError(f"--config {name}: there is no such file.{near(name, [*beside, *shipped])}")


def label(name: str) -> str:
    """Give the words by which a run of a config is known: "detect-bccd" of "experiments/detect.py:bccd"."""
    path, _, variant = name.partition(":")
    return "-".join(filter(None, (pathlib.Path(path).stem, variant)))


def _read(file: pathlib.Path) -> ConfigDict:
    try:
        return from_dict(json.loads(file.read_text(encoding="utf-8"))).unlock()
    except FileNotFoundError as error:
        raise UserError(f"--config {file}: there is no such file.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise UserError(f"--config {file} is no config of a run ({error}).") from error


def merged(variant: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Keep what a variant says of its format, if only another path of that is given."""
    return {**variant, **given} if set(given) == {"name", "path"} and given["name"] == variant.get("name") else given


def parse_data(text: str) -> dict[str, Any]:
    """Turn "voc:DIR", "coco:annotations=A.json,images=DIR" or "scenes" into the config node of a source."""
    name, colon, rest = text.partition(":")
    if not name or (colon and not rest):
        raise UserError(f"--data {text!r}: write FORMAT:PATH, for example voc:DIR or coco:DIR.")
    if os.sep in name or (pathlib.Path(name).exists() and name not in FORMATS):
        raise UserError(f"--data {text}: say its format before the path: voc:{name}, coco:{name} or folder:{name}.")
    if name not in FORMATS and "." not in name:
        raise UserError(f"--data {text}: there is no format {name!r}.{near(name, FORMATS)}")
    if not rest and name not in EMBEDDED:
        raise UserError(f"--data {text}: say where the data is: {name}:PATH.")
    if not rest:
        return {"name": name}
    if "=" not in rest or pathlib.Path(rest).exists():
        return {"name": name, "path": rest}
    options = {}
    for pair in rest.split(","):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(
                f"--data {text!r}: {pair!r} is no KEY=VALUE; write for example coco:annotations=A.json,images=DIR."
            )
        options[key.strip()] = _literal(value)
    return {"name": name, **options}


def override(config: ConfigDict, key: str, text: str) -> None:
    """Replace one value by its dotted key; the text is read as a value of the type that stands there.

    Raises:
      UserError: an unknown key (the near ones are named), or a value of another type.
    """
    *parents, last = key.split(".")
    node: Any = config
    for depth, part in enumerate([*parents, last]):
        if not isinstance(node, ConfigDict) or part not in node:
            node = _opened(config, key, None if isinstance(node, ConfigDict) else ".".join(parents[:depth]))
            break
        if depth < len(parents):
            node = node[part]
    try:
        node[last] = _parse(text, node[last])
    except (ValueError, SyntaxError, TypeError) as error:
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
    from mapjax.config import keys as options

    known = options.optional(config.to_dict())
    if key not in known:
        names = [leaf] if leaf is not None else [name for name, _ in flat_values(config)] + list(known)
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


def flat_values(config: ConfigDict | dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """List the dotted keys of all values, with the values."""
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict) and len(value):
            pairs += flat_values(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Turn a config into plain JSON values (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


RENAMED = {("task", "detect"): "two_stage", ("transform", "transforms"): "boxes"}  # parts of 0.1, by their new names


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
    """Read back what `to_dict` wrote; lists become tuples, as experiments write them."""

    def restore(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: restore(inner) for key, inner in value.items()}
        return tuple(restore(inner) for inner in value) if isinstance(value, list) else value

    return ConfigDict(restore(migrated(values))).lock()


def migrated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a plain config as it is written today, where an earlier version wrote it."""
    found = dict(values)
    for (key, old), new in RENAMED.items():
        if isinstance(found.get(key), Mapping) and found[key].get("name") == old:
            found[key] = {**found[key], "name": new}
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield "key: old → new" for every value that differs between two plain configs."""
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {before!r} → {after!r}"


def _parse(text: str, old: Any) -> Any:
    if isinstance(old, str):
        return text
    if isinstance(old, ConfigDict):
        return ConfigDict(dict(ast.literal_eval(text)))
    value = _literal(text)
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


def _literal(text: str) -> Any:
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
