"""Optimizers from a config: a chain of optax transforms, parameters chosen by path."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from mapjax import paths
from mapjax.engine import muon
from mapjax.errors import UserError, near


def make(
    node: Mapping[str, Any],
    *,
    params: PyTree,
    schedule: optax.Schedule,
) -> optax.GradientTransformation:
    """Make the optimizer that a config node describes.

    Args:
      node: name ("sgd" with momentum, "adamw", or "muon": adamw but for the kernels, see muon.py); momentum or b1,
        b2, eps; weight_decay (added to the gradient in sgd, as the field's recipes have it; decoupled from it in the
        others); decay, the expression of the parameters that decay; clip, the largest global gradient norm (0: none);
        factors, a list of (expression, learning-rate factor); freeze, a list of expressions. `learning_rate` is the
        schedule's peak and is ignored here.
      params: parameters or their shapes, for the paths.
      schedule: step → learning rate.

    Raises:
      UserError: an unknown optimizer or key, or an expression that matches no parameter.
    """
    options = {**DEFAULTS, **node}
    if unknown := set(options) - set(DEFAULTS):
        word = min(unknown)
        raise UserError(f"optimizer.{word} is not known.{near(word, DEFAULTS)}")
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
    factors = _scale_by_factors(params, options["factors"], options["freeze"])
    return optax.chain(*clip, *parts, factors, optax.scale_by_learning_rate(schedule))


NAMES = ("sgd", "adamw", "muon")
DEFAULTS: dict[str, Any] = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "nesterov": False,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "decay": "kernel$",
    "clip": 0.0,
    "factors": (),
    "freeze": (),
}


def frozen(params: PyTree, expressions: Sequence[str]) -> PyTree:
    """Mark the parameters that training leaves alone (a tree of bool)."""
    return paths.first_match(params, [(expression, True) for expression in expressions], False, "optimizer.freeze")


def _scale_by_factors(params: PyTree, factors: Sequence[Any], freeze: Sequence[str]) -> optax.GradientTransformation:
    """Multiply updates by the factor of the first matching expression; 0 where frozen, so decay stops there too."""
    if not freeze and not factors:
        return optax.identity()
    try:
        rules = [(str(expression), float(factor)) for expression, factor in factors]
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer.factors={factors!r}: write pairs, as in (('backbone', 0.1),).") from error
    scales = paths.first_match(params, rules, 1.0, "optimizer.factors")
    scales = jax.tree.map(lambda scale, stop: 0.0 if stop else scale, scales, frozen(params, freeze))
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, s: u * s, updates, scales))
