"""What to do where some classes are rare: weights and priors from the number of examples of each class."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mapjax.errors import UserError, near

WEIGHTINGS = ("none", "inverse", "sqrt", "effective")


def class_weights(
    counts: Sequence[int] | np.ndarray, weighting: str, beta: float | int = 0.999
) -> Float[np.ndarray, "c"]:
    """Weights of the classes in the loss; the mean over the training examples is 1.

    Args:
      counts: training examples of each class; a class without any gets the weight 0.
      weighting: "none", "inverse" (1/n), "sqrt" (1/√n), or "effective" (Cui et al. 2019: (1 - β) / (1 - βⁿ), where n
        examples are worth no more than 1 / (1 - β) of them).
      beta: of "effective", 0 to below 1.

    Raises:
      UserError: an unknown weighting, or a beta out of range.

    Example:
      >>> from mapjax.ops import imbalance
      >>> print(imbalance.class_weights([90, 10], "inverse").round(2))
      [0.56 5.  ]
    """
    if weighting not in WEIGHTINGS:
        raise UserError(f"task.weighting={weighting!r} is not known.{near(weighting, WEIGHTINGS)}")
    if not 0 <= beta < 1:
        raise UserError(f"task.beta={beta} must be from 0 to below 1.")
    n = np.asarray(counts, np.float64)
    seen = n > 0
    safe = np.where(seen, n, 1)
    raw = {
        "none": np.ones_like(safe),
        "inverse": 1 / safe,
        "sqrt": safe**-0.5,
        "effective": (1 - beta) / (1 - beta**safe),
    }[weighting]
    raw = np.where(seen, raw, 0)
    return (raw * (n.sum() / max((raw * n).sum(), 1e-30))).astype(np.float32)


def log_prior(counts: Sequence[int] | np.ndarray) -> Float[np.ndarray, "c"]:
    """Logarithm of the share of each class, one example added to each so that none is impossible.

    Example:
      >>> from mapjax.ops import imbalance
      >>> print(imbalance.log_prior([89, 9]).round(2))
      [-0.11 -2.3 ]
    """
    n = np.asarray(counts, np.float64) + 1
    return np.log(n / n.sum()).astype(np.float32)
