"""mapjax: vision models in JAX, where everything is a mapping.

    run = mapjax.fit("detect:bccd", data="voc:DIR")      or   mapjax.load("runs/mine")
    run.predict("photo.jpg")                                  boxes, names and a drawing
    run.evaluate(split="test")                                scores by the field's names

What it exports is imported when it is first used, so that `import mapjax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mapjax.data.source import Source
    from mapjax.errors import UserError
    from mapjax.runs.api import Found, Trained, evaluate, fit, load, predict
    from mapjax.task import Context, Metric, Model, Task

__version__ = "0.2.0"
__all__ = [
    "Context",
    "Found",
    "Metric",
    "Model",
    "Source",
    "Task",
    "Trained",
    "UserError",
    "evaluate",
    "fit",
    "load",
    "predict",
]  # fmt: skip

_HOMES = {"Source": "data.source", "UserError": "errors"} | dict.fromkeys(
    ("Context", "Metric", "Model", "Task"), "task"
)


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'mapjax' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"mapjax.{_HOMES.get(name, 'runs.api')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what is for use, also what is not imported yet."""
    return [*__all__, "__version__"]
