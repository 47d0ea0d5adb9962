"""torch's own files, `.pth` `.pt` `.bin`: read and written without torch, and without executing pickle.

Two formats: since torch 1.6 a zip of `data.pkl` and one uncompressed file per storage; before, five pickles in a row
and then the storages. Either pickle holds plain containers and, for a tensor, which storage it views and how.
"""

import io
import math
import os
import pathlib
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mapjax.weights import budget, stored, zips
from mapjax.weights.budget import NotPlain
from mapjax.weights.pickled import Call, Executable, interpret
from mapjax.weights.stored import Stored, shown

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the format before torch 1.6
STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "UntypedStorage": np.dtype(np.uint8),
}
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")


class Storage(NamedTuple):
    """A run of elements in the file, under a name."""

    name: str
    dtype: np.dtype
    count: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.count * self.dtype.itemsize


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides are counted in elements of `dtype`."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Contents(NamedTuple):
    """What a file's pickle says, and how the bytes of a storage are got out of the open file."""

    value: Any
    reader: Callable[[io.BufferedIOBase], Callable[[Storage], bytes]]


def index(path: pathlib.Path) -> Stored:
    """Read the names and shapes of the tensors of a checkpoint.

    Only the storages of the tensors that are asked for are read. Arrays of one storage share its memory.

    Raises:
      NotPlain: it is not a whole file of this format, holds no tensors by name, or more than tensors and containers.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == zips.START
        value, reader = _zip_contents(file) if is_zip else _legacy_contents(file)
    tensors = dict(stored.walk(value, Tensor))
    if not tensors:
        raise NotPlain("holds no tensors by name; save a state dict: torch.save(model.state_dict(), FILE).")

    used = Counter[str]()
    for tensor in tensors.values():
        used[tensor.storage.name] += math.prod(tensor.shape) * tensor.dtype.itemsize

    def read(names: Iterable[tuple[str, ...]]) -> Iterator[np.ndarray]:
        elements: dict[tuple[str, np.dtype], np.ndarray] = {}
        with path.open("rb") as file:
            bytes_of = reader(file)
            for keys in names:
                tensor = tensors[keys]
                if (place := (tensor.storage.name, tensor.dtype)) not in elements:
                    there = min(tensor.storage.size, path.stat().st_size)  # else it is told to be cut short
                    budget.require(there - used[tensor.storage.name], budget.UNUSED, "bytes that belong to no tensor")
                    elements[place] = _elements(bytes_of(tensor.storage), tensor.dtype)
                yield _view(keys[-1], tensor, elements[place])

    return stored.named(((keys, tensor.shape) for keys, tensor in tensors.items()), read)


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a file that `torch.load(path, weights_only=True)` reads as an OrderedDict of tensors.

    Args:
      tensors: C-contiguous, little-endian, of the dtypes in `STORAGES`.
    """
    names = {dtype: name for name, dtype in STORAGES.items() if name != "UntypedStorage"}
    program = [pickle.PROTO, b"\x02", _ORDERED_DICT, pickle.MARK]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, (name, tensor) in enumerate(tensors.items()):
            program += _written(name, names[tensor.dtype], str(number), tensor)
            with archive.open(f"archive/data/{number}", "w", force_zip64=True) as entry:
                entry.write(tensor.reshape(-1).view(np.uint8).data)
        program += [pickle.SETITEMS, pickle.STOP]
        archive.writestr("archive/data.pkl", b"".join(program))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


def _elements(data: bytes, dtype: np.dtype) -> np.ndarray:
    elements = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
    return elements if dtype.isbuiltin == 1 else elements.astype(np.float32)  # bfloat16 and float8 are not NumPy's


def _view(name: str, tensor: Tensor, elements: np.ndarray) -> np.ndarray:
    steps = zip(tensor.shape, tensor.strides, strict=True)
    end = tensor.offset + sum((size - 1) * stride for size, stride in steps) + 1 if all(tensor.shape) else 0
    if end > len(elements):
        raise NotPlain(
            f"is cut short or damaged: tensor {shown(name)} needs {end} elements of its storage, which has "
            f"{len(elements)}."
        )
    if not all(tensor.shape):
        return np.empty(tensor.shape, elements.dtype)
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False)


def _zip_contents(file: io.BufferedIOBase) -> Contents:
    archive, entries = zips.contents(file)
    root = next((name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")), None)
    if root is None:
        raise NotPlain("is a zip, but not one of torch.save: it has no data.pkl.")
    if root + "constants.pkl" in entries:
        raise NotPlain("is a TorchScript program, not weights; save its tensors: torch.save(m.state_dict(), FILE).")
    zips.require_apart(archive, file)

    def content(name: str, archive: zipfile.ZipFile = archive) -> bytes:
        if name not in entries:
            raise NotPlain(f"is cut short or damaged: its zip has no {shown(name)}.")
        info = entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise NotPlain(f"is not as torch.save writes it: {shown(name)} in it is compressed; save it with torch.")
        with zips.reading(name):
            return archive.read(info)

    def reader(file: io.BufferedIOBase) -> Callable[[Storage], bytes]:
        again = zips.contents(file)[0]

        def bytes_of(storage: Storage) -> bytes:
            name = f"{root}data/{storage.name}"
            if name in entries and (found := entries[name].file_size) != storage.size:
                raise NotPlain(
                    f"is cut short or damaged: storage {shown(storage.name)} has {found} bytes, and its tensors need "
                    f"{storage.size}."
                )
            return content(name, again)

        return bytes_of

    order = entries.get(root + "byteorder")
    if order is not None and (order.file_size != len(b"little") or content(order.filename) != b"little"):
        raise NotPlain(_BIG_ENDIAN)
    budget.require(entries[root + "data.pkl"].file_size, budget.PICKLE, "bytes of a pickle")
    return Contents(interpret(content(root + "data.pkl"), KNOWN, _storage), reader)


def _legacy_contents(file: io.BufferedIOBase) -> Contents:
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    try:
        header = [interpret(file, {}) for _ in range(2)]
    except Executable:
        raise
    except NotPlain:
        header = []
    if header != [MAGIC, VERSION]:
        raise NotPlain(f"is not a file of torch.save: it begins with {start!r}.")
    system = interpret(file, {})
    if not isinstance(system, dict) or not system.get("little_endian"):
        raise NotPlain(_BIG_ENDIAN)
    sizes: dict[str, int] = {}

    def storage_of(identity: Any) -> Storage:
        storage = _storage(identity)
        sizes[storage.name] = storage.size
        return storage

    value = interpret(file, KNOWN, storage_of)
    names = interpret(file, {})
    if not isinstance(names, list) or not all(isinstance(name, str) and name in sizes for name in names):
        raise NotPlain("is damaged: its list of storages is not that of its tensors.")
    places, place = {}, file.tell()
    for name in names:
        places[name] = place
        place += 8 + sizes[name]  # the number of its elements, and they

    def reader(file: io.BufferedIOBase) -> Callable[[Storage], bytes]:
        whole = file.seek(0, os.SEEK_END)

        def bytes_of(storage: Storage) -> bytes:
            if storage.name not in places or places[storage.name] + 8 + storage.size > whole:
                raise NotPlain(f"is cut short or damaged: it has no whole storage {shown(storage.name)}.")
            file.seek(places[storage.name])
            if int.from_bytes(file.read(8), "little") != storage.count:
                raise NotPlain(f"is cut short or damaged: storage {shown(storage.name)} is not where it belongs.")
            return file.read(storage.size)

        return bytes_of

    return Contents(value, reader)


def _storage(identity: Any) -> Storage:
    """Understand a persistent id: ("storage", type, name, device, count), with a view (always None) before 1.6."""
    match identity:
        case ("storage", np.dtype() as dtype, str(name), _, int(count)) if 0 <= count < 2**48:
            return Storage(name, dtype, count)
        case ("storage", np.dtype() as dtype, str(name), _, int(count), None) if 0 <= count < 2**48:
            return Storage(name, dtype, count)
    raise NotPlain("holds a storage of a kind that is not known; load it in today's torch and save it again.")


def _rebuilt(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = False, hooks: Any = None, *more
) -> Tensor:
    return _typed(storage, offset, shape, strides, grad, hooks, storage.dtype, *more)


def _typed(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = False, hooks: Any = None, dtype: Any = None, *more
) -> Tensor:
    numbers = (offset, *shape, *strides)
    whole = all(type(number) is int and 0 <= number < 2**48 for number in numbers)
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype) or not whole or len(shape) != len(strides):
        raise NotPlain("is damaged: it holds a tensor without a storage, a size or strides.")
    if len(shape) > 32 or math.prod(shape) > max(storage.count, budget.ELEMENTS):
        raise NotPlain(
            f"is damaged: it holds a tensor of {len(shape)} dimensions, of {shape[:4]} … elements, over a storage of "
            f"{storage.count}."
        )
    if any(more):
        raise NotPlain("holds a tensor that is conjugated or negated on demand; save tensor.resolve_conj() instead.")
    return Tensor(storage, dtype, offset, tuple(shape), tuple(strides))


def _of_type(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    """Rebuild a tensor of a subclass; only what makes tensors is called."""
    del kind, state
    if function.make not in (_rebuilt, _typed):
        raise NotPlain("is damaged: it holds a tensor that is made by what makes none.")
    return function.make(*arguments)


def _written(name: str, storage: str, number: str, tensor: np.ndarray) -> list[bytes]:
    strides = tuple(stride // tensor.itemsize for stride in tensor.strides)
    return [
        _plain(name),
        pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK,
        pickle.MARK + _plain("storage") + pickle.GLOBAL + f"torch\n{storage}\n".encode(),
        _plain(number) + _plain("cpu") + _plain(tensor.size) + pickle.TUPLE + pickle.BINPERSID,
        _plain(0) + _plain(tensor.shape) + _plain(strides) + pickle.NEWFALSE,
        _ORDERED_DICT + pickle.TUPLE + pickle.REDUCE,
    ]


def _plain(value: str | int | tuple[int, ...]) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]  # without the header and the end


_BIG_ENDIAN = "was written on a big-endian machine; load it in torch there and save it as .safetensors."
_ORDERED_DICT = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
KNOWN: dict[str, Any] = {  # the names that torch's pickles may use, and what they become
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": STORAGES["UntypedStorage"],
    **{f"torch.{dtype.name}": dtype for dtype in STORAGES.values()},
    **{f"torch.uint{bits}": np.dtype(f"uint{bits}") for bits in (16, 32, 64)},
    **{f"torch.{name}": np.dtype(getattr(ml_dtypes, name)) for name in FLOAT8},
    "torch.Size": Call(tuple),
    "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    "torch._utils._rebuild_tensor": Call(_rebuilt),
    "torch._utils._rebuild_tensor_v2": Call(_rebuilt),
    "torch._utils._rebuild_tensor_v3": Call(_typed),
    "torch._utils._rebuild_parameter": Call(lambda tensor, grad, hooks: tensor),
    "torch._utils._rebuild_parameter_with_state": Call(lambda tensor, grad, hooks, state: tensor),
    "torch._tensor._rebuild_from_type_v2": Call(_of_type),
}
