"""What a config from others may name: parts of mapjax's own. Making another one runs the code of its author."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mapjax.config import parts
from mapjax.errors import UserError

CHOICES = ("assignment", "single", "code", "class_loss", "box_loss", "quality")  # of a task: names in its own tables
Trusted = bool | Collection[str]  # True for any module, or the names of those that are the user's own


def named_in(config: Mapping[str, Any]) -> dict[str, str]:
    """Give the parts of a plain config that are not mapjax's own: dotted key → name of the module.

    Example:
      >>> from mapjax.config import foreign
      >>> foreign.named_in({"model": {"name": "resnet", "backbone": {"name": "mine.net"}}, "metrics": ["os"]})
      {'model.backbone.name': 'mine.net', 'metrics[0]': 'os'}
    """
    found = {}
    for key, kind, name in _named(config):
        if name not in parts.shipped(kind):
            found[key] = name
    return found


def refuse(config: Mapping[str, Any], origin: str, trusted: Trusted) -> None:
    """Stop at a config of which a part is a module that is not mapjax's own.

    Args:
      origin: where the config is from, for the message.
      trusted: as `Trusted` says.

    Raises:
      UserError: such a part.
    """
    if trusted is True:
        return
    for key, name in named_in(config).items():
        if name not in (trusted or ()):
            raise UserError(
                f"{origin}: {key}={name!r} is a module of whoever made this, and would be run; where you trust that, "
                "say --trust (in Python trust=True)."
            )


def _named(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield key, kind and name of every part."""
    for key, kind in parts.KINDS.items():
        yield from _below(key, config.get(key), kind)
    for name, node in (config.get("streams") or {}).items():
        for key in ("data", "transform"):
            yield from _below(
                f"streams.{name}.{key}", node.get(key) if isinstance(node, Mapping) else None, parts.KINDS[key]
            )
    for number, node in enumerate(config.get("metrics") or ()):
        where = f"metrics[{number}]"
        if isinstance(node, str):
            yield where, "metrics", node
        else:
            yield from _below(where, node, "metrics")


def _below(key: str, node: Any, kind: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(node, Mapping):
        if isinstance(node.get("name"), str):
            yield f"{key}.name", kind, node["name"]
        for inner, value in node.items():
            if kind == parts.KINDS["task"] and inner in CHOICES:
                continue
            yield from _below(f"{key}.{inner}", value, kind)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _below(f"{key}[{number}]", value, kind)
