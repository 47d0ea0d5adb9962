"""Weights under other projects' names: torchvision's tensors ↔ our variables.

The trees have the same shape, so a name is translated and a layout transposed; nothing is guessed. Tensors are
NumPy arrays: reading a file is `files.py`'s affair, and timm's names are turned into torchvision's by `timm.py`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mapjax.errors import UserError
from mapjax.task import Variables
from mapjax.weights.mismatch import more, nearest
from mapjax.weights.stored import shown

Tensors = Mapping[str, np.ndarray]
LEAVES = {  # ours → the last part of theirs; a leaf that is not here has the same name and layout
    "kernel": "weight",
    "map_kernel": "weight",
    "up_kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
    "in_proj_kernel": "in_proj_weight",
}
OLD_NAMES = (  # of published weights: of detectors before torchvision 0.13, and of what stands on a MobileNet
    (re.compile(r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    *((re.compile(rf"(mask_head)\.mask_fcn{i + 1}\.(weight|bias)$"), rf"\1.{i}.0.\2") for i in range(4)),
    (re.compile(r"^backbone\.(body\.)?(\d+)\."), r"backbone.\1features.\2."),
)
_HEAD = re.compile(r"(_head\.conv\.)(\d+)\.(weight|bias)$")  # of a RetinaNet


class Entry(NamedTuple):
    """Where a leaf of ours stands in torchvision's file, and how its layout changes."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


def from_torchvision(tensors: Tensors, variables: Variables) -> Variables:
    """Fill a network's variables from a torchvision state dict.

    Args:
      tensors: torchvision's names → arrays; those of older files are understood.
      variables: of the network to fill, as its `init` or `jax.eval_shape` gives them; only their shapes matter.

    Raises:
      UserError: a tensor is missing, has another shape, or has no place in the network.
    """
    given = new_names(tensors)
    needed = shapes(variables)
    left = sorted(set(given) - set(needed))
    if missing := [name for name in needed if name not in given]:
        raise UserError(
            f"the weights have no tensor {missing[0]!r}, which this network needs{more(missing)}."
            f"{nearest(missing[0], left or given)}"
        )
    for name, shape in needed.items():
        if (found := np.shape(given[name])) != shape:
            raise UserError(
                f"tensor {name!r} of the weights has shape {found}, but this network needs {shape}:"
                " choose the depth, width and number of classes that the weights were trained with."
            )
    if left:
        raise UserError(
            f"the weights hold {len(left)} tensors that this network has no place for, first {shown(left[0])}."
            f"{nearest(left[0], needed)}"
        )
    return replace(given, variables)


def to_torchvision(variables: Variables) -> dict[str, np.ndarray]:
    """A network's variables under torchvision's names and layouts: the inverse of `from_torchvision`."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        values = np.asarray(leaf)
        for entry, part in zip(_entries(path, leaf), values if _is_stacked(path) else [values], strict=True):
            found[entry.name] = np.ascontiguousarray(entry.to_theirs(part))
    return found


def shapes(variables: Variables) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's tensors under torchvision's names; the values, wherever they are, are not looked at."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        nothing = np.broadcast_to(False, leaf.shape[1:] if _is_stacked(path) else leaf.shape)
        found |= {entry.name: entry.to_theirs(nothing).shape for entry in _entries(path, leaf)}
    return found


def replace(tensors: Tensors, variables: Variables) -> Variables:
    """Put torchvision's tensors, as float32 arrays of NumPy's, for the leaves of that name; others stay as they are."""

    def put(path, leaf):
        entries = _entries(path, leaf)
        if any(entry.name not in tensors for entry in entries):
            return leaf
        made = [entry.to_ours(np.asarray(tensors[entry.name], np.float32)) for entry in entries]
        return np.ascontiguousarray(np.stack(made) if _is_stacked(path) else made[0])

    return jax.tree_util.tree_map_with_path(put, variables)


def new_names(tensors: Tensors) -> dict[str, np.ndarray]:
    """Give the tensors of a file under today's names, without counters of batches.

    In a RetinaNet before torchvision 0.13 a head's convolutions and ReLUs are numbered in one row, as 0, 2, 4, 6; an
    FCOS numbers its own in that way, with norms between: 0, 3, 6, 9.
    """
    found = {new_name(name): tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    if not any(name.endswith("classification_head.conv.2.weight") for name in found):
        return found
    return {_HEAD.sub(lambda old: f"{old[1]}{int(old[2]) // 2}.0.{old[3]}", name): found[name] for name in found}


def new_name(name: str) -> str:
    """Give the name of a tensor that has another in some of torchvision's files."""
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _is_stacked(path: tuple[Any, ...]) -> bool:
    return any(str(part.key) == "stack" for part in path)


def _entries(path: tuple[Any, ...], leaf: Any) -> list[Entry]:
    """What a leaf is in torchvision's file: one tensor; of a stack of equal blocks, one a block."""
    if not _is_stacked(path):
        return [_entry(path, leaf)]
    one = _entry(path, jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype))
    before, after = one.name.split("stack.", 1)
    # All layers of a ViT are in the stack; of a stage of a ResNet all blocks but the first.
    first, block = (0, "encoder_layer_") if before.endswith("layers.") else (1, "")
    return [one._replace(name=f"{before}{block}{first + i}.{after}") for i in range(leaf.shape[0])]


def _entry(path: tuple[Any, ...], leaf: Any) -> Entry:
    *module, last = [str(part.key) for part in path][1:]  # without "params" or "stats"
    name = ".".join([*module, LEAVES.get(last, last)])
    shape = leaf.shape
    if last == "kernel" and len(shape) == 4:
        return Entry(name, lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))
    if last == "kernel":
        return Entry(name, np.transpose, np.transpose)
    if last == "up_kernel":  # (rows, columns, inputs, outputs); theirs begins with the inputs
        return Entry(name, lambda w: w.transpose(2, 3, 0, 1), lambda w: w.transpose(2, 3, 0, 1))
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
