"""ONNX files: the kernels and biases of their convolutions, in the order of the graph; nothing of the graph is run.

A file is a protocol buffer (`onnx.proto`): messages of numbered fields, each a number or a run of bytes, which may be a
message again. Only the fields that are needed are looked at; what they say of lengths is held to the bytes there are.
"""

import math
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mapjax.weights import budget, stored
from mapjax.weights.budget import NotPlain
from mapjax.weights.stored import Stored, shown

START = b"\x08"  # the key of the first field, the version of the format, in front of the version
VERSIONS = range(3, 32)
BUFFER = 2**31  # bytes; a protocol buffer has no more
DTYPES = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8"), 16: np.dtype(ml_dtypes.bfloat16)}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how a field is written
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5  # fields of a model and of a graph
_INPUT, _OPERATION = 1, 4  # of a node
_DIMS, _DTYPE, _FLOATS, _NAME, _RAW, _PLACE = 1, 2, 4, 8, 9, 14  # of a tensor
_NUMBERED = re.compile(r"(onnx::\w+_)?\d+")  # names that say nothing, of tensors that an exporter has made
_DAMAGED = "is cut short or damaged: {} of its protocol buffer ends beyond it."

Field = tuple[int, int, Any]  # number, how it is written, value


class Tensor(NamedTuple):
    """A tensor of the file: `values` are its bytes there."""

    shape: tuple[int, ...]
    dtype: np.dtype
    values: memoryview


def begins(start: bytes) -> bool:
    """Tell whether a file that begins so may be an ONNX file, which has no mark of its own."""
    return len(start) > 1 and start[:1] == START and start[1] in VERSIONS


def index(path: pathlib.Path) -> Stored:
    """Read the names and shapes of what the convolutions of a graph hold.

    They have the names of the file, as "head.stems.0.conv.weight", unless some of these are mere numbers, as
    exporters name what they have folded; then they are "Conv.0.weight", "Conv.0.bias", "Conv.1.weight" … by the order
    in the graph.

    Raises:
      NotPlain: it is not a whole file of this format, holds no convolutions with weights, or more than weights need.
    """
    budget.require(path.stat().st_size, BUFFER, "bytes of a protocol buffer")
    content, left = memoryview(path.read_bytes()), iter(range(budget.allowed(budget.ELEMENTS)))
    graphs = [value for number, kind, value in fields(content, left) if (number, kind) == (_GRAPH, _BYTES)]
    if not graphs:
        raise NotPlain("is no ONNX file, or holds no graph; export the network with its weights.")
    tensors = dict(_tensors(graphs[0], left))
    uses = list(_convolutions(graphs[0], left))
    named = [(name, new) for number, names in enumerate(uses) for name, new in _named(number, names, tensors)]
    if not named:
        raise NotPlain("holds no convolutions with weights of their own; export the network with its weights.")
    if not any(_NUMBERED.fullmatch(name) for name, _ in named):
        named = [(name, name) for name, _ in named]
    of = {new: tensors[name] for name, new in named}

    def read(names: Iterable[tuple[str, ...]]) -> Iterator[np.ndarray]:
        for (name,) in names:
            yield _array(of[name])

    return stored.named((((name,), tensor.shape) for name, tensor in of.items()), read)


def _named(number: int, names: list[str], tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Pair what a convolution holds with names by its number."""
    for name, part in zip(names[1:3], ("weight", "bias")):
        if name in tensors:
            yield name, f"Conv.{number}.{part}"


def fields(message: memoryview, left: Iterator[int]) -> Iterator[Field]:
    """Give the fields of a message; a run of bytes as a view of them.

    Args:
      left: has an item for each field that may still be read of the file.

    Raises:
      NotPlain: a field ends beyond the message, or is none; or there are too many.
    """
    place = 0
    while place < len(message):
        if next(left, None) is None:
            raise budget.exceeded(budget.allowed(budget.ELEMENTS), "fields of a protocol buffer")
        key, place = varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = varint(message, place)
        else:
            if kind == _BYTES:
                length, place = varint(message, place)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise NotPlain(f"is damaged, or no ONNX file: a field of its protocol buffer has the kind {kind}.")
            if length > len(message) - place:
                raise NotPlain(_DAMAGED.format("a field"))
            value, place = message[place : place + length], place + length
        yield number, kind, value


def varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read a number of 1 to 10 bytes, seven bits in each, the lowest first: (it, the place behind it).

    Raises:
      NotPlain: it has no end.
    """
    value = 0
    for i in range(10):
        if place + i >= len(message):
            break
        byte = message[place + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value & (2**64 - 1), place + i + 1
    raise NotPlain(_DAMAGED.format("a number"))


def _convolutions(graph: memoryview, left: Iterator[int]) -> Iterator[list[str]]:
    """Give the names of the inputs of each convolution."""
    for number, kind, node in fields(graph, left):
        if (number, kind) != (_NODE, _BYTES):
            continue
        inputs, operation = [], b""
        for part, how, value in fields(node, left):
            if (part, how) == (_INPUT, _BYTES):
                inputs.append(_text(value))
            elif (part, how) == (_OPERATION, _BYTES):
                operation = bytes(value[:8])
        if operation == b"Conv":
            yield inputs


def _tensors(graph: memoryview, left: Iterator[int]) -> Iterator[tuple[str, Tensor]]:
    """Give the floating-point tensors of a graph by name."""
    for number, kind, value in fields(graph, left):
        if (number, kind) == (_INITIALIZER, _BYTES):
            name, tensor = _tensor(value, left)
            if tensor is not None:
                yield name, tensor


def _tensor(message: memoryview, left: Iterator[int]) -> tuple[str, Tensor | None]:
    """Read the head of a tensor; None for one of another type."""
    name, dims, code, elsewhere = "", list[int](), 0, False
    values = memoryview(b"")
    for number, kind, value in fields(message, left):
        if number == _DIMS:
            dims += [value] if kind == _VARINT else list(_packed(value)) if kind == _BYTES else []
            budget.require(len(dims), 32, "dimensions of a tensor")
        elif (number, kind) == (_DTYPE, _VARINT):
            code = value
        elif (number, kind) == (_NAME, _BYTES):
            name = _text(value)
        elif number in (_RAW, _FLOATS) and kind == _BYTES:
            values = value
        elif (number, kind) == (_PLACE, _VARINT):
            elsewhere = value != 0
    if code not in DTYPES:
        return name, None
    if elsewhere:
        raise NotPlain(f"has the tensor {shown(name)} in a file beside it; export it with all weights in one file.")
    dtype = DTYPES[code]
    if math.prod(dims) * dtype.itemsize != len(values):
        raise NotPlain(f"is damaged: the tensor {shown(name)} has {len(values)} bytes, and {tuple(dims[:4])} elements.")
    return name, Tensor(tuple(dims), dtype, values)


def _packed(values: memoryview) -> Iterator[int]:
    place = 0
    while place < len(values):
        value, place = varint(values, place)
        yield value


def _text(value: memoryview) -> str:
    budget.require(len(value), budget.NAME, "characters of a tensor's name")
    return bytes(value).decode("utf-8", "replace")


def _array(tensor: Tensor) -> np.ndarray:
    values = np.frombuffer(tensor.values, tensor.dtype).reshape(tensor.shape)
    return values.astype(np.float32) if tensor.dtype == ml_dtypes.bfloat16 else values
