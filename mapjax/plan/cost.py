"""What each instruction of a compiled step costs on one device: FLOPs of its products, bytes, and cycles.

Unlike XLA's own cost analysis, which counts the body of a loop once, everything is multiplied by the turns of the
loops around it. FLOPs are those of matrix products and convolutions, two a multiply-add, without the products with
zeros that padding and dilation put in, and those that a call of cuDNN or cuBLAS stands for; arithmetic element by
element is not counted. Bytes are what an instruction
reads from and writes to the chip's main memory, whole tiles; what the compiler keeps in fast memory is not counted,
and of an array that is only sliced or updated in place, the slice.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from mapjax.plan import hlo, kinds

# These move nothing: they name, group or wait for what others make.
_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "domain",
)  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_JOINED = 'custom_call_target="ConcatBitcast"'  # slices brought one by one, now seen as the whole
_TRANSFERS = ("copy-start", "async-start")
_HANDING_ON = (*_TRANSFERS, "copy-done", "async-done", "bitcast", "get-tuple-element")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
# Calls of NVIDIA's libraries, by the end of their target's name; sides and window of a gradient are those of the
# convolution that it is the gradient of: which of (first operand, second, result) are its map, kernel and output.
_CUDNN = {"Forward": (0, 1, 2), "ForwardGraph": (0, 1, 2), "BiasActivationForward": (0, 1, 2)}
_CUDNN |= {"BackwardInput": (2, 1, 0), "BackwardFilter": (0, 2, 1)}
_CALLS = re.compile(r'custom_call_target="__(cudnn\$conv(\w+)|cublas\$(?:lt\$matmul|gemm)[^"]*)"')


class Work(NamedTuple):
    """An instruction as scheduled, and its costs over a whole step.

    count: how often it runs.
    known: False where it is in a loop whose turns depend on data, which counts as one turn.
    flops, bytes: of all runs.
    cycles: of all runs, as the TPU's compiler estimates; 0 where it does not say.
    kind: of what it does, by kinds.py.
    serves: what a copy between two memories is made for, whose kind it has; of others the instruction itself.
    """

    instruction: hlo.Instruction
    count: int
    known: bool
    flops: float
    bytes: float
    cycles: float
    kind: str = ""
    serves: hlo.Instruction | None = None


def of_module(module: hlo.Module) -> list[Work]:
    """List the scheduled instructions of a step with what they cost; those within a fusion count with it."""
    times = hlo.runs(module)
    found = []
    for name in _scheduled(module):
        computation = module.computations[name]
        count, known = times[name]
        purposes = served(computation)
        for one in computation.instructions.values():
            if (
                one.opcode in _FREE
                or _JOINED in one.attributes
                or one.opcode.endswith("-done")
                or one.opcode == "async-update"
            ):
                continue
            serves = purposes.get(one.name, one)
            cycles = _CYCLES.search(one.attributes)
            found.append(
                Work(
                    one,
                    count,
                    known,
                    count * flops(module, computation, one),
                    count * moved(module, computation, one),
                    count * float(cycles[1] if cycles else 0),
                    kinds.kind_of(module, serves),
                    serves,
                )
            )
    return found


def served(computation: hlo.Computation) -> dict[str, hlo.Instruction]:
    """Say what each copy between the chip's main and its fast memory is made for, by the copy's name.

    A copy into fast memory is made for the first instruction that reads it there, and one out of it for the instruction
    whose result it stores. Where no such instruction is in the computation, the copy is not listed.
    """
    readers: dict[str, hlo.Instruction] = {}
    for one in computation.instructions.values():
        for name in one.operands:
            readers.setdefault(name, one)
    found = {}
    for name, copy in computation.instructions.items():
        if copy.opcode not in _TRANSFERS or copy.op_name:
            continue
        inwards = any(array.space for array in hlo.arrays(_result(copy)))
        one: hlo.Instruction | None = copy
        while one is not None and (one.opcode in _HANDING_ON or _JOINED in one.attributes):
            before = computation.instructions.get(one.operands[0]) if one.operands else None
            one = readers.get(one.name) if inwards else before
        if one is not None and one.opcode not in _FREE:
            found[name] = one
    return found


def flops(module: hlo.Module, computation: hlo.Computation, one: hlo.Instruction) -> float:
    """Count the FLOPs of an instruction's matrix products and convolutions, those inside a fusion included."""
    if one.opcode == "convolution":
        return _convolution(computation, one, (0, 1, 2))
    if one.opcode == "dot":
        return _dot(computation, one)
    if one.opcode == "custom-call" and (call := _CALLS.search(one.attributes)):
        roles = _CUDNN.get(call[2] or "")
        return _convolution(computation, one, roles) if roles else _dot(computation, one)
    if one.opcode in ("fusion", "async-start"):
        inner = [module.computations[name] for name in one.called if name in module.computations]
        return float(sum(flops(module, fused, each) for fused in inner for each in fused.instructions.values()))
    return 0.0


def moved(module: hlo.Module, computation: hlo.Computation, one: hlo.Instruction) -> float:
    """Count the bytes that an instruction reads from and writes to the chip's main memory."""
    fused = module.computations.get(one.called[0]) if one.opcode == "fusion" and one.called else None
    if fused is not None:
        parameters = {int(p.arguments): p.name for p in fused.instructions.values() if p.opcode == "parameter"}
        read = 0.0
        for number, name in enumerate(one.operands):
            whole = _stored(_shape_of(computation, name))
            partly = _read_by(fused, parameters[number]) if number in parameters else None
            # A slice may lie in fast memory while its source does not: what counts is where the source lies.
            read += whole if partly is None else min(whole, partly)
        return read + _written(fused, fused.root, _stored(one.shape))
    if one.opcode == "async-start" and one.called and module.computations[one.called[0]].root.opcode in _SLICES:
        size = sum(array.stored for array in hlo.arrays(_result(one)))
        return float(
            size * sum(_stored(shape) > 0 for shape in (_result(one), _shape_of(computation, one.operands[0])))
        )
    if one.opcode in _SLICES:
        size = _stored(one.shape)
        return size + (size if _stored(_shape_of(computation, one.operands[0])) else 0)
    if one.opcode == "dynamic-update-slice":
        return 2.0 * _stored(_shape_of(computation, one.operands[1]))
    read = sum(_stored(_shape_of(computation, name)) for name in one.operands)
    return read + _stored(_result(one))


def _result(one: hlo.Instruction) -> str:
    """The shape of what an instruction writes; the start of an asynchronous one lists its operands too."""
    parts = hlo.parts(one.shape)
    if one.opcode == "copy-start":
        return parts[0]
    if one.opcode.endswith("-start") and one.opcode != "all-reduce-start" and len(parts) > 1:
        return parts[1]
    return one.shape


def _scheduled(module: hlo.Module) -> Iterator[str]:
    """Name the computations whose instructions run one by one: the entry, and what loops, branches and calls run."""
    seen, waiting = set(), [module.entry]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in module.computations:
            continue
        seen.add(name)
        yield name
        for one in module.computations[name].instructions.values():
            if one.opcode in ("while", "conditional", "call"):
                waiting += one.called


def _stored(shape: str) -> float:
    """Bytes of a shape in the chip's main memory."""
    return float(sum(array.stored for array in hlo.arrays(shape) if array.space == 0))


def _shape_of(computation: hlo.Computation, name: str) -> str:
    one = computation.instructions.get(name)
    return one.shape if one is not None else ""


def _read_by(fused: hlo.Computation, parameter: str) -> float | None:
    """Bytes that a fusion reads of an operand of which it takes slices only, or none where it updates it in place.

    None: all of it.
    """
    total = 0.0
    names = {parameter}
    for one in fused.instructions.values():
        used = names & set(one.operands)
        if not used:
            continue
        if one.opcode == "bitcast":
            names.add(one.name)
        elif one.opcode in _SLICES and one.operands[0] in names and not names & set(one.operands[1:]):
            total += sum(array.stored for array in hlo.arrays(one.shape))
        elif not (one.opcode == "dynamic-update-slice" and one.operands[0] in names):
            return None
    return total


def _written(fused: hlo.Computation, root: hlo.Instruction, whole: float) -> float:
    """Bytes that a fusion writes: the update, where its root updates an operand in place."""
    while root.opcode == "bitcast" and root.operands[0] in fused.instructions:
        root = fused.instructions[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return whole
    return min(whole, float(sum(array.stored for array in hlo.arrays(_shape_of(fused, root.operands[1])))))


def _dot(computation: hlo.Computation, one: hlo.Instruction) -> float:
    left = hlo.arrays(_shape_of(computation, one.operands[0]))
    contracted = re.search(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)[}\]]', one.attributes)
    axes = [int(axis) for axis in contracted[1].replace('"', "").split(",") if axis] if contracted else []
    depth = math.prod(left[0].sizes[axis] for axis in axes) if left else 0
    return 2.0 * math.prod(hlo.arrays(one.shape)[0].sizes) * depth


def _convolution(computation: hlo.Computation, one: hlo.Instruction, roles: tuple[int, int, int]) -> float:
    """Count those of a convolution whose map, kernel and output are these of (first operand, second, result)."""
    labels = _LABELS.search(one.attributes)
    if labels is None:
        return 0.0
    shapes = [*(_shape_of(computation, name) for name in one.operands[:2]), one.shape]
    left, right, out = (hlo.arrays(shapes[role])[0].sizes for role in roles)
    window = _WINDOW.search(one.attributes)
    settings = dict(pair.split("=") for pair in window[1].split()) if window else {}
    batches = re.search(r"batch_group_count=(\d+)", one.attributes)
    # Products of real values along each side of the window; the rest multiplies padding or the gaps of dilation.
    pairs = 1
    for side in sorted(letter for letter in labels[1] if letter.isdigit()):
        pairs *= _real_products(
            left[labels[1].index(side)], out[labels[3].index(side)], _along(settings, int(side))
        )  # fmt: skip
    depth = right[labels[2].index("i")]  # of a grouped convolution the kernel holds one group's channels
    images = left[labels[1].index("b")] // (int(batches[1]) if batches else 1)
    return 2.0 * pairs * depth * right[labels[2].index("o")] * images


class _Window(NamedTuple):
    size: int
    stride: int
    before: int
    gap: int  # between the input's elements, 1 for none
    spread: int  # between the kernel's elements, 1 for none


def _along(settings: dict[str, str], side: int) -> _Window:
    def number(key: str, default: int, read: Callable[[str], int] = int) -> int:
        return read(settings[key].split("x")[side]) if key in settings else default

    before = number("pad", 0, lambda text: int(text.split("_")[0]))
    return _Window(number("size", 1), number("stride", 1), before, number("lhs_dilate", 1), number("rhs_dilate", 1))


def _real_products(length: int, outputs: int, window: _Window) -> int:
    """Count the pairs of an output and a kernel element that meet an element of the input."""
    places = np.arange(outputs)[:, None] * window.stride + np.arange(window.size) * window.spread - window.before
    inside = (places >= 0) & (places <= (length - 1) * window.gap)
    return int((inside & (places % window.gap == 0)).sum())
