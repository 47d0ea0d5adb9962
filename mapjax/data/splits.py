"""Splits of a data set: found by name, or a validation split held out where there is none."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from mapjax.errors import UserError

_SAME = ({"val", "valid", "validation"}, {"train", "training"}, {"test", "testing"})
HELD_OUT = "val"

Found = TypeVar("Found")


def find(split: str, available: Mapping[str, Found]) -> Found | None:
    """Return the split of that name, or of another spelling of it ("valid" for "val"); None if there is none."""
    spellings = next((names for names in _SAME if split in names), {split})
    return next((available[name] for name in (split, *sorted(spellings)) if name in available), None)


def choose(
    split: str, available: Mapping[str, Sequence[str]], where: str, *, seed: int, share: float = 0.1
) -> list[str]:
    """Return the names of the images of a split.

    A data set with "train" but without "val" gets one: a seeded `share` of "train" becomes "val" and leaves "train".

    Args:
      split: the name asked for.
      available: the images of each split there is.
      where: the data set, for the message.
      seed, share: of the held-out part; 0 holds nothing out.

    Raises:
      UserError: there is no such split; the message lists those there are.
    """
    found = find(split, available)
    train = find("train", available)
    if train is not None and find(HELD_OUT, available) is None and share > 0:
        if find(split, {HELD_OUT: True}):
            return hold_out(train, seed, share)[1]
        if found is train:
            return hold_out(train, seed, share)[0]
    if found is None:
        raise UserError(missing(split, available, where))
    return list(found)


def hold_out(names: Sequence[str], seed: int, share: float) -> tuple[list[str], list[str]]:
    """Divide names into those kept and a share held out (at least one of two or more), by a seeded hash of each.

    The choice for a name hardly depends on the others, so adding images does not reshuffle the splits.
    """
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    count = max(round(share * len(names)), 1) if len(names) > 1 else 0
    held = set(ranked[:count])
    return [name for name in names if name not in held], [name for name in names if name in held]


def missing(split: str, available: Iterable[str], where: str) -> str:
    """Say in one sentence that there is no such split."""
    return f"{where} has no split {split!r}; there is: {', '.join(sorted(available)) or 'none'}."
