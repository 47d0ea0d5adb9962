"""Weights under other projects' names: torchvision's tensors ↔ our variables, for ResNets and Faster R-CNN.

The trees have the same shape, so a name is translated and a layout transposed; nothing is guessed. Tensors are
NumPy arrays: reading a file is somebody else's affair.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mapjax.errors import UserError, near
from mapjax.task import Variables

Tensors = Mapping[str, np.ndarray]
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
OLD_NAMES = (  # of published detection weights, before torchvision 0.13
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)


class Entry(NamedTuple):
    """Where a leaf of ours stands in torchvision's file, and how its layout changes."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def from_torchvision(tensors: Tensors, variables: Variables, *, pool: int = 7) -> Variables:
    """Fill a network's variables from a torchvision state dict.

    Args:
      tensors: torchvision's names → arrays, of a ResNet or a Faster R-CNN with one inside; the names before
        torchvision 0.13 are understood. variables: of the network to fill, as its `init` or `jax.eval_shape` gives
        them; only their shapes matter. pool: bins per axis of the box head's input.

    Raises:
      UserError: a tensor is missing, has another shape, or has no place in the network.
    """
    given = {_new_name(name): tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    used = set()

    def fill(path, leaf):
        entry = _entry(path, leaf, pool)
        used.add(entry.name)
        if entry.name not in given:
            hint = near(entry.name, given)
            raise UserError(f"the weights have no tensor {entry.name!r}, which this network needs.{hint}")
        tensor = np.asarray(given[entry.name], np.float32)
        needed = entry.to_theirs(np.empty(leaf.shape, np.float32)).shape
        if tensor.shape != needed:
            raise UserError(
                f"tensor {entry.name!r} of the weights has shape {tensor.shape}, but this network needs {needed}:"
                " choose the depth, width and number of classes that the weights were trained with."
            )
        return np.ascontiguousarray(entry.to_ours(tensor))

    filled = jax.tree_util.tree_map_with_path(fill, variables)
    if left := sorted(set(given) - used):
        raise UserError(f"the weights hold {len(left)} tensors that this network has no place for, first {left[0]!r}.")
    return filled


def to_torchvision(variables: Variables, *, pool: int = 7) -> dict[str, np.ndarray]:
    """A network's variables under torchvision's names and layouts: the inverse of `from_torchvision`."""
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    entries = [(_entry(path, leaf, pool), leaf) for path, leaf in leaves]
    return {entry.name: np.ascontiguousarray(entry.to_theirs(np.asarray(leaf))) for entry, leaf in entries}


def _new_name(name: str) -> str:
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _entry(path: tuple[Any, ...], leaf: Any, pool: int) -> Entry:
    *module, last = [str(part.key) for part in path][1:]  # without "params" or "stats"
    name = f"{'.'.join(module)}.{LEAVES[last]}"
    if last != "kernel":
        return Entry(name, np.array, np.array)
    if len(leaf.shape) == 4:
        return Entry(name, lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))
    if module[-1] != "fc6":
        return Entry(name, np.transpose, np.transpose)
    # The first dense layer reads pooled features: channels, rows, columns there; channels last here.
    n = leaf.shape[1]
    return Entry(
        name,
        lambda w: w.reshape(n, -1, pool, pool).transpose(2, 3, 1, 0).reshape(-1, n),
        lambda w: w.reshape(pool, pool, -1, n).transpose(3, 2, 0, 1).reshape(n, -1),
    )
