"""Configs: an experiment file's `get_config()` or a run's config.json, with overrides from the command line, locked.

`experiments/detect.py:bccd` calls `get_config("bccd")`; `--config.optimizer.learning_rate=3e-4` replaces one
value, which keeps its type. A key that does not exist is a mistake, and the near ones are named.
"""

import copy
import functools
import importlib.util
import inspect
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mapjax import regular
from mapjax.config import foreign, formats, migrate, schema, writable
from mapjax.config.override import literal, override_all
from mapjax.errors import UserError, near


def load(
    name: str, overrides: Mapping[str, str] | None = None, *, data: str | None = None, trust: bool = False
) -> ConfigDict:
    """Load an experiment file over the defaults of schema.py, and apply overrides.

    Args:
      name: "FILE.py" or "FILE.py:VARIANT", or the bare name of a file that mapjax ships, "detect:bccd"; or "FILE.json",
        the config.json of a run.
      overrides: dotted key → value as text.
      data: a data set as on the command line, "voc:DIR"; of `config.data` it leaves what that says of the same format,
        but no names of classes.
      trust: a FILE.json may name modules that are not mapjax's own; their code is run.

    Raises:
      UserError: no such file or variant, an unknown key, a value of another type, or no name of a part.

    Example:
      >>> from mapjax.config import load
      >>> load.load("classify", {"optimizer.learning_rate": "3e-3"}).optimizer.learning_rate
      0.003
    """
    config: Any = _read(pathlib.Path(name), trust) if name.endswith(".json") else from_dict(recipe(name))
    config = with_data(config, data) if data is not None else config
    override_all(config, overrides or {})
    schema.require_parts(config, f"--config {name}")
    return config


def recipe(name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Give what an experiment file says, as a plain dict without the defaults; a recipe of one's own may start from it.

    Args:
      name: as for `load`.
      changes: dotted key → value; what lies beside such a key stays as it was.

    Raises:
      UserError: no such file or variant, an unknown key, or a value of another type.

    Example:
      >>> from mapjax.config import load
      >>> mine = load.recipe("detect:bccd", {"batch": 8, "optimizer.weight_decay": 0.01})
      >>> mine["batch"], mine["optimizer"]
      (8, {'learning_rate': 0.0005, 'weight_decay': 0.01})
    """
    found = call(name, "get_config")
    plain = found.to_dict() if isinstance(found, ConfigDict) else found
    if not isinstance(plain, Mapping):
        raise UserError(f"--config {name}: get_config() must give a dict, not {found!r}.")
    plain = _changed(plain, changes or {})
    today = migrate.migrated(plain)
    schema.require_known(today, f"--config {name}")
    if today != plain:
        _warn(f"--config {name} is written for 0.1; {migrate.DEFAULTS_NOW}")
    return today


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    whole = copy.deepcopy(dict(values))
    for key, value in changes.items():
        *way, last = key.split(".")
        node = functools.reduce(lambda inner, name: inner.setdefault(name, {}), way, whole)
        node[last] = value
    return whole


@functools.cache
def _warn(text: str) -> None:
    """Say it once: a study loads its experiment for every cell."""
    print(f"warning: {text}", file=sys.stderr)


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
    if file.suffix == ".json":
        raise UserError(f"--config {name}: a config.json has no {function}(); name an experiment FILE.py.")
    module = _module(file, path)
    made, known = getattr(module, function, None), getattr(module, "VARIANTS", None)
    if not callable(made):
        raise UserError(f"--config {path}: the file defines no {function}().")
    takes = inspect.signature(made).parameters.values()
    if variant and not takes:
        raise UserError(f"--config {name}: {function}() of this file takes no variant.")
    if not variant and any(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in takes):
        hint = f", one of {', '.join(known)}" if known else ""
        raise UserError(f"--config {name}: {function}() of this file needs a variant; write {name}:VARIANT{hint}.")
    if variant and known is not None and variant not in known:
        raise UserError(f"--config {name}: there is no variant {variant!r}.{near(variant, known)}")
    try:
        return made(*([variant] if variant else []))
    except (KeyError, ValueError) as error:
        if not variant or known is not None:
            raise
        reason = "" if str(error) == repr(variant) else f" ({error})"
        raise UserError(f"--config {name}: there is no variant {variant!r}{reason}.") from error


def recipes() -> dict[str, tuple[str, ...]]:
    """Give the variants of every experiment that mapjax ships and that is no study; the first is the default."""
    listed = {name: file for name, file in sorted(_shipped().items()) if "\ndef sweep(" not in file.read_text("utf-8")}
    return {name: tuple(getattr(_module(file, name), "VARIANTS", ())) for name, file in listed.items()}


def _module(file: pathlib.Path, path: str) -> Any:
    """Import an experiment file; `path` is what a message calls it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None, "find gives files of Python only"
    module = importlib.util.module_from_spec(spec)
    if (folder := str(file.parent.resolve())) not in sys.path:
        sys.path.append(folder)  # for the parts of its author that lie beside it; none hides what is installed
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"--config {path} is not Python: {error.msg} (line {error.lineno}).") from error
    except ModuleNotFoundError as error:
        raise UserError(f"--config {path} imports {error.name}, which is not there: install it, or mend it.") from error
    return module


def find(name: str) -> pathlib.Path:
    """Find an experiment file, or a config.json: its path, or the bare name of one that mapjax ships, as "detect".

    Raises:
      UserError: no such file.
    """
    file = pathlib.Path(name)
    if file.is_file() and file.suffix in (".py", ".json"):
        return file
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    if file.is_file():
        raise UserError(
            f"--config {name}: this file is no Python; write an experiment FILE.py, or a run's config.json."
        )
    folder = file.parent if file.parent.is_dir() else pathlib.Path("experiments")
    beside = [str(found) for found in folder.glob("*.py")]
    raise UserError(f"--config {name}: there is no such file.{near(name, [*beside, *shipped])}")


def _shipped() -> dict[str, pathlib.Path]:
    package = pathlib.Path(__file__).parents[1]
    return {found.stem: found for where in (package.parent, package) for found in (where / "experiments").glob("*.py")}


def label(name: str) -> str:
    """Give the words by which a run of a config is known: "detect-bccd" of "experiments/detect.py:bccd"."""
    path, _, variant = name.partition(":")
    return "-".join(filter(None, (pathlib.Path(path).stem, variant)))


def _read(file: pathlib.Path, trust: bool) -> ConfigDict:
    try:
        values = json.loads(regular.read_text(file))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise UserError(
            f"--config {file}: there is no such file." if missing else f"--config {file}: {error.strerror}."
        ) from error
    except (ValueError, RecursionError) as error:  # as in workdir.read_json
        raise UserError(f"--config {file} is no config of a run ({error}).") from error
    return saved(values, f"--config {file}", trust)


def merged(variant: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Keep what a variant says of its format, if only another path of that is given."""
    return {**variant, **given} if set(given) == {"name", "path"} and given["name"] == variant.get("name") else given


def parse_data(text: str) -> dict[str, Any]:
    """Turn "voc:DIR", "coco:annotations=A.json,images=DIR" or "scenes" into the config node of a source."""
    name, colon, rest = text.partition(":")
    if not name or (colon and not rest):
        raise UserError(f"--data {text!r}: write FORMAT:PATH, for example voc:DIR or coco:DIR.")
    known = formats.known()
    if os.sep in name or (pathlib.Path(name).exists() and name not in known):
        found = formats.likely(pathlib.Path(text))
        every = f"{found}:{text}" if found else f"voc:{name}, coco:{name} or folder:{name}"
        raise UserError(f"--data {text}: say its format before the path: {every}.")
    if name not in known and importlib.util.find_spec(name.partition(".")[0] or "?") is None:
        close = near(name, known)
        every = "" if close.startswith(" Known") else f" Known: {', '.join(known)}; or a module of yours."
        raise UserError(f"--data {text}: there is no format {name!r}.{close}{every}")
    if not rest and not formats.is_embedded(name):
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
        options[key.strip()] = literal(value)
    return {"name": name, **options}


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Turn a config into plain JSON values (tuples become lists)."""
    return json.loads(config.to_json_best_effort())


def from_dict(values: Mapping[str, Any], origin: str = "config") -> ConfigDict:
    """Make a locked config of a plain dict, with every key of a run; lists become tuples, as experiments write them.

    Args:
      origin: what the values are from, for the message.

    Raises:
      UserError: a key that no run has, or a value that cannot be.

    Example:
      >>> from mapjax.config import load
      >>> load.from_dict({"batch": 8, "image_size": [32, 32]}).image_size
      (32, 32)
    """

    def restore(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: restore(inner) for key, inner in value.items()}
        return tuple(restore(inner) for inner in value) if isinstance(value, list | tuple) else value

    schema.require_known(values, origin)
    return ConfigDict(restore(schema.complete(values))).lock()


def saved(values: Any, origin: str = "config.json", trusted: foreign.Trusted = False) -> ConfigDict:
    """Make the config of a run from its config.json, whichever version wrote that; see migrate.py.

    Raises:
      UserError: as `from_dict`, it is no dict at all, or it names a module that is not trusted.
    """
    plain = plain_saved(values, origin)
    foreign.refuse(plain, origin, trusted)
    return from_dict(plain, origin)


def plain_saved(values: Any, origin: str) -> dict[str, Any]:
    """Give what a config.json says in today's words, without the defaults; errors as for `saved`."""
    if not isinstance(values, Mapping):
        raise UserError(f"{origin} is no config of a run: it holds {values!r} and no keys.")
    for key, value in values.items():
        if found := writable.fault((key, value)):
            raise UserError(f"{origin}: the values of {str(key)[:40]!r} must be {found}.")
    today = migrate.saved(values)
    schema.require_known(today, origin)
    return today


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield "key: old → new" for every value that differs between two plain configs."""
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: {before!r} → {after!r}"
