"""Splits of a data set: found by name, or a validation split held out where there is none."""

import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from mapjax.config import parts
from mapjax.errors import NoSuchSplit, UserError

VALIDATION = ("val", "valid", "validation")
_SPELLINGS = (("train", "training"), VALIDATION, ("test", "testing"))

Part = Literal["whole", "kept", "held out"]


def find(split: str, available: Collection[str]) -> str | None:
    """Return the available name of a split, maybe in another spelling ("valid" or "Val" for "val"); None if none is."""
    spellings = next((names for names in _SPELLINGS if split.casefold() in names), ())
    folded = {name.casefold(): name for name in sorted(available)}
    near = (folded.get(name.casefold()) for name in (split, *spellings))
    return split if split in available else next(filter(None, near), None)


def locate(split: str, available: Collection[str], where: str, share: float | int) -> tuple[str, Part]:
    """Return which of the available splits holds the one asked for, and which part of it that is.

    A data set with "train" but without "val" gets one: a share of "train" is held out, and leaves "train".

    Args:
      split: the name asked for.
      available: the names there are.
      where: the data set, for the message.
      share: to hold out; 0 holds nothing out.

    Raises:
      NoSuchSplit: there is none of that name (the message lists those there are).
      UserError: a share that is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise UserError(f"hold_out={share} must be a share from 0 to below 1.")
    found, train = find(split, available), find("train", available)
    if train is not None and find("val", available) is None and share > 0:
        if split.casefold() in VALIDATION:
            return train, "held out"
        if found == train:
            return train, "kept"
    if found is None:
        raise NoSuchSplit(f"{where} has no split {split!r}; there is: {', '.join(sorted(available)) or 'none'}.")
    return found, "whole"


def without_hold_out(node: Mapping[str, Any]) -> dict[str, Any]:
    """Give a data node of a config that holds nothing out of "train", unless it says how much itself."""
    known = inspect.signature(parts.find("data.formats", str(node.get("name")))).parameters
    return {"hold_out": 0, **node} if "hold_out" in known else dict(node)


def take(names: Sequence[str], part: Part, seed: int, share: float | int) -> list[str]:
    """Return one part of a list of names, in their order; a share of them is held out by a seeded hash of each.

    Where two or more names are there, at least one is held out and at least one kept. The choice for a name hardly
    depends on the others, so adding images does not reshuffle the splits.
    """
    if part == "whole":
        return list(names)
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    held = set(ranked[: min(max(round(share * len(names)), 1), len(names) - 1)])
    return [name for name in names if (name in held) == (part == "held out")]
