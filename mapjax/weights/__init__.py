"""Weights from files and from other projects, under their names and layouts; no pickle is ever executed."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from mapjax.errors import UserError
from mapjax.weights import files, names, timm
from mapjax.weights.translate import from_torchvision, new_name, replace, shapes, to_torchvision

__all__ = ["from_torchvision", "load", "readings", "replace", "save", "shapes", "to_torchvision"]

save = files.write


def load(source: str) -> dict[str, np.ndarray]:
    """Read the tensors of a file (.safetensors, .npz, .pth, .pt) or of a published name, fetched once.

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
    path = pathlib.Path(source).expanduser()
    if path.is_file():
        return files.read(path)
    if path.suffix in files.EXTENSIONS:
        raise UserError(f"{path}: there is no such weight file.")
    return files.read(names.fetch(source))


def readings(tensors: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Give the tensors under their own names, then under torchvision's where they may be another project's."""
    counted = {new_name(name): tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    yield counted
    yield from timm.renamings(counted)
