"""Losses per element, float32 in and out; what is summed, masked or averaged is the task's affair."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def smooth_l1(prediction: Float[Array, "*n"], target: Float[Array, "*n"], beta: float = 1.0) -> Float[Array, "*n"]:
    """Quadratic below `beta`, linear above (Girshick 2015, Fast R-CNN, eq. 3).

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import losses
      >>> losses.smooth_l1(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
      [0.125, 2.5]
    """
    error = jnp.abs(prediction - target)
    if beta == 0:
        return error
    return jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


def cross_entropy(logits: Float[Array, "*n c"], classes: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Negative log-likelihood of the true class, in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import losses
      >>> print(losses.cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(3))
      [1.386]
    """
    picked = jnp.take_along_axis(logits, classes[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, -1) - picked


def binary_cross_entropy(logits: Float[Array, "*n"], target: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Negative log-likelihood of a yes/no `target` (0 to 1) under sigmoid(logits), in nats.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import losses
      >>> print(losses.binary_cross_entropy(jnp.array([0.0, 9.0]), jnp.array([1.0, 1.0])).round(3))
      [0.693 0.   ]
    """
    return jax.nn.softplus(logits) - logits * target


def focal(
    logits: Float[Array, "*n"], target: Float[Array, "*n"], alpha: float | int = 0.25, gamma: float | int = 2
) -> Float[Array, "*n"]:
    """Binary cross-entropy, times what was missed to the power of `gamma` (Lin et al. 2017, arXiv 1708.02002).

    alpha: weight of a target of 1, 0 to 1; one of 0 has 1 - alpha.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import losses
      >>> print(*(f"{loss:.3f}" for loss in losses.focal(jnp.zeros(2), jnp.array([1.0, 0.0]))))
      0.043 0.130
    """
    chance = jax.nn.sigmoid(logits)
    missed = chance + target - 2 * chance * target
    weight = alpha * target + (1 - alpha) * (1 - target)
    return weight * modulated(missed, gamma) * binary_cross_entropy(logits, target)


def masked_sum(values: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Sum of the values where `mask`; a masked value may be infinite or not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import losses
      >>> float(losses.masked_sum(jnp.array([1.0, jnp.nan, 2.0]), jnp.array([True, False, True])))
      3.0
    """
    return jnp.sum(jnp.where(mask, values, 0))


def modulated(miss: Float[Array, "*n"], gamma: float | int) -> Float[Array, "*n"]:
    """What was missed, 0 to 1, to the power of `gamma`: the factor of a focal loss (Lin et al. 2017).

    Where rounding leaves nothing missed, its slope is infinite for a gamma below 1, and is given as 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import losses
      >>> losses.modulated(jnp.array([0.5, 1.0]), 2).tolist()
      [0.25, 1.0]
    """
    return jnp.maximum(miss, 1e-12) ** gamma
