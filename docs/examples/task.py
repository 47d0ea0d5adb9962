"""A task of your own: classes that have an order, as grades or ages.

The loss is the squared earth mover's distance (Hou, Yu & Samaras 2016): a mistake of one class costs less
than one of three.

    --config.task="{'name': 'examples.task'}"
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from mapjax import Model, Task
from mapjax.ops import images as image_ops
from mapjax.ops.losses import masked_sum


def make(
    *, model: Model, classes: Sequence[str], mean: Sequence[float] = (0.5,) * 3, std: Sequence[float] = (0.5,) * 3
) -> Task:
    """Make the task.

    Args:
      model: given by the program; its outputs hold "logits" (b classes).
      classes: their names in order, given by the program.
      mean, std: of the images, RGB, 0 to 1.
    """
    normalize = partial(image_ops.normalize, mean=mean, std=std)

    def init(key, batch):
        return model.init(key, image_ops.normalized(batch["image"], normalize))

    def loss(variables, batch, context):
        images = image_ops.normalized(batch["image"], normalize)
        outputs, stats = model.apply(variables, images, train=True, key=context.key)
        found = jnp.cumsum(jax.nn.softmax(outputs["logits"]), -1)
        wanted = jnp.cumsum(jax.nn.one_hot(batch["label"], len(classes)), -1)
        each = jnp.square(found - wanted).sum(-1)
        total = masked_sum(each, batch["mask"]) / jnp.maximum(batch["mask"].sum(), 1)
        return total, (stats, {"loss": total})

    def predict(variables, batch, key):
        del key
        images = image_ops.normalized(batch["image"], normalize)
        outputs, _ = model.apply(variables, images, train=False, key=None)
        return {"logits": outputs.pop("logits"), "features": outputs}

    def decode(prediction, batch):
        del batch
        return {"probabilities": jax.nn.softmax(prediction["logits"])}

    return Task("label", normalize, init, loss, predict, decode, metrics=("accuracy",))
