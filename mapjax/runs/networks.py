"""The network and the task of a config, and what that task learns from."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mapjax.config import parts
from mapjax.task import Model, Task

UNKNOWN = ("one", "another")  # classes that stand in until the data has told its own


def make_model(config: Any, classes: int) -> Model:
    """Make the network of a config for so many classes."""
    size = config.image_size
    return parts.make("models", config.model.to_dict(), classes=classes, dtype=config.dtype, image_size=size)


def make_task(
    config: Any,
    classes: tuple[str, ...],
    model: Model | None = None,
    class_counts: Callable[[], np.ndarray] | None = None,
    pixel_counts: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Task:
    """Make the task of a config.

    Args:
      classes: their names.
      model: its network; None makes it.
      class_counts, pixel_counts: of the training split, for tasks that weigh classes.
    """
    offered = {"classes": classes, "image_size": config.image_size}
    offered |= {"class_counts": class_counts, "pixel_counts": pixel_counts}
    model = make_model(config, len(classes)) if model is None else model
    return parts.make("tasks", config.task.to_dict(), model=model, **offered)


def needs(config: Any) -> str:
    """Say which kind of label the task of a config learns from; asked before the data is opened, and so its classes."""
    offered = {"model": Model(_not_yet, _not_yet), "classes": UNKNOWN, "image_size": config.image_size}
    return parts.make("tasks", config.task.to_dict(), **offered).needs


def _not_yet(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a task's make() must not call its network: the data that says its classes is not open yet")
