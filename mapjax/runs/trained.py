"""A trained run from its folder."""

import contextlib
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from mapjax import paths
from mapjax.config import foreign
from mapjax.config import load as configs
from mapjax.data import skeletons
from mapjax.data.skeletons import Points
from mapjax.errors import UserError
from mapjax.runs import networks
from mapjax.runtime import checkpoint, distributed, workdir
from mapjax.task import Task, Variables


class Loaded(NamedTuple):
    """A trained task: what predicts, evaluates, explains and exports starts from.

    learned: the fingerprints of its data: "fingerprint" of what it was trained on, "eval" of what was held out.
    points: the keypoints that it finds of an object.
    """

    config: Any
    classes: tuple[str, ...]
    task: Task
    variables: Variables
    step: int
    learned: Mapping[str, str] = MappingProxyType({})
    points: Points = skeletons.NONE


def load(
    folder: str | pathlib.Path,
    *,
    which: str = "last",
    overrides: Mapping[str, str] | None = None,
    trusted: foreign.Trusted = False,
) -> Loaded:
    """Load a trained run.

    Args:
      folder: its workdir.
      which: "last", "best" (by the task's metric) or a step number.
      overrides: dotted key → value as text, of its config: how it answers, such as "task.views".
      trusted: whether it may name modules that are not mapjax's own, whose code is run; or which.

    Raises:
      UserError: no run there, no checkpoint that can be read, or a key that its config has not.
    """
    folder = pathlib.Path(folder)
    config: Any = configs.saved(workdir.read_json(folder / "config.json"), str(folder / "config.json"), trusted)
    configs.override_all(config, overrides or {})
    classes = _classes(folder / "classes.json")
    task = networks.make_task(config, classes)
    keeper = checkpoint.Checkpoints(folder / "checkpoints", keep=config.keep, read_only=True)
    with contextlib.closing(keeper):
        # Of several processes, the first says which: another may not see the newest yet.
        step = int(distributed.share("step", str(_pick(keeper, folder, which) if distributed.is_chief() else 0)))
        saved, data = keeper.restore_variables(step), keeper.read_meta(step).get("data", {})
    _require_fitting(config, task, saved, folder)
    learned = {name: value for name, value in data.items() if isinstance(value, str)}
    return Loaded(config, classes, task, saved, step, learned, _points(folder / "keypoints.json"))


def _classes(file: pathlib.Path) -> tuple[str, ...]:
    names = workdir.read_json(file)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file} is damaged: it must be a list of the names of the classes; restore it.")
    return tuple(names)


def _points(file: pathlib.Path) -> Points:
    """Read what a run knows of keypoints; a run without any, and one of before there was this file, knows nothing."""
    return skeletons.read(workdir.read_json(file), str(file)) if file.exists() else skeletons.NONE


def _require_fitting(config: Any, task: Task, saved: Variables, folder: pathlib.Path) -> None:
    """Refuse a config, or classes, that make another network than was trained."""
    image = jax.ShapeDtypeStruct((1, *config.image_size, 3), np.uint8)
    try:
        wanted = jax.eval_shape(task.init, jax.random.key(0), {"image": image})
    except KeyError:  # a task whose network looks at more of a batch than its images
        return
    old, new = (dict(zip(paths.paths(tree), map(np.shape, jax.tree.leaves(tree)))) for tree in (saved, wanted))
    for path in sorted(old.keys() | new.keys()):
        if old.get(path) != new.get(path):
            was, is_now = (f"has the shape {one[path]}" if path in one else "is not there" for one in (old, new))
            raise UserError(
                f"{folder}: {path} {was} in the checkpoint, and by the config and classes.json {is_now}; undo what was "
                "changed of the model, the image_size or the classes."
            )


def _pick(keeper: checkpoint.Checkpoints, folder: pathlib.Path, which: str) -> int:
    steps = keeper.steps()
    if not steps:
        raise UserError(f"{folder} holds no checkpoint yet; train it first with mapjax train --workdir {folder}.")
    if which == "last":
        return steps[-1]
    if which == "best":
        return keeper.best_step() or steps[-1]
    if which.isdecimal() and int(which) in steps:
        return int(which)
    raise UserError(f"--checkpoint {which}: {folder} holds {', '.join(map(str, steps))}; or say last or best.")
