"""The tensors of a file before they are read: their names and shapes, and which state dict of a checkpoint has them."""

import collections
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mapjax.weights import budget
from mapjax.weights.budget import NotPlain

Shape = tuple[int, ...]
_COUNTERS = ("num_batches_tracked", "n_averaged")  # tensors that count batches and updates; no network here has them
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|averaged?|teacher|shadow|swa|polyak)(?:[._]|$)", re.IGNORECASE)


class Stored(NamedTuple):
    """Tensors that can be read.

    shapes: by name; that of a tensor in a checkpoint begins with the keys that lead to it, as in "model.fc.bias".
    groups: name → those keys, as "model."; "" where the file is one state dict.
    read: of some names → the tensors, by name.
    """

    shapes: Mapping[str, Shape]
    groups: Mapping[str, str]
    read: Callable[[Iterable[str]], dict[str, np.ndarray]]


def held(tensors: Mapping[str, Any]) -> Stored:
    """Give tensors that are in memory the form of stored ones."""
    shapes = {name: tuple(np.shape(tensor)) for name, tensor in tensors.items()}
    return Stored(shapes, dict.fromkeys(shapes, ""), lambda names: {name: np.asarray(tensors[name]) for name in names})


def named(
    keyed: Iterable[tuple[tuple[str, ...], Shape]], read: Callable[[Iterable[tuple[str, ...]]], Iterator[np.ndarray]]
) -> Stored:
    """Name the tensors of a file by the keys that lead to them, without what wrappers of modules add to names.

    Args:
      keyed: keys and shape of each tensor; the last key is its name in a state dict.
      read: of keys → the tensors, in this order.

    Raises:
      NotPlain: there are too many, a name is too long, or a shape is none of an array.
    """
    keys_of: dict[str, tuple[str, ...]] = {}
    shapes, groups = {}, {}
    for keys, shape in keyed:
        name = _WRAPPED.sub("", ".".join(keys))
        budget.require(len(name), budget.NAME, "characters of a tensor's name")
        if len(shape) > 32 or not all(0 <= size < 2**48 for size in shape) or math.prod(shape) >= 2**48:
            raise NotPlain(f"is damaged: tensor {shown(name)} has {len(shape)} dimensions, of {shape[:4]} … elements.")
        if name not in keys_of:
            keys_of[name], shapes[name] = keys, tuple(shape)
            groups[name] = _WRAPPED.sub("", "".join(f"{key}." for key in keys[:-1]))
        budget.require(len(keys_of), budget.TENSORS, "tensors")
    return Stored(shapes, groups, lambda names: dict(zip(names, read([keys_of[name] for name in names]), strict=True)))


def walk(value: Any, kind: type, depth: int = 6) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give the values of a kind in nested dicts, each with the keys that lead to it."""
    waiting: collections.deque[tuple[tuple[str, ...], Any]] = collections.deque([((), value)])
    seen = 0
    while waiting:
        keys, value = waiting.popleft()
        for key, one in value.items() if isinstance(value, dict) else ():
            seen += 1
            budget.require(seen, budget.ELEMENTS, "entries of nested mappings")
            if isinstance(key, str) and isinstance(one, kind):
                yield (*keys, key), one
            elif isinstance(key, str) and isinstance(one, dict) and len(keys) < depth - 1:
                waiting.append(((*keys, key), one))


def counts(name: str) -> bool:
    """Tell whether a tensor is a counter, which is passed over."""
    return name.rpartition(".")[2] in _COUNTERS


def is_averaged(name: str) -> bool:
    """Tell whether keys or a prefix are those of weights that were averaged over a training, which answer better."""
    return _AVERAGED.search(name) is not None


def shown(name: str) -> str:
    """Quote a name from a file: without control characters, and not at any length."""
    return repr(name if len(name) <= 100 else f"{name[:60]} … {name[-30:]}")
