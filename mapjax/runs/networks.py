"""The network and the task of a config, and what that task learns from."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.task import Model, Task

UNKNOWN = ("one", "another")  # classes that stand in until the data has told its own


def make_model(config: Any, classes: int) -> Model:
    """Make the network of a config for so many classes; for none, of images without labels, it has no classifier."""
    options = {"classes": classes or None, "dtype": config.dtype, "image_size": config.image_size}
    return parts.make("models", config.model.to_dict(), **options)


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
    """Say which kind of label the task of a config learns from; asked before the data is opened, and so its classes.

    A module says it as `NEEDS = "label"`; else its task is made, of what stands in for what is not known yet.

    Raises:
      UserError: no such task, or one that cannot be made of that.
    """
    node, ones = config.task.to_dict(), np.ones(len(UNKNOWN), np.int64)
    said = getattr(sys.modules[parts.find("tasks", node.get("name")).__module__], "NEEDS", None)
    if isinstance(said, str):
        return said
    offered = {"model": Model(_not_yet, _not_yet), "classes": UNKNOWN, "image_size": config.image_size}
    offered |= {"class_counts": lambda: ones, "pixel_counts": lambda: (ones, ones)}
    try:
        return parts.make("tasks", node, **offered).needs
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"task {node['name']!r}: its make() fails where the classes are not known yet ({error}); write what it "
            "learns from into its module, as in NEEDS = 'label'."
        ) from error


@contextlib.contextmanager
def fitting(config: Any) -> Iterator[None]:
    """Tell in a sentence that the parts of a config do not go together: one looks for what another does not give.

    Raises:
      UserError: in place of a KeyError.
    """
    try:
        yield
    except KeyError as error:
        scored = f", metrics={config.metrics!r}" if config.metrics else ""
        raise UserError(
            f"model={config.model.name!r} and task={config.task.name!r}{scored} do not go together: none of them gives "
            f"{error}, which another needs; choose others."
        ) from error


def _not_yet(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a task's make() must not call its network: the data that says its classes is not open yet")
