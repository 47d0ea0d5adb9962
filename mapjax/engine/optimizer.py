"""Optimizers from a config: a chain of optax transforms, parameters chosen by path."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from mapjax import paths
from mapjax.config import schema
from mapjax.engine import muon
from mapjax.errors import UserError, near

NAMES = ("sgd", "adamw", "muon")


def make(
    node: Mapping[str, Any],
    *,
    params: PyTree,
    schedule: optax.Schedule,
) -> optax.GradientTransformation:
    """Make the optimizer that a config node describes.

    Args:
      node: keys of `optimizer` in config/schema.py. "sgd" adds `weight_decay` times a parameter to its gradient, as the
        field's recipes have it; in "adamw" and "muon" decay is decoupled from the gradient. `learning_rate` is the
        schedule's peak and is ignored here.
      params: parameters or their shapes, for the paths.
      schedule: step → learning rate.

    Raises:
      UserError: an unknown optimizer or key, or an expression that matches no parameter.
    """
    options = schema.group("optimizer")
    for word in node:
        if word not in options:
            raise UserError(f"optimizer.{word} is not known.{near(word, options)}")
    options |= node
    add_decay = optax.identity()
    if options["weight_decay"]:
        decays = paths.first_match(params, [(options["decay"], True)], False, "optimizer.decay")
        add_decay = optax.add_decayed_weights(options["weight_decay"], mask=decays)
    if options["name"] == "sgd":
        parts = [add_decay, optax.trace(decay=options["momentum"], nesterov=options["nesterov"])]
    elif options["name"] in ("adamw", "muon"):
        adam = optax.scale_by_adam(b1=options["b1"], b2=options["b2"], eps=options["eps"])
        parts = [adam if options["name"] == "adamw" else muon.make(params, options["momentum"], adam), add_decay]
    else:
        raise UserError(f"optimizer.name={options['name']!r} is not known.{near(options['name'], NAMES)}")
    clip = [optax.clip_by_global_norm(options["clip"])] if options["clip"] else []
    scale = _scale_by_multipliers(params, options["lr_multipliers"], options["freeze"])
    return optax.chain(*clip, *parts, scale, optax.scale_by_learning_rate(schedule))


def frozen(params: PyTree, expressions: Sequence[str]) -> PyTree:
    """Mark the parameters that training leaves alone (a tree of bool)."""
    return paths.first_match(params, [(expression, True) for expression in expressions], False, "optimizer.freeze")


def _scale_by_multipliers(
    params: PyTree, multipliers: Sequence[Any], freeze: Sequence[str]
) -> optax.GradientTransformation:
    """Multiply updates by that of the first matching expression; 0 where frozen, so decay stops there too."""
    if not freeze and not multipliers:
        return optax.identity()
    try:
        rules = [(str(expression), float(factor)) for expression, factor in multipliers]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"optimizer.lr_multipliers={multipliers!r}: write pairs, as in (('backbone', 0.1),)."
        ) from error
    scales = paths.first_match(params, rules, 1.0, "optimizer.lr_multipliers")
    scales = jax.tree.map(lambda scale, stop: 0.0 if stop else scale, scales, frozen(params, freeze))
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, scales))
