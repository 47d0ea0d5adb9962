"""Weights from files and from other projects, under their names and layouts; no pickle is ever executed."""

import pathlib

import numpy as np

from mapjax.weights import files, names
from mapjax.weights.fitting import readings
from mapjax.weights.stored import Stored
from mapjax.weights.translate import from_torchvision, replace, shapes, to_torchvision

__all__ = ["from_torchvision", "index", "load", "readings", "replace", "save", "shapes", "to_torchvision"]

save = files.write


def load(source: str) -> dict[str, np.ndarray]:
    """Read the tensors of a file (.safetensors, .npz or torch's) or of a published name, fetched once.

    Raises:
      UserError: no such file or name, or one that cannot be read.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from mapjax import weights
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     weights.save(f"{folder}/mine.npz", {"fc.bias": np.zeros(3, np.float32)})
      ...     {name: tensor.shape for name, tensor in weights.load(f"{folder}/mine.npz").items()}
      {'fc.bias': (3,)}
    """
    return files.read(_file(source))


def index(source: str) -> Stored:
    """Read the names and shapes of what `load` reads; of a checkpoint those of all that it holds.

    Raises:
      UserError: no such file or name, or one that cannot be read.
    """
    return files.index(_file(source))


def _file(source: str) -> pathlib.Path:
    """Give the file that is meant, fetched where it is a published name."""
    path = pathlib.Path(source).expanduser()
    return path if path.exists() or path.suffix.lower() in files.EXTENSIONS else names.fetch(source)
