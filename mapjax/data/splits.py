"""Splits of a data set: found by name, or a validation split held out where there is none."""

import hashlib
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from mapjax.config import parts
from mapjax.errors import NoSuchSplit, UserError
from mapjax.runtime import names as texts

_SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation", "holdout", "heldout"),
    "test": ("test", "testing", "tst"),
}
_WORDS = "|".join(word for words in _SPELLINGS.values() for word in words)
_BESIDE = re.compile(rf"(?P<before>.+)[\W_]+(?P<last>{_WORDS})|(?P<first>{_WORDS})[\W_]+(?P<after>.+)")
_MORE = "(?:sets?|data|images?|imgs?|pictures|photos|splits?|samples|files|folder|jpe?gs?|pngs?){0,3}"
_KINDS = {kind: re.compile(f"{_MORE}(?:{'|'.join(words)}){_MORE}[0-9]{{0,4}}") for kind, words in _SPELLINGS.items()}

Part = Literal["whole", "kept", "held out"]


def kind_of(name: str) -> str | None:
    """Tell which split a name means, in any of the spellings in use; None for any other name.

    Example:
      >>> from mapjax.data import splits
      >>> [splits.kind_of(name) for name in ("Train", "training_set", "valid", "test_images", "val2017", "trainval")]
      ['train', 'train', 'val', 'test', 'val', None]
    """
    letters = re.sub(r"[\W_]+", "", name.casefold())
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(letters)), None)


def with_more(name: str) -> tuple[str, str] | None:
    """Return what else a name says beside a split's, and which split that is; None where it has no such word.

    A number says nothing else.

    Example:
      >>> from mapjax.data import splits
      >>> [splits.with_more(name) for name in ("seg_train", "Test cats", "trainA", "01_val", "trains")]
      [('seg', 'train'), ('cats', 'test'), ('a', 'train'), ('', 'val'), None]
    """
    found = _BESIDE.fullmatch(re.sub("(?<=[a-z])(?=[A-Z])", "_", name).casefold())
    kind = None if found is None else kind_of(found["last"] or found["first"])
    if found is None or kind is None:
        return None
    more = found["before"] or found["after"]
    return (more if re.search(r"[^\W\d_]", more) else "", kind)


def find(split: str, available: Collection[str], where: str = "the data") -> str | None:
    """Return the available name of a split, maybe in another spelling ("valid" or "Val" for "val"); None if none is.

    A name as it is asked for goes before one that differs in capitals, that before one of `_SPELLINGS`, and that
    before one with more to it ("val_images", "val2017").

    Raises:
      NoSuchSplit: several may be meant.
    """
    if split in available:
        return split
    kind = kind_of(split)
    alike = [name for name in sorted(available) if kind and kind_of(name) == kind]
    closer = (
        [name for name in sorted(available) if name.casefold() == split.casefold()],
        [name for name in alike if name.casefold() in _SPELLINGS[kind or "val"]],
        alike,
    )
    meant = next(filter(None, closer), [])
    if len(meant) > 1:
        listed = ", ".join(map(texts.shown, meant))
        raise NoSuchSplit(f"{where} has several splits that {split!r} may mean: {listed}; name the one, or join them.")
    return meant[0] if meant else None


def locate(split: str, available: Collection[str], where: str, share: float | int) -> tuple[str, Part]:
    """Return which of the available splits holds the one asked for, and which part of it that is.

    A data set with "train" but without "val" gets one: a share of "train" is held out, and leaves "train".

    Args:
      split: the name asked for.
      available: the names there are.
      where: the data set, for the message.
      share: to hold out; 0 holds nothing out.

    Raises:
      NoSuchSplit: there is none of that name (the message lists those there are), or several may be meant.
      UserError: a share that is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise UserError(f"hold_out={share} must be a share from 0 to below 1.")
    found = find(split, available, where)
    if is_held_out(split, available, share):
        train = find("train", available, where)
        if train is not None and (found == train or kind_of(split) == "val"):
            return train, "kept" if found == train else "held out"
    if found is None:
        listed = ", ".join(map(texts.shown, sorted(available))) or "none"
        raise NoSuchSplit(f"{where} has no split {split!r}; there is: {listed}.")
    return found, "whole"


def is_held_out(split: str, available: Collection[str], share: float | int) -> bool:
    """Tell whether "val", asked for itself or as what "train" is left without, is a share of "train"."""
    asked = kind_of(split) == "train" or split.casefold() in _SPELLINGS["val"]
    return asked and share > 0 and "val" not in map(kind_of, available)


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
    ranked = sorted(names, key=lambda name: hashlib.sha256(texts.encoded(f"{seed}:{name}")).digest())
    held = set(ranked[: min(max(round(share * len(names)), 1), len(names) - 1)])
    return [name for name in names if (name in held) == (part == "held out")]
