"""Which collectives a compiled step holds: kind, bytes, and the mesh axes that they run over."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from mapjax.plan import hlo

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

Groups = list[tuple[int, ...]]

_AXIS = re.compile(r"'([^']+)'=(\d+)")
_NAMED = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


class Collective(NamedTuple):
    """One collective operation of a step.

    kind: one of KINDS.
    bytes: of its result on one device.
    axes: the mesh axes along which the devices of a group differ, in the mesh's order.
    op_name: the path of JAX's operation, "" where the compiler does not say.
    count: how often it runs in a step.
    known: False where it is in a loop whose turns depend on data; each such loop counts as one turn then.
    size: devices of a group.
    """

    kind: str
    bytes: int
    axes: tuple[str, ...]
    op_name: str = ""
    count: int = 1
    known: bool = True
    size: int = 1


def find(text: str, mesh: Mesh) -> list[Collective]:
    """List the collectives of a compiled program, in the order of its text.

    Args:
      text: `compiled.as_text()`.
      mesh: the mesh of the program's arguments; the program numbers its devices in the mesh's order.

    Raises:
      ValueError: the text is no compiled program, or names devices that the mesh does not have.
    """
    return of_module(hlo.parse(text), mesh)


def of_module(module: hlo.Module, mesh: Mesh) -> list[Collective]:
    """List the collectives of a program that is read already; see `find`."""
    times = hlo.runs(module)
    callers = {
        name: one for c in module.computations.values() for one in c.instructions.values() for name in one.called
    }
    found: dict[tuple[str, str], Collective] = {}
    for computation in module.computations.values():
        if computation.name not in times:
            continue
        count, known = times[computation.name]
        for one in computation.instructions.values():
            kind = one.opcode.removesuffix("-start")
            kind = "all-to-all" if kind == "ragged-all-to-all" else kind
            if kind not in KINDS:
                continue
            caller = callers.get(computation.name)
            shape = _result(one)
            # A TPU fuses a reduce-scatter as an all-reduce of which each device keeps its slice.
            if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
                kind, shape = "reduce-scatter", computation.root.shape
            groups = group_devices(one, mesh.size)
            name = one.op_name or (caller.op_name if caller is not None else "")
            size = sum(array.bytes for array in hlo.arrays(shape))
            ways = 2 if kind == "collective-permute" else max(map(len, groups), default=1)
            made = Collective(kind, size, axes_of(groups, mesh), name, count, known, ways)
            found[computation.name, one.name] = made
    return list(found.values())


def group_devices(one: hlo.Instruction, devices: int) -> Groups:
    """Give the groups of devices (positions in the mesh) among which a collective runs; for a permute, its pairs.

    All four ways of writing them are read: lists, iota ([2,4]<=[8], [4,2]<=[2,2,2]T(0,2,1)), axes of a mesh
    (mesh['a'=2,'b'=4] {'a'}), and nothing at all for all devices.
    """
    attributes = one.attributes
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", attributes):
        return _lists(pairs[1])
    start = re.search(r"replica_groups=", attributes)
    if start is None:
        return [tuple(range(devices))]
    rest = attributes[start.end() :]
    if rest.startswith("{"):
        listed = re.match(r"\{((?:\{[\d,]*\},?)*)\}", rest)
        return (_lists(listed[1]) if listed else []) or [tuple(range(devices))]
    if rest.startswith("["):
        return [tuple(map(int, row)) for row in _iota(rest)]
    if rest.startswith("mesh["):
        return [tuple(map(int, row)) for row in _by_axes(rest)]
    raise ValueError(f"replica groups written in an unknown way: {rest[:80]}")


def axes_of(groups: Groups, mesh: Mesh) -> tuple[str, ...]:
    """Name the mesh axes along which the devices of a group differ.

    Raises:
      ValueError: a device that the mesh does not have.
    """
    shape = mesh.devices.shape
    if any(not 0 <= device < mesh.size for group in groups for device in group):
        raise ValueError(f"the collective names devices beyond the {mesh.size} of the mesh")
    differ = np.zeros(len(shape), bool)
    for group in groups:
        places = np.stack(np.unravel_index(np.asarray(group, int), shape), axis=-1)
        differ |= (places != places[:1]).any(axis=0)
    return tuple(str(name) for name, differs in zip(mesh.axis_names, differ) if differs)


def _result(one: hlo.Instruction) -> str:
    """The shape of the result; the start of a gather or permute holds its operand and its result."""
    if one.opcode in ("all-gather-start", "collective-permute-start"):
        return hlo.parts(one.shape)[1]
    return one.shape


def _lists(text: str) -> Groups:
    return [tuple(int(number) for number in inner.split(",") if number) for inner in re.findall(r"\{([\d,]*)\}", text)]


def _numbers(text: str | None) -> Sequence[int]:
    return [int(number) for number in (text or "").split(",") if number]


def _iota(text: str) -> np.ndarray:
    """[4,2]<=[2,2,2]T(0,2,1): count through the second shape, transpose it, and reshape it to the first."""
    found = re.match(r"\[([\d,]+)\](?:<=\[([\d,]+)\](?:T\(([\d,]+)\))?)?", text)
    if found is None or not found[2]:
        raise ValueError(f"replica groups written in an unknown way: {text[:80]}")
    return _counted(found[2], found[3]).reshape(_numbers(found[1]))


def _counted(shape: str, order: str | None) -> np.ndarray:
    devices = np.arange(np.prod(_numbers(shape))).reshape(_numbers(shape))
    return devices.transpose(_numbers(order)) if order else devices


def _by_axes(text: str) -> np.ndarray:
    """mesh['a'=2,'b'=4] {'a'}: devices that differ along a; 'a':(2)4 is the part of size 4 after one of size 2."""
    found = re.match(r"mesh\[([^\]]*(?:\[[^\]]*\][^\]]*)*)\]([^{]*)\{([^}]*)\}", text)
    if found is None:
        raise ValueError(f"replica groups written in an unknown way: {text[:80]}")
    sizes = {name: int(size) for name, size in _AXIS.findall(found[1])}
    permuted = re.search(r"device_ids=\(?\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?", found[1] + found[2])
    devices = np.arange(int(np.prod(list(sizes.values()))))
    if permuted:
        devices = _counted(permuted[2] or permuted[1], permuted[3]).reshape(-1)
    chosen = [(name, int(before or 1), int(size or sizes[name])) for name, before, size in _NAMED.findall(found[3])]
    # Cut every axis where a chosen part of it begins and ends; then a group is what differs along the chosen parts.
    shape: list[int] = []
    inside: list[int] = []
    for name, length in sizes.items():
        wanted = sorted((before, size) for axis, before, size in chosen if axis == name)
        done = 1
        for before, size in wanted:
            shape += [before // done, size]
            inside.append(len(shape) - 1)
            done = before * size
        shape.append(length // done)
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    ways = int(np.prod([shape[axis] for axis in inside]))
    return devices.reshape(shape).transpose([*outside, *inside]).reshape(-1, ways)
