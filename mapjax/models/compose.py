"""A network on another one: a backbone gives maps by name, a head reads them. `on_backbone` composes the two."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.layers import model_of
from mapjax.task import Model

SIDE = 256  # of the images that tell the strides of a backbone


class Level(NamedTuple):
    """One resolution of a backbone: the name of its last map there, and the map's stride (a power of 2)."""

    name: str
    stride: int


def make_backbone(network: str, node: Mapping[str, Any], dtype: str, **offered: Any) -> Model:
    """Make the backbone that a config node names, without a classifier.

    Args:
      network: whose backbone it is, for messages. offered: as for `parts.make`.

    Raises:
      UserError: no such network, or the node says something of classes.
    """
    if "classes" in node:
        raise UserError(f"{network}: its backbone takes no 'classes'; the whole network has them.")
    return parts.make("models", node, dtype=dtype, **offered)


def on_backbone(backbone: Model, head: nn.Module) -> Model:
    """Compose a backbone and a Linen module `(features by name, train) -> outputs by name`.

    Variables are those of the head, and the backbone's under "backbone". Features and outputs are given; of what
    nobody reads XLA computes nothing, but for running statistics.
    """
    top = model_of(head)

    def init(key, images):
        first, second = jax.random.split(key)
        below = backbone.init(first, images)
        features, _ = backbone.apply(below, images, train=False, key=None)
        above = top.init(second, features)
        return {name: _joined(below[name], above[name]) for name in ("params", "stats")}

    def apply(variables, images, *, train=False, key=None):
        first, second = (None, None) if key is None else jax.random.split(key)
        below, above = ({name: part(leaves) for name, leaves in variables.items()} for part in (_below, _above))
        features, low = backbone.apply(below, images, train=train, key=first)
        outputs, high = top.apply(above, features, train=train, key=second)
        return {**features, **outputs}, _joined(low, high) if train else variables["stats"]

    return Model(jax.jit(init), apply)


def _joined(below: Any, above: Any) -> dict[str, Any]:
    return {"backbone": below, **above} if below else dict(above)


def _below(leaves: Any) -> Any:
    return leaves.get("backbone", {})


def _above(leaves: Any) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves.items() if name != "backbone"}


def levels(backbone: Model) -> tuple[Level, ...]:
    """The resolutions of a backbone, finest first, found by its shapes; nothing is computed.

    "head" is none of them: what so many networks call the wide layer that their classifier reads.
    """
    found: dict[int, str] = {}

    def look():
        images = jnp.zeros((1, SIDE, SIDE, 3))
        variables = backbone.init(jax.random.key(0), images)
        outputs, _ = backbone.apply(variables, images, train=False, key=None)
        for name, value in outputs.items():
            if value.ndim == 4 and name != "head":
                found[2 ** round(math.log2(SIDE / value.shape[1]))] = name  # the last of a stride
        return ()

    jax.eval_shape(look)
    return tuple(Level(found[stride], stride) for stride in sorted(found))
