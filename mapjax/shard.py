"""Meshes and placement: which device holds which part of the state and of the batch.

Axes: `data` and `fsdp` split the batch; `model` is for channels or heads and `pipe` for layers. Without rules the
parameters are copied to every device; rules are an ordered list of (expression over the path, PartitionSpec).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mapjax import tree
from mapjax.errors import UserError, near

AXES = ("data", "fsdp", "model", "pipe")
BATCH = PartitionSpec(("data", "fsdp"))

Rules = Sequence[tuple[str, PartitionSpec]]


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Make the mesh; one axis may be -1 and takes the devices that are left.

    Raises:
      UserError: an unknown axis, two axes of -1, or sizes whose product is not the number of devices.
    """
    devices = list(devices or jax.devices())
    for axis in sizes:
        if axis not in AXES:
            raise UserError(f"mesh.{axis} is not an axis.{near(axis, AXES)}")
    wanted = [sizes.get(axis, 1) for axis in AXES]
    fixed = math.prod(size for size in wanted if size != -1)
    if wanted.count(-1) > 1 or fixed < 1 or len(devices) % fixed or (-1 not in wanted and fixed != len(devices)):
        shape = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, wanted))
        raise UserError(
            f"mesh ({shape}) does not fit {len(devices)} device(s): the sizes must multiply to that number, "
            "and one of them may be -1 to take what is left."
        )
    shape = tuple(len(devices) // fixed if size == -1 else size for size in wanted)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh, batch: int, key: str = "batch") -> NamedSharding:
    """Give the placement of a batch: its first axis over `data` and `fsdp`.

    Raises:
      UserError: the batch cannot be divided; the nearest sizes that can are named.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch % ways:
        below, above = batch // ways * ways, -(-batch // ways) * ways
        fits = f"{below} or {above}" if below else str(above)
        raise UserError(f"{key}={batch} does not divide over {ways} devices (mesh data×fsdp); use {fits}.")
    return NamedSharding(mesh, BATCH)


def placement(values: PyTree, mesh: Mesh, rules: Rules = ()) -> PyTree:
    """Give every leaf its NamedSharding: that of the first rule found in its path, else a copy on every device.

    Optimizer state and averages hold the parameters' paths within their own, so they follow the parameters.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    named = [(path, NamedSharding(mesh, spec)) for path, spec in rules]
    return tree.first_match(values, named, everywhere, "mesh rules")
