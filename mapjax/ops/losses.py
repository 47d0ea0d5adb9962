"""Losses per element, float32 in and out; what is summed, masked or averaged is the task's affair."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def smooth_l1(prediction: Float[Array, "*n"], target: Float[Array, "*n"], beta: float = 1.0) -> Float[Array, "*n"]:
    """Quadratic below `beta`, linear above (Girshick 2015, Fast R-CNN, eq. 3)."""
    error = jnp.abs(prediction - target)
    if beta == 0:
        return error
    return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


def cross_entropy(logits: Float[Array, "*n c"], classes: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Negative log-likelihood of the true class, in nats."""
    picked = jnp.take_along_axis(logits, classes[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, -1) - picked


def binary_cross_entropy(logits: Float[Array, "*n"], target: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Negative log-likelihood of a yes/no `target` (0 to 1) under sigmoid(logits), in nats."""
    return jax.nn.softplus(logits) - logits * target


def masked_sum(values: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Sum of the values where `mask`; a masked value may be infinite or not a number."""
    return jnp.sum(jnp.where(mask, values, 0))


def modulated(miss: Float[Array, "*n"], gamma: float | int) -> Float[Array, "*n"]:
    """What was missed, 0 to 1, to the power of `gamma`: the factor of a focal loss (Lin et al. 2017).

    Where rounding leaves nothing missed, its slope is infinite for a gamma below 1, and is given as 0.
    """
    return jnp.maximum(miss, 1e-12) ** gamma
