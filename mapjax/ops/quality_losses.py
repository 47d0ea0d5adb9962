"""Losses of scores that learn how well a box fits, per element: "no object" is where every class should score 0."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mapjax.ops.losses import binary_cross_entropy, modulated


def varifocal(
    logits: Float[Array, "*n"],
    quality: Float[Array, "*n"],
    positive: Bool[Array, "*n"],
    *,
    alpha: float = 0.75,
    gamma: float | int = 2,
) -> Float[Array, "*n"]:
    """Cross-entropy to the quality of a positive, weighed by it; of a negative modulated (Zhang et al. 2021, eq. 2).

    Args:
      quality: IoU of a positive's box with the truth, 0 to 1; of a negative it is not looked at.
      positive: where the class is the truth's.
      alpha, gamma: factor of negatives, and how much those that are nearly right weigh less.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import quality_losses
      >>> loss = quality_losses.varifocal(jnp.zeros(2), jnp.array([0.5, 0.0]), jnp.array([True, False]))
      >>> [f"{value:.3f}" for value in loss]
      ['0.347', '0.130']
    """
    target = jnp.where(positive, quality, 0)
    score = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
    weight = jnp.where(positive, target, alpha * modulated(score, gamma))
    return weight * binary_cross_entropy(logits, target)


def matchability(
    logits: Float[Array, "*n"],
    quality: Float[Array, "*n"],
    positive: Bool[Array, "*n"],
    *,
    gamma: float | int = 1.5,
) -> Float[Array, "*n"]:
    """Cross-entropy to the quality to the power of gamma, of matches of low quality too (Huang et al. 2025, eq. 3).

    Args:
      quality, positive: as of `varifocal`.
      gamma: also of negatives, as `varifocal` has it.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import quality_losses
      >>> loss = quality_losses.matchability(jnp.zeros(2), jnp.array([0.25, 0.0]), jnp.array([True, False]))
      >>> [f"{value:.3f}" for value in loss]
      ['0.693', '0.245']
    """
    target = jnp.where(positive, modulated(quality, gamma), 0)
    score = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
    return jnp.where(positive, 1, modulated(score, gamma)) * binary_cross_entropy(logits, target)
