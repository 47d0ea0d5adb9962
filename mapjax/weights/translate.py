"""Weights under other projects' names: torchvision's tensors ↔ our variables.

The trees have the same shape, so a name is translated and a layout transposed; nothing is guessed. Tensors are
NumPy arrays: reading a file is `files.py`'s affair, and timm's names are turned into torchvision's by `timm.py`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mapjax.errors import UserError, near
from mapjax.task import Variables

Tensors = Mapping[str, np.ndarray]
LEAVES = {  # ours → the last part of theirs; a leaf that is not here has the same name and layout
    "kernel": "weight",
    "map_kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "in_proj_kernel": "in_proj_weight",
}
OLD_NAMES = (  # of published weights: of detectors before torchvision 0.13, and of segmentation on a MobileNet
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (re.compile(r"^backbone\.(\d+)\."), r"backbone.features.\1."),
)


class Entry(NamedTuple):
    """Where a leaf of ours stands in torchvision's file, and how its layout changes."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def from_torchvision(tensors: Tensors, variables: Variables) -> Variables:
    """Fill a network's variables from a torchvision state dict.

    Args:
      tensors: torchvision's names → arrays; those of `OLD_NAMES` are understood.
      variables: of the network to fill, as its `init` or `jax.eval_shape` gives them; only their shapes matter.

    Raises:
      UserError: a tensor is missing, has another shape, or has no place in the network.
    """
    given = {new_name(name): tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    needed = shapes(variables)
    for name, shape in needed.items():
        if name not in given:
            raise UserError(f"the weights have no tensor {name!r}, which this network needs.{near(name, given)}")
        if (found := np.shape(given[name])) != shape:
            raise UserError(
                f"tensor {name!r} of the weights has shape {found}, but this network needs {shape}:"
                " choose the depth, width and number of classes that the weights were trained with."
            )
    if left := sorted(set(given) - set(needed)):
        raise UserError(f"the weights hold {len(left)} tensors that this network has no place for, first {left[0]!r}.")
    return replace(given, variables)


def to_torchvision(variables: Variables) -> dict[str, np.ndarray]:
    """A network's variables under torchvision's names and layouts: the inverse of `from_torchvision`."""
    return {entry.name: np.ascontiguousarray(entry.to_theirs(np.asarray(leaf))) for entry, leaf in _entries(variables)}


def shapes(variables: Variables) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's tensors under torchvision's names; the values, wherever they are, are not looked at."""
    none = {entry.name: entry.to_theirs(np.broadcast_to(False, leaf.shape)) for entry, leaf in _entries(variables)}
    return {name: tensor.shape for name, tensor in none.items()}


def replace(tensors: Tensors, variables: Variables) -> Variables:
    """Put torchvision's tensors, as float32 arrays of NumPy's, for the leaves of that name; others stay as they are."""

    def put(path, leaf):
        entry = _entry(path, leaf)
        if entry.name not in tensors:
            return leaf
        return np.ascontiguousarray(entry.to_ours(np.asarray(tensors[entry.name], np.float32)))

    return jax.tree_util.tree_map_with_path(put, variables)


def new_name(name: str) -> str:
    """Give the name of a tensor that has another in some of torchvision's files."""
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _entries(variables: Variables) -> list[tuple[Entry, Any]]:
    return [(_entry(path, leaf), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]]


def _entry(path: tuple[Any, ...], leaf: Any) -> Entry:
    *module, last = [str(part.key) for part in path][1:]  # without "params" or "stats"
    name = ".".join([*module, LEAVES.get(last, last)])
    shape = leaf.shape
    if last == "kernel" and len(shape) == 4:
        return Entry(name, lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))
    if last == "kernel":
        return Entry(name, np.transpose, np.transpose)
    if last == "map_kernel":  # (rows, columns, channels, outputs); theirs reads channel by channel
        rows, columns, channels, outputs = shape
        return Entry(
            name,
            lambda w: w.reshape(outputs, channels, rows, columns).transpose(2, 3, 1, 0),
            lambda w: w.transpose(3, 2, 0, 1).reshape(outputs, -1),
        )
    if last == "in_proj_kernel":  # (inputs, 3 of query key value, outputs)
        return Entry(name, lambda w: w.T.reshape(shape), lambda w: w.reshape(len(w), -1).T)
    if last == "in_proj_bias":
        return Entry(name, lambda b: b.reshape(shape), np.ravel)
    if last == "layer_scale":
        return Entry(name, np.ravel, lambda s: s[:, None, None])
    return Entry(name, np.array, np.array)
