"""Meshes and placement: which device holds which part of the state and of the batch.

Axes: `data` and `fsdp` split the batch. `fsdp` also splits every large parameter, which is gathered where it is used
(ZeRO-3, Rajbhandari et al. 2020). `model` splits channels and heads, and `pipe` blocks, by an ordered list of
(expression over the path, PartitionSpec): the first that is found in a path holds. What no rule splits is on every
device.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from mapjax import paths
from mapjax.errors import UserError, near

# The more the devices along an axis have to say to each other, the further back: the last are the nearest neighbours.
AXES = ("data", "fsdp", "pipe", "model")
BATCH = PartitionSpec(("data", "fsdp"))

FSDP_LEAST = 1024  # numbers; to gather a smaller array costs more than it saves

STACK = "stack/"  # in the paths of equal blocks, whose first axis is the number of the block

AnyMesh = Mesh | AbstractMesh
Rules = Sequence[tuple[str, PartitionSpec]]


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Make the mesh; one axis may be -1 and takes the devices that are left.

    Raises:
      UserError: an unknown axis, two axes of -1, sizes whose product is not the number of devices, or devices that
        cannot be laid out so.
    """
    devices = list(devices or jax.devices())
    for axis in sizes:
        if axis not in AXES:
            raise UserError(f"mesh.{axis} is not an axis.{near(axis, AXES)}")
    wanted = [sizes.get(axis, 1) for axis in AXES]
    fixed = math.prod(size for size in wanted if size != -1)
    named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, wanted))
    if wanted.count(-1) > 1 or fixed < 1 or len(devices) % fixed or (-1 not in wanted and fixed != len(devices)):
        raise UserError(
            f"mesh ({named}) does not fit {len(devices)} device(s): the sizes must multiply to that number, "
            "and one of them may be -1 to take what is left."
        )
    shape = tuple(len(devices) // fixed if size == -1 else size for size in wanted)
    try:
        laid_out = _lay_out(shape, devices)
    except (AssertionError, NotImplementedError, ValueError) as error:  # as JAX says that it knows no way
        raise UserError(
            f"mesh ({named}) cannot be laid out on these {len(devices)} device(s), which are neither one whole slice "
            "nor slices of one size; start on others, or on some of them."
        ) from error
    return Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _lay_out(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """Lay devices out in a shape, so that those along its last axes are joined by the fastest links.

    Slices of a pod, or hosts, are joined by slow ones: `data` crosses these, then the axes after it, `model` only where
    it is larger than a slice or host.
    """
    unit, count = _islands(devices)
    if count == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    across, left = [], count
    for size in shape:
        across.append(math.gcd(size, left))
        left //= across[-1]
    inside = [size // part for size, part in zip(shape, across)]
    by_process = unit == "process_index"
    return mesh_utils.create_hybrid_device_mesh(
        inside, across, devices, process_is_granule=by_process, allow_split_physical_axes=True
    )


def _islands(devices: list[Any]) -> tuple[str, int]:
    """Say which attribute of devices numbers what fast links join, slices or else processes, and how many there are.

    Islands of different sizes count as one: no mesh has an axis between them.
    """
    # The fast links of a TPU slice go from host to host.
    units = ("slice_index",) if devices[0].platform == "tpu" else ("slice_index", "process_index")
    for unit in units:
        members = Counter(getattr(device, unit, 0) for device in devices)
        if len(members) > 1 and len(set(members.values())) == 1:
            return unit, len(members)
    return "", 1


def batch_sharding(mesh: Mesh, batch: int, key: str = "batch") -> NamedSharding:
    """Give the placement of a batch: its first axis over `data` and `fsdp`.

    Raises:
      UserError: the batch cannot be divided; the nearest sizes that can are named.
    """
    parts = ways(mesh)
    if batch % parts:
        below, above = batch // parts * parts, -(-batch // parts) * parts
        fits = f"{below} or {above}" if below else str(above)
        raise UserError(f"{key}={batch} does not divide over {parts} devices (mesh data×fsdp); use {fits}.")
    return NamedSharding(mesh, BATCH)


def size(mesh: AnyMesh, axis: str) -> int:
    """Give the devices along an axis; 1 without a mesh."""
    return mesh.shape.get(axis, 1)


def ways(mesh: AnyMesh) -> int:
    """Give the number of parts that a batch is split into; 1 without a mesh."""
    return size(mesh, "data") * size(mesh, "fsdp")


def within(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a jitted function with the mesh in context, so that what it traces may ask for it."""

    def called(*arguments: Any) -> Any:
        with jax.set_mesh(mesh):
            return function(*arguments)

    return called


def per_example(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let each device run `function` on its own examples, without a word to the others.

    For kernels that handle each example by itself but whose loops, sorts or gathers the compiler would not split
    over the batch: RoIAlign, suppression, sampling.

    Args:
      function: of pytrees of arrays whose first axis is the batch, to such a pytree; no statistics over the batch.
    """

    def mapped(*batched: PyTree) -> PyTree:
        if ways(jax.sharding.get_abstract_mesh()) == 1:
            return function(*batched)
        split = jax.shard_map(function, in_specs=BATCH, out_specs=BATCH, axis_names={"data", "fsdp"}, check_vma=False)
        return split(*batched)

    return mapped


def read_rules(pairs: Any) -> Rules:
    """Read the rules of a config: pairs of an expression and a tuple with an axis, or None, for each axis of the array.

    Raises:
      UserError: no such pairs, or an axis that does not exist.
    """
    found = []
    for pair in pairs:
        try:
            expression, spec = pair
            names = [name for part in spec for name in _axes(part)]
            re.compile(expression)
        except (TypeError, ValueError, re.error) as error:
            raise UserError(f"rules={pair!r}: write pairs, as in (('mlp/0/kernel$', (None, 'model')),).") from error
        for name in names:
            if name not in AXES:
                raise UserError(f"rules: {expression!r} names the axis {name!r}.{near(str(name), AXES)}")
        found.append((expression, PartitionSpec(*(tuple(part) if isinstance(part, list) else part for part in spec))))
    return found


def placement(values: PyTree, mesh: AnyMesh, rules: Rules = (), *, strict: bool = False) -> PyTree:
    """Give every leaf its NamedSharding: by the first rule found in its path, and over `fsdp` where it is large.

    Optimizer state and averages hold the parameters' paths within their own, so they follow the parameters.

    Args:
      values: arrays or their shapes.
      rules: an axis that does not divide the array is left out.
      strict: the rules are a person's, so that each must match a leaf, each array of two axes or more must have a
        rule, and its axes must divide it.

    Raises:
      UserError: what `strict` asks for does not hold.
    """
    if strict:
        paths.first_match(values, [(expression, 0) for expression, _ in rules], 0, "rules")

    def place(path: str, leaf: Any) -> NamedSharding:
        spec = next((spec for expression, spec in rules if re.search(expression, path)), None)
        if strict and spec is None and len(leaf.shape) > 1:
            raise UserError(f"rules: none matches {path} {leaf.shape}; end them with ('.', ()) to copy what is left.")
        parts = _fitting(path, leaf.shape, tuple(spec or ()), mesh, strict)
        parts = _over_fsdp(leaf.shape, parts, mesh)
        while parts and parts[-1] is None:
            parts.pop()
        return NamedSharding(mesh, PartitionSpec(*parts))

    return paths.map_with_path(place, values)


def gathered(places: PyTree) -> PyTree:
    """Give the placements with which parameters are used: theirs, but whole along `fsdp`.

    Those of a stack of blocks stay as they are: each block is gathered in its turn, by `use`. The others are asked for
    all at once, but a TPU's compiler gathers each before its use, forward and again backward: the step of a ViT of 8
    layers, 97 MiB whole, has 16 MiB of temporaries on each of 8 chips, and 4 MiB where its layers are stacked.
    """

    def whole(path: str, place: NamedSharding) -> NamedSharding:
        if STACK in path:
            return place
        parts = [[axis for axis in _axes(part) if axis != "fsdp"] for part in place.spec]
        spec = PartitionSpec(*(part[0] if len(part) == 1 else tuple(part) or None for part in parts))
        return NamedSharding(place.mesh, spec)

    return paths.map_with_path(whole, places)


def use(block: PyTree, rules: Rules) -> PyTree:
    """Gather one block of a stack along `fsdp`, where there is such an axis in context; it stays split by its rules.

    Args:
      block: its parameters, without the axis that numbers the blocks.
      rules: of a block by itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if size(mesh, "fsdp") == 1:
        return block

    def whole(path: str, leaf: Any) -> Any:
        spec = next((spec for expression, spec in rules if re.search(expression, path)), PartitionSpec())
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*_fitting(path, leaf.shape, tuple(spec), mesh)))

    return paths.map_with_path(whole, block)


def require_used(places: PyTree, mesh: AnyMesh) -> None:
    """Refuse a mesh with devices that would only repeat what others do.

    Raises:
      UserError: the mesh has an axis `model` or `pipe` that no parameter is split over.
    """
    used = {axis for place in jax.tree.leaves(places) for part in place.spec for axis in _axes(part)}
    for axis, mend in (("model", "rules"), ("pipe", "model.stacked=True, of a ViT or ResNet")):
        if size(mesh, axis) > 1 and axis not in used:
            raise UserError(
                f"mesh.{axis}={size(mesh, axis)} splits no parameter of this network; set {mend}, or mesh.{axis}=1."
            )


def _axes(part: Any) -> tuple[Any, ...]:
    """List the axes of the mesh that one axis of an array is split over: part of a PartitionSpec."""
    return () if part is None else tuple(part) if isinstance(part, tuple | list) else (part,)


def _fitting(
    path: str, shape: tuple[int, ...], spec: tuple[Any, ...], mesh: AnyMesh, strict: bool = False
) -> list[Any]:
    """Give the axes of the mesh for each axis of an array, without those that do not divide it."""
    if strict and len(spec) > len(shape):
        raise UserError(f"rules: {spec} has more axes than {path} {shape}.")
    parts: list[Any] = [None] * len(shape)
    for i, part in enumerate(spec[: len(shape)]):
        count = math.prod(size(mesh, axis) for axis in _axes(part))
        if shape[i] % count == 0:
            parts[i] = part if count > 1 else None
        elif strict:
            raise UserError(f"rules: axis {i} of {path} {shape} does not divide over {count} devices ({part}).")
    return parts


def _over_fsdp(shape: tuple[int, ...], parts: list[Any], mesh: AnyMesh) -> list[Any]:
    """Split the longest axis that is still whole, and divides, over `fsdp`; small arrays stay as they are."""
    count = size(mesh, "fsdp")
    free = [i for i, part in enumerate(parts) if part is None and shape[i] % count == 0]
    if count == 1 or any("fsdp" in _axes(part) for part in parts) or math.prod(shape) < FSDP_LEAST or not free:
        return parts
    longest = max(free, key=lambda i: shape[i])
    return [("fsdp" if i == longest else part) for i, part in enumerate(parts)]
