"""Configs choose parts by name: `dict(name="resnet", depth=50)` becomes `make(depth=50)` of the module resnet.py."""

import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from mapjax.errors import UserError, near

KINDS = {  # the key of a config that names a part → its folder
    "data": "data.formats",
    "transform": "data.transforms",
    "model": "models",
    "task": "tasks",
}


def make(kind: str, node: Mapping[str, Any], **offered: Any) -> Any:
    """Make the part that a config node names.

    Args:
      kind: the folder of mapjax that holds such parts, or has them in folders below: "models", "data.formats", …
      node: `name` and the keyword arguments of that module's `make`. A name with a dot is imported from
        anywhere (`my_package.my_model`), so a user's own part needs no fork.
      **offered: what the program has to give besides the config; a part gets what its `make` names.

    Raises:
      UserError: no such part (the near names are listed), or a keyword its `make` does not take.

    Example:
      >>> from mapjax.config import parts
      >>> parts.make("models", {"name": "tiny", "width": 8}, classes=10, dtype="float32").levels
      {'layer1': 1, 'layer2': 2}
    """
    arguments = dict(node)
    name = arguments.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"a part of {kind} needs a name: write dict(name=…), found {dict(node)!r}.")
    build = find(kind, name)
    known = inspect.signature(build).parameters
    extra = {key: value for key, value in offered.items() if key in known}
    try:
        inspect.signature(build).bind(**arguments, **extra)
    except TypeError as error:
        takes = [p for p in known if p not in extra]
        wrong = next((key for key in arguments if key not in takes), None)
        hint = near(wrong, takes) if wrong else f" It takes: {', '.join(takes)}."
        if wrong and len(arguments) > 1:  # they may be another part's
            hint += f" A part that is exchanged is written whole: {{'name': {name!r}, …}}."
        raise UserError(f"{kind} part {name!r}: {error}.{hint}") from error
    return build(**arguments, **extra)


def names(kind: str) -> list[str]:
    """List the parts of one kind that mapjax ships: the modules that have a `make`.

    Example:
      >>> from mapjax.config import parts
      >>> parts.names("tasks")
      ['classify', 'dense', 'segment', 'set_prediction', 'two_stage']
    """
    modules = {name: importlib.import_module(path) for name, path in _modules(kind).items()}
    return sorted(name for name, module in modules.items() if hasattr(module, "make"))


def find(kind: str, name: str) -> Any:
    """Give the `make` of a part by its name; errors as for `make`."""
    if not isinstance(name, str):
        raise UserError(f"a part of {kind} is called by a text, not {name!r}; one of {', '.join(names(kind))}.")
    path = _modules(kind).get(name, name)  # one that is not here is a module of a user's
    try:
        found = importlib.util.find_spec(path)
    except (ImportError, ValueError):  # a parent that is not there, or no name at all ("../data")
        found = None
    if found is None and "." in name:
        raise UserError(
            f"{kind} part {name!r}: there is no such module; a module of yours lies in the folder where you start, "
            "beside the config that names it, or on PYTHONPATH."
        )
    if found is None:
        raise UserError(f"there is no part {name!r} among mapjax.{kind}.{near(name, names(kind))}")
    module = importlib.import_module(path)
    if not hasattr(module, "make"):
        raise UserError(f"{path} has no function make(…), so it cannot be a part of {kind}.{near(name, names(kind))}")
    return module.make


def shipped(kind: str) -> frozenset[str]:
    """Give the names of all modules of one kind that mapjax ships; none of them is imported."""
    return frozenset(_modules(kind))


@functools.cache
def _modules(kind: str) -> dict[str, str]:
    """Map the names of all modules of a kind to their paths; none of them is imported."""
    package = importlib.import_module(f"mapjax.{kind}")
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return {info.name.rpartition(".")[2]: info.name for info in found if not info.ispkg}
