"""Test-time augmentation: a detector sees an image in several views, and its answers are fused by weighted boxes.

It maps a Task to one that answers so; what it learns stays as it is. Each view has one shape, so all are one program.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mapjax.errors import UserError
from mapjax.ops import box_fusion
from mapjax.ops import boxes as box_ops
from mapjax.ops import images as image_ops
from mapjax.ops.resize import bilinear
from mapjax.sharding import mesh as shard
from mapjax.task import DETECTION, Batch, Prediction, Result, Task, Variables


def by_views(task: Task, *, flip: bool = False, scales: Sequence[float | int] = (1.0,)) -> Task:
    """Let a detector answer by several views of an image; the task itself, where there is but the one.

    Args:
      task: its results hold "boxes", "scores", "classes" and "valid", and nothing else.
      flip: it sees the mirrored image too.
      scales: the sizes in which it sees the image, as factors of the frame's sides.

    Raises:
      UserError: scales that cannot be; a task that learns more than boxes, or when it answers, a result that is not of
        boxes alone.

    Example:
      >>> from mapjax.models.detectors import retinanet
      >>> from mapjax.tasks.detection import augmented, dense
      >>> task = dense.make(model=retinanet.make(backbone={"name": "resnet", "depth": 18}, classes=2))
      >>> augmented.by_views(task) is task, augmented.by_views(task, flip=True).metrics
      (True, ('precision',))
    """
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise UserError(f"task.scales={tuple(scales)} must be factors of the image's size, such as (0.8, 1.0, 1.25).")
    views = list(itertools.product(scales, (False, True) if flip else (False,)))
    if views == [(1, False)]:
        return task
    if task.needs != "boxes":  # told before a training, and not by its first evaluation
        raise _more(task.needs)

    def predict(variables: Variables, batch: Batch, key) -> Prediction:
        found = [task.predict(variables, view_of(task, batch, *view), key) for view in views]
        return {"features": found[0].get("features", {}), "views": {str(n): one for n, one in enumerate(found)}}

    def decode(prediction: Prediction, batch: Batch) -> Result:
        given = enumerate(views)
        return fused([task.decode(prediction["views"][str(n)], view_of(task, batch, *view)) for n, view in given])

    return task._replace(predict=predict, decode=decode)


def view_of(task: Task, batch: Batch, scale: float | int, mirrored: bool) -> Batch:
    """Give a batch with its images in another size, and mirrored; the matrix says so."""
    height, width = batch["image"].shape[1:3]
    if (scale, mirrored) == (1, False):
        return batch
    size = tuple(max(round(side * scale), 1) for side in (height, width))
    images = image_ops.normalized(batch["image"], task.normalize)
    images = images if size == (height, width) else bilinear(images, size)
    onto = np.diag(np.array([size[1] / width, size[0] / height, 1], np.float32))
    if mirrored:
        images, onto = images[:, :, ::-1], np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1]], np.float32) @ onto
    seen = {**batch, "image": images, "matrix": onto @ batch["matrix"]}
    if "proposals" in batch:
        onto = jnp.broadcast_to(onto, batch["matrix"].shape)
        seen["proposals"] = box_ops.transform(batch["proposals"], onto)
    return seen


def fused(found: Sequence[Result]) -> Result:
    """Fuse answers to the same images, in their original pixels, to one of the length of the first.

    Raises:
      UserError: answers that hold more than boxes.
    """
    if more := sorted(found[0].keys() - set(DETECTION)):
        raise _more(", ".join(more))
    count = found[0]["boxes"].shape[1]

    def one(answers: Sequence[Result]) -> Result:
        boxes, scores, classes, valid = (jnp.concatenate([answer[key] for answer in answers]) for key in DETECTION)
        joined = box_fusion.fuse(boxes, scores, classes, valid=valid, answers=len(answers), count=count)
        return dict(zip(DETECTION, joined))

    return shard.per_example(jax.vmap(one))(list(found))


def _more(what: str) -> UserError:
    return UserError(f"task.flip and task.scales fuse boxes; this task answers {what} too: unset them.")
