"""Weight files: tensors by name, read and written in three formats, none of which can run anything.

`.safetensors` (the format to prefer), `.npz`, and torch's `.pth`, `.pt`, `.bin` (both its formats; see `pth.py`).
"""

import contextlib
import logging
import math
import os
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from mapjax.errors import UserError, near
from mapjax.weights import pth
from mapjax.weights.pickled import NotPlain

PREFIXES = ("module.", "_orig_mod.")  # of torch's DataParallel and torch.compile
_EXPANSION = 100  # a compressed .npz may hold so many times its own size; more is a zip bomb
_SMALL = 2**30  # bytes, which are no bomb
_log = logging.getLogger(__name__)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the tensors of a weight file.

    In torch's files the weights may be nested in a checkpoint, under `pth.KEYS`: "state_dict", "model",
    "model_state_dict", "params", "ema", the first that holds tensors; which one it was is logged. What else it holds is
    ignored. A prefix that all names have, "module." or "_orig_mod.", is taken off.

    Returns:
      Arrays by name, in the file's order for torch's files: of the dtype in the file (float16 stays float16), only
      bfloat16 and float8 become float32, which is exact. They are to be read only: they may share memory.

    Raises:
      UserError: it is missing, of another format, cut short or damaged, holds executable pickle, or no tensors.
    """
    path = pathlib.Path(path)
    if (extension := path.suffix.lower()) not in _READERS:
        raise UserError(f"{path} is no weight file: its name should end in {', '.join(EXTENSIONS)}.")
    try:
        tensors = _READERS[extension](path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such weight file.{_beside(path)}") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); check the path and permissions."
        ) from error
    except NotPlain as error:
        raise UserError(f"{path} {error}") from error
    if not tensors:
        raise UserError(f"{path} holds no tensors; name a file with weights.")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def write(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> None:
    """Write tensors by name; the file is either the old one or the whole new one.

    Args:
      path: its extension chooses the format; a `.pth` is read by `torch.load(path, weights_only=True)`.
      tensors: name → array, of a dtype that the format has; bfloat16 becomes float32 in `.npz`, which has none.

    Raises:
      UserError: another extension, a dtype that the format does not have, or it cannot be written.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mapjax import weights
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     weights.save(f"{folder}/mine.safetensors", {"fc.bias": np.zeros(3, np.float32)})
      ...     sorted(weights.load(f"{folder}/mine.safetensors"))
      ['fc.bias']
    """
    path = pathlib.Path(path)
    if (extension := path.suffix.lower()) not in _WRITERS:
        raise UserError(f"{path} is no weight file: its name should end in {', '.join(EXTENSIONS)}.")
    dtypes, writer = _WRITERS[extension]
    arrays = {name: _little(np.asarray(tensor)) for name, tensor in tensors.items()}
    if extension == ".npz":
        arrays = {name: _widened(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.name not in dtypes:
            raise UserError(
                f"{path}: {extension} holds no {array.dtype.name}, of which tensor {name!r} is; convert it."
            )
    partial = path.with_name(path.name + ".partial")
    try:
        writer(partial, arrays)
        os.replace(partial, path)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be written ({reason}); name another place.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    tensors, keys = pth.read(path)
    if keys:
        _log.warning("%s: taking the weights under %s", path, " → ".join(map(repr, keys)))
    return tensors


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.stat().st_size:
        raise NotPlain("is empty.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: _widened(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise NotPlain(f"is cut short, or is no safetensors file ({error}).") from error
    except (AttributeError, KeyError, TypeError) as error:  # how safetensors tells of a dtype that NumPy has not
        raise NotPlain(
            f"holds a tensor of a dtype that NumPy does not have ({error}); convert it to float32."
        ) from error


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > max(_SMALL, _EXPANSION * path.stat().st_size):
                raise NotPlain("would unpack to more than a hundred times its size; save it with np.savez.")
            return {entry.filename.removesuffix(".npy"): _read_npy(archive, entry) for entry in entries}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise NotPlain(f"is cut short, or is no .npz file ({error}).") from error


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    name = entry.filename.removesuffix(".npy")
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(file)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:  # NumPy reads a header as Python's text
            raise NotPlain(f"is no .npz file of tensors: {entry.filename!r} in it is not an array.") from error
        if dtype.kind not in "fciub":
            raise NotPlain(
                f"holds {name!r} of dtype {dtype}, which is no number (.npz keeps no bfloat16); leave it out."
            )
        data = file.read()
    if len(data) != dtype.itemsize * math.prod(shape) or not all(0 <= size < 2**48 for size in shape):
        raise NotPlain(f"is damaged: tensor {name!r} has {len(data)} bytes, which is not its size, {shape} of {dtype}.")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _write_safetensors(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(dict(arrays), path)


def _write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    # Not np.savez, whose own arguments are names that a tensor cannot have.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _little(array: np.ndarray) -> np.ndarray:
    """In C order, which safetensors takes for granted, and little-endian."""
    return np.require(array.astype(array.dtype.newbyteorder("<"), copy=False), requirements="C")


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _beside(path: pathlib.Path) -> str:
    known = [entry.name for entry in path.parent.glob("*") if entry.suffix.lower() in _READERS]
    return near(path.name, known) if known else ""


_PLAIN = {f"{kind}{bits}" for kind, sizes in {"int": (8, 16, 32, 64), "uint": (8,)}.items() for bits in sizes} | {
    "bool",
    "float16",
    "float32",
    "float64",
}
_UNSIGNED = {"uint16", "uint32", "uint64"}
_READERS: dict[str, Callable[[pathlib.Path], dict[str, np.ndarray]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
}
_TORCH = (_PLAIN | {"bfloat16", "complex64", "complex128"}, pth.write)
_WRITERS: dict[str, tuple[set[str], Callable[[pathlib.Path, Mapping[str, np.ndarray]], None]]] = {
    ".safetensors": (_PLAIN | _UNSIGNED | {"bfloat16", "complex64"}, _write_safetensors),
    ".npz": (_PLAIN | _UNSIGNED | {"complex64", "complex128"}, _write_npz),
    ".pth": _TORCH,
    ".pt": _TORCH,
    ".bin": _TORCH,
}
EXTENSIONS = tuple(_READERS)
