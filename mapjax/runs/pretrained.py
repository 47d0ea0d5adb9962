"""Published weights as a trained run: a network that answers without any training here.

torchvision/resnet50.IMAGENET1K_V2       a name, fetched once (mapjax.weights.names)
hf/facebook/detr-resnet-50               likewise
mine.pth                                 a file of the form of a published one (mapjax.weights.recognise)
torchvision/resnet50.DEFAULT:mine.pth    a file, and what it is: the network, how it sees images, its classes
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mapjax import weights
from mapjax.config import load as configs
from mapjax.data import skeletons
from mapjax.errors import UserError
from mapjax.runs import networks
from mapjax.runs.trained import Loaded
from mapjax.task import Batch, Prediction, Result, Task, Variables
from mapjax.weights import class_names, files, fitting, names, recipes
from mapjax.weights.recipes import Recipe
from mapjax.weights.recognise import recognise
from mapjax.weights.stored import Stored

EVAL_BATCH = 8
DATA = {"imagenet": "folder", "coco": "coco", "voc": "voc"}  # format that is meant where --data says a path only


def load(source: str, *, overrides: Mapping[str, str] | None = None) -> Loaded:
    """Load published weights with the network, the classes and the view of images that belong to them.

    Args:
      source: a name, a file, or NAME:FILE.
      overrides: dotted key → value as text, of the config made for them: how they answer, as "task.score_threshold".

    Raises:
      UserError: no such name or file, no network or form that is known here, or tensors that do not fit.
    """
    recipe, tensors = _find(source)
    config = config_of(recipe)
    configs.override_all(config, overrides or {})
    known = class_names.read(recipe.classes).names
    answers = channels_of(recipe)
    task = networks.make_task(config, answers)
    variables = fill(tensors, task, tuple(config.image_size), source)
    if answers != known:
        task = only(task, np.array([known.index(name) if name in known else -1 for name in answers], np.int32))
    points = skeletons.PERSON if {"keypoints"} <= set(recipe.task.get("beside", ())) else skeletons.NONE
    return Loaded(config, known, task, variables, 0, points=points)


def is_named(source: str) -> bool:
    """Tell whether a text means published weights or a file of weights, by its form; else it is a folder, say."""
    return _before_file(source) is not None or _is_name(source) or _is_file(source)


def _find(source: str) -> tuple[Recipe, Stored]:
    """Give what the weights are, and where their tensors are read."""
    if name := _before_file(source):
        file = source.removeprefix(f"{name}:")
        if not file:
            raise UserError(f"{source} names no file after the colon; write {name}:FILE, or {name} alone.")
        return recipes.find(name), files.index(pathlib.Path(file).expanduser())
    if _is_file(source):
        path = pathlib.Path(source).expanduser()
        tensors = files.index(path)
        return recipes.find(recognise(path, tensors.shapes)), tensors
    recipe = recipes.find(source)
    return recipe, files.index(names.fetch(recipe.name))


def _before_file(source: str) -> str | None:
    """Give the name of NAME:FILE."""
    name, colon, _ = source.partition(":")
    return name if colon and _is_name(name) else None


def _is_name(text: str) -> bool:
    return text in names.ALONE or text.startswith(("torchvision/", "timm/", "hf/"))


def _is_file(text: str) -> bool:
    path = pathlib.Path(text).expanduser()
    return path.is_file() or path.suffix.lower() in files.EXTENSIONS


def config_of(recipe: Recipe) -> Any:
    """Make the config of a run that answers as a recipe says; it has nothing to train by."""
    one_by_one = recipe.transform.get("multiple", 0) > 0  # each in a frame of its own
    node = {
        "data": {"name": DATA[recipe.classes]},
        "image_size": recipe.image_size,
        "transform": dict(recipe.transform),
        "model": dict(recipe.model),
        "task": dict(recipe.task),
        "eval_batch": 1 if one_by_one else EVAL_BATCH,
        "init_from": recipe.name,
    }
    return configs.from_dict(node)


def channels_of(recipe: Recipe) -> tuple[str, ...]:
    """Name what each channel of the network's answers stands for; those that stand for nothing, by their number."""
    known = class_names.read(recipe.classes)
    if recipe.channels is None:
        return known.names
    by_id = dict(zip(known.ids, known.names))
    return tuple(
        by_id.get(str(number), f"nothing ({number})") for number in range(recipe.first, recipe.first + recipe.channels)
    )


def fill(tensors: Stored, task: Task, size: tuple[int, int], source: str) -> Variables:
    """Fill the variables of a task's network.

    Args:
      tensors: under torchvision's names, or another project's that are known, with any prefix.
      size: height, width of its images.
      source: of the tensors, for the message.

    Raises:
      UserError: a tensor is missing, has another shape, or has no place.
    """
    image = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
    shapes = jax.eval_shape(task.init, jax.random.key(0), {"image": image})
    part = fitting.best(tensors, weights.shapes(shapes), source)
    try:
        return weights.from_torchvision(part.tensors, shapes)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def only(task: Task, places: np.ndarray) -> Task:
    """Renumber the classes of a detector's answers, and leave out those of channels that stand for none.

    Args:
      places: channel → class; −1 for none.
    """

    def decode(prediction: Prediction, batch: Batch) -> Result:
        found = task.decode(prediction, batch)
        classes = jnp.asarray(places)[found["classes"]]
        valid = found["valid"] & (classes >= 0)
        return {
            **found,
            "classes": jnp.where(valid, classes, 0),
            "valid": valid,
            "boxes": jnp.where(valid[..., None], found["boxes"], 0),
            "scores": jnp.where(valid, found["scores"], 0),
        }

    return task._replace(decode=decode)
