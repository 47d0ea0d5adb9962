"""The weights that a run starts from: a file's, published ones by name, or those of another run's folder."""

import pathlib
from typing import Any

from mapjax import weights
from mapjax.config import foreign
from mapjax.runs import trained
from mapjax.weights import transfer


def read(source: str, trusted: foreign.Trusted = False) -> transfer.Given:
    """Read what `init_from` names: a file, a name as "torchvision/resnet50.IMAGENET1K_V2", or a workdir.

    Args:
      trusted: whether a workdir may name modules that are not mapjax's own; or which.

    Raises:
      UserError: no such source, or one that cannot be read.
    """
    path = pathlib.Path(source).expanduser()
    if not path.is_dir():
        return transfer.read(source)
    loaded = trained.load(path, which="best", trusted=trusted)
    size: Any = loaded.config.image_size
    return transfer.Given(source, weights.to_torchvision(loaded.variables), loaded.classes, size)
