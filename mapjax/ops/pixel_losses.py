"""Losses of label maps: each takes scores of all pixels, gives one number, and passes over pixels without a class.

Of all: logits (b h w c) float32; labels (b h w), 0-based, VOID where a pixel has none; weights (c) of the classes. A
batch without any class gives 0. `LOSSES` names them for a config.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from mapjax.ops import losses
from mapjax.stages import VOID

Logits = Float[Array, "b h w c"]
Labels = Integer[Array, "b h w"]
Weights = Float[Array, " c"]
Loss = Float[Array, ""]


def cross_entropy(logits: Logits, labels: Labels, weights: Weights) -> Loss:
    """Negative log-likelihood of the true classes in nats: the mean weighted by class, as torch's.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import pixel_losses
      >>> logits, labels = jnp.zeros((1, 1, 2, 2)), jnp.array([[[0, 1]]])
      >>> print(f"{pixel_losses.cross_entropy(logits, labels, jnp.ones(2)):.3f}")
      0.693
    """
    each, weight = _likelihood(logits, labels, weights)
    return _mean(each, weight)


def focal(logits: Logits, labels: Labels, weights: Weights, gamma: float = 2.0) -> Loss:
    """Cross-entropy times (1 - p)^gamma, p that of the true class (Lin et al. 2017): easy pixels count less.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import pixel_losses
      >>> logits, labels = jnp.zeros((1, 1, 2, 2)), jnp.array([[[0, 1]]])
      >>> print(f"{pixel_losses.focal(logits, labels, jnp.ones(2), gamma=2.0):.3f}")
      0.173
    """
    each, weight = _likelihood(logits, labels, weights)
    return _mean(each * losses.modulated(-jnp.expm1(-each), gamma), weight)


def ohem(logits: Logits, labels: Labels, weights: Weights, threshold: float = 0.7, share: float = 1 / 16) -> Loss:
    """Cross-entropy of the hard pixels only (online hard example mining: Shrivastava et al. 2016).

    Hard are those whose true class has a probability below `threshold`, and at least that `share` of all pixels.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import pixel_losses
      >>> logits, labels = jnp.zeros((1, 1, 2, 2)), jnp.array([[[0, 1]]])
      >>> print(f"{pixel_losses.ohem(logits, labels, jnp.ones(2), threshold=0.7):.3f}")
      0.693
    """
    each, weight = _likelihood(logits, labels, weights)
    known = jnp.where(weight > 0, jax.lax.stop_gradient(each), -1.0)
    least = jnp.sort(known, axis=None)[-max(1, round(share * known.size))]
    hard = known >= jnp.minimum(least, -jnp.log(threshold))
    return _mean(each, jnp.where(hard, weight, 0))


def dice(logits: Logits, labels: Labels, weights: Weights) -> Loss:
    """1 - Dice of soft masks over the whole batch (Milletari et al. 2016), the mean over the classes that occur.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import pixel_losses
      >>> logits, labels = jnp.zeros((1, 1, 2, 2)), jnp.array([[[0, 1]]])
      >>> print(f"{pixel_losses.dice(logits, labels, jnp.ones(2)):.3f}")
      0.500
    """
    truth, known = _one_hot(labels, logits.shape[-1])
    chance = jax.nn.softmax(logits) * known[..., None]
    both, total = ((x.sum((0, 1, 2))) for x in (chance * truth, chance + truth))
    occurs = weights * (truth.sum((0, 1, 2)) > 0)
    return _mean(1 - 2 * both / jnp.maximum(total, 1), occurs)


def lovasz(logits: Logits, labels: Labels, weights: Weights) -> Loss:
    """Lovász-softmax (Berman et al. 2018): a convex surrogate of 1 - IoU, the mean over the classes that occur.

    Example:
      >>> import jax.numpy as jnp
      >>> from mapjax.ops import pixel_losses
      >>> logits, labels = jnp.zeros((1, 1, 2, 2)), jnp.array([[[0, 1]]])
      >>> print(f"{pixel_losses.lovasz(logits, labels, jnp.ones(2)):.3f}")
      0.500
    """
    truth, known = _one_hot(labels, logits.shape[-1])
    truth = truth.reshape(-1, logits.shape[-1])
    error = jnp.abs(truth - jax.nn.softmax(logits).reshape(truth.shape)) * known.reshape(-1, 1)

    def of_class(error, truth):
        order = jnp.argsort(-jax.lax.stop_gradient(error))
        here = truth[order]
        seen, missed = jnp.cumsum(here), jnp.cumsum(1 - here)
        jaccard = 1 - (here.sum() - seen) / jnp.maximum(here.sum() + missed, 1)
        return error[order] @ jnp.diff(jaccard, prepend=0.0)

    each = jax.lax.map(lambda pair: of_class(*pair), (error.T, truth.T))
    return _mean(each, weights * (truth.sum(0) > 0))


LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "ohem": ohem,
    "dice": dice,
    "lovasz": lovasz,
}


def _likelihood(logits: Logits, labels: Labels, weights: Weights):
    """Negative log-likelihood of each pixel's class and its weight; both 0 for a pixel without one."""
    truth, known = _one_hot(labels, logits.shape[-1])
    each = jnp.where(known, jax.nn.logsumexp(logits, -1) - (truth * logits).sum(-1), 0)
    return each, jnp.where(known, (truth * weights).sum(-1), 0)


def _one_hot(labels: Labels, classes: int):
    """The true class of each pixel as a row (zeros where there is none), and whether there is one."""
    # Compared and not gathered: the gradient of a gather is a scatter, which is slow.
    return jax.nn.one_hot(labels, classes), (labels != VOID) & (labels < classes)


def _mean(values, weights):
    return (values * weights).sum() / jnp.maximum(weights.sum(), 1e-6)
