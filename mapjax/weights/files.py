"""Weight files: tensors by name, read and written in three formats, none of which can run anything.

`.safetensors` (the format to prefer), `.npz`, and torch's `.pth` (both its formats; see `pth.py`). Of `.onnx` the
convolutions are read (`onnx.py`). The content tells which of them a file is, and not its name.
"""

import contextlib
import logging
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from mapjax.errors import UserError, near
from mapjax.weights import budget, npz, onnx, pth, stored, zips
from mapjax.weights.budget import NotPlain
from mapjax.weights.stored import Stored, shown

PREFIXES = ("module.",)  # of torch's DataParallel
_OTHERS = {  # how files begin that are taken for weights, and what they are
    b"\x89HDF": "is an HDF5 file, as Keras writes; convert its tensors to .safetensors",
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself; fetch that with git lfs pull",
    b"<": "is a web page and not the file that it tells of; download that",
    b"{": "is JSON; name the file of tensors that it tells of",
    b"\x1f\x8b": "is a compressed archive; unpack it first",
    b"BZh": "is a compressed archive; unpack it first",
    b"\xfd7zXZ": "is a compressed archive; unpack it first",
}
_log = logging.getLogger(__name__)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the tensors of a weight file.

    Of a checkpoint with several state dicts, as under "model" and "model_ema", the one with the most tensors is taken,
    and of those the averaged one; which it was is logged. (Where a network is to be filled, `fitting.best` asks it
    instead.) A prefix "module." that all names have is taken off, and "_orig_mod." wherever it is.

    Returns:
      Arrays by name, in the file's order for torch's files: of the dtype in the file (float16 stays float16), only
      bfloat16 and float8 become float32, which is exact. They are to be read only: they may share memory.

    Raises:
      UserError: it is missing, of another format, cut short or damaged, holds executable pickle, or no tensors.
    """
    found = index(path)
    sizes = Counter(found.groups.values())
    group = max(sizes, key=lambda group: (sizes[group], stored.is_averaged(group), group != ""))
    if group:
        others = [shown(other[:-1]) for other in sizes if other != group and 2 * sizes[other] >= sizes[group]]
        beside = f", and not those under {', '.join(others[:3])}" if others else ""
        _log.warning("%s: taking the weights under %s%s", path, shown(group[:-1]), beside)
    chosen = [name for name, its in found.groups.items() if its == group]
    tensors = {name.removeprefix(group): tensor for name, tensor in found.read(chosen).items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def index(path: str | os.PathLike[str]) -> Stored:
    """Read the names and shapes of all tensors in a weight file; they themselves are read when they are asked for.

    Raises:
      UserError: as `read`; a tensor that is damaged is told when it is asked for.
    """
    path = pathlib.Path(path)
    with _telling(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise NotPlain("is no regular file; copy what it gives to one.")
        found = _indexer(path)(path)
        if not found.shapes:
            raise NotPlain("holds no tensors; name a file with weights.")

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        with _telling(path):
            return found.read(names)

    return found._replace(read=read)


@contextlib.contextmanager
def _telling(path: pathlib.Path) -> Iterator[None]:
    """Tell in one sentence, which begins with the file's name, why it cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such weight file.{_beside(path)}") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); check the path and permissions."
        ) from error
    except NotPlain as error:
        raise UserError(f"{path} {error}") from error


def _indexer(path: pathlib.Path) -> Callable[[pathlib.Path], Stored]:
    """Tell by its first bytes how a file is read."""
    with path.open("rb") as file:
        start = file.read(32)
        if start.startswith((zips.START, zips.EMPTY)):
            return _of_zip(zips.contents(file)[1])
    if not start:
        raise NotPlain("is empty.")
    if start[8:9] == b"{":  # behind the length of the header, which may begin as a pickle does
        return _index_safetensors
    if start.startswith(b"\x80"):
        return pth.index
    if onnx.begins(start):
        return onnx.index
    for beginning, what in _OTHERS.items():
        if start.startswith(beginning):
            raise NotPlain(f"{what}.")
    raise NotPlain(
        f"is cut short, or of no known format: it begins with {start[:8]!r}; known are .safetensors, .npz, torch's "
        ".pth and .onnx."
    )


def _of_zip(members: Iterable[str]) -> Callable[[pathlib.Path], Stored]:
    names = list(members)
    if any(name.endswith("data.pkl") for name in names):
        return pth.index
    if strange := [name for name in names if not name.endswith(".npy")]:
        raise NotPlain(f"is a zip, but not one of torch.save or NumPy: it holds {shown(strange[0])}.")
    return npz.index


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
        raise UserError(f"{path} is no weight file: its name should end in {_WRITABLE}.")
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


def _index_safetensors(path: pathlib.Path) -> Stored:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length < path.stat().st_size:  # else it is cut short
        budget.require(length, budget.HEADER, "bytes of a header")
    with _reading_safetensors(), safetensors.safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        budget.require(len(names), budget.TENSORS, "tensors")
        shapes = [((name,), tuple(file.get_slice(name).get_shape())) for name in names]

    def read(names: Iterable[tuple[str, ...]]) -> Iterator[np.ndarray]:
        with _reading_safetensors(), safetensors.safe_open(path, framework="numpy") as file:
            for (name,) in names:
                yield _widened(file.get_tensor(name))

    return stored.named(shapes, read)


@contextlib.contextmanager
def _reading_safetensors() -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, OverflowError, ValueError) as error:
        raise NotPlain(f"is cut short, or is no safetensors file ({_reason(error)}).") from error
    except (AttributeError, KeyError, TypeError) as error:  # how safetensors tells of a dtype that NumPy has not
        raise NotPlain(
            f"holds a tensor of a dtype that NumPy does not have ({_reason(error)}); convert it to float32."
        ) from error


def _reason(error: Exception) -> str:
    return shown(str(error))[1:-1]


def _write_safetensors(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(dict(arrays), path)


def _little(array: np.ndarray) -> np.ndarray:
    """In C order, which safetensors takes for granted, and little-endian."""
    return np.require(array.astype(array.dtype.newbyteorder("<"), copy=False), requirements="C")


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _beside(path: pathlib.Path) -> str:
    known = [entry.name for entry in path.parent.glob("*") if entry.suffix.lower() in EXTENSIONS]
    return near(path.name, known) if known else ""


_PLAIN = {f"{kind}{bits}" for kind, sizes in {"int": (8, 16, 32, 64), "uint": (8,)}.items() for bits in sizes} | {
    "bool",
    "float16",
    "float32",
    "float64",
}
_UNSIGNED = {"uint16", "uint32", "uint64"}
_TORCH = (_PLAIN | {"bfloat16", "complex64", "complex128"}, pth.write)
_WRITERS: dict[str, tuple[set[str], Callable[[pathlib.Path, Mapping[str, np.ndarray]], None]]] = {
    ".safetensors": (_PLAIN | _UNSIGNED | {"bfloat16", "complex64"}, _write_safetensors),
    ".npz": (_PLAIN | _UNSIGNED | {"complex64", "complex128"}, npz.write),
    ".pth": _TORCH,
    ".pt": _TORCH,
    ".bin": _TORCH,
}
_WRITABLE = ", ".join(_WRITERS)
EXTENSIONS = (*_WRITERS, ".ckpt", ".onnx", ".pkl", ".tar", ".th")  # what missing files of weights are known by
