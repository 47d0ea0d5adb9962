"""A network on another one: a backbone gives maps by name, a head reads them. `on_backbone` composes the two."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from mapjax import paths
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.layers import model_of
from mapjax.sharding import tensor
from mapjax.sharding.mesh import Rules
from mapjax.task import Model


def make_backbone(network: str, node: Mapping[str, Any], dtype: str, **offered: Any) -> Model:
    """Make the backbone that a config node names, without a classifier.

    Args:
      network: whose backbone it is, for messages.
      offered: as for `parts.make`.

    Raises:
      UserError: no such network, or the node says something of classes.
    """
    if "classes" in node:
        raise UserError(f"{network}: its backbone takes no 'classes'; the whole network has them.")
    return parts.make("models", node, dtype=dtype, **offered)


def on_backbone(backbone: Model, head: nn.Module, *, heads: tuple[str, ...] = (), rules: Rules = ()) -> Model:
    """Compose a backbone and a Linen module `(features by name, train) -> outputs by name`.

    Variables are those of the head, and the backbone's under "backbone". Features and outputs are given; of what
    nobody reads XLA computes nothing, but for running statistics.

    Args:
      heads, rules: of the head's parameters; the backbone's hold below "backbone/".
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

    below = heads_below("backbone", backbone)
    rules = (*tensor.below("backbone", backbone.rules), *rules)
    return Model(jax.jit(init), apply, levels=backbone.levels, heads=(*below, *heads), rules=rules)


def heads_below(name: str, model: Model) -> tuple[str, ...]:
    """Give the heads of a network for where it stands in another one, under `name`."""
    return tuple(paths.below(name, expression) for expression in model.heads)


def by_stride(levels: Mapping[str, int]) -> dict[int, str]:
    """Choose a map of each stride, finest first: the last, which has seen the most layers."""
    return {stride: name for name, stride in levels.items()}


def _joined(below: Any, above: Any) -> dict[str, Any]:
    return {"backbone": below, **above} if below else dict(above)


def _below(leaves: Any) -> Any:
    return leaves.get("backbone", {})


def _above(leaves: Any) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves.items() if name != "backbone"}
