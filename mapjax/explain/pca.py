"""Principal components of data that come in batches, as a mapping that is fitted over the mesh.

Randomised subspace iteration (Halko, Martinsson & Tropp 2011, arXiv:0909.4061): each pass over the data multiplies the
covariance with a thin matrix, so that neither the data nor the covariance is ever held whole.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from mapjax.errors import UserError


class PCA(NamedTuple):
    """The mapping x → (x - mean) componentsᵀ and back; `variance` of each component, largest first, and of all."""

    mean: Float[Array, "d"]
    components: Float[Array, "k d"]
    variance: Float[Array, "k"]
    total_variance: Float[Array, ""]

    def transform(self, x: Shaped[Any, "*n d"]) -> Float[Array, "*n k"]:
        """Give the coordinates along the components."""
        return (x - self.mean) @ self.components.T

    def inverse(self, z: Shaped[Any, "*n k"]) -> Float[Array, "*n d"]:
        """Give the point with these coordinates."""
        return z @ self.components + self.mean


def fit(
    batches: Callable[[], Iterable[Any]], count: int, *, passes: int = 6, oversample: int = 10, seed: int = 0
) -> PCA:
    """Fit the `count` largest components.

    Args:
      batches: gives the data anew for each pass, as arrays (b d); sharded over a mesh's batch axis, if they are.
      passes: over the data, one of them for the mean; more are more exact where variances decay slowly.
      oversample: further directions that are iterated and then dropped.

    Raises:
      UserError: fewer rows or columns than components.
    """
    first = _moments(batches())
    rows, width = first["rows"], first["sum"].shape[0]
    if not 0 < count <= min(rows, width):
        raise UserError(f"{count} components cannot be found in {rows} rows of {width} columns; ask for fewer.")
    mean = first["sum"] / rows
    wide = min(count + oversample, width)
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(seed), (width, wide)))[0]
    product = _covariance_times(batches, mean, basis) / (rows - 1)
    for _ in range(max(passes - 2, 0)):
        basis = jnp.linalg.qr(product)[0]
        product = _covariance_times(batches, mean, basis) / (rows - 1)
    # Rayleigh–Ritz: the eigenvectors of the covariance as it acts within the basis.
    inner = basis.T @ product
    values, vectors = jnp.linalg.eigh((inner + inner.T) / 2)
    best = jnp.argsort(-values)[:count]
    components = _signed((basis @ vectors[:, best]).T)
    total = (first["squares"] - rows * jnp.square(mean).sum()) / (rows - 1)
    return PCA(mean, components, jnp.maximum(values[best], 0), total)


@jax.jit
def _sums(x):
    x = x.astype(jnp.float32)
    return x.sum(0), jnp.square(x).sum()


@jax.jit
def _product(total, x, mean, basis):
    x = x.astype(jnp.float32) - mean
    return total + x.T @ (x @ basis)


def _moments(batches: Iterable[Any]) -> dict[str, Any]:
    rows, total, squares = 0, 0.0, 0.0
    for x in batches:
        one, square = _sums(x)
        rows, total, squares = rows + len(x), total + one, squares + square
    if not rows:
        raise UserError("there are no features to fit components to; check the split.")
    return {"rows": rows, "sum": total, "squares": squares}


def _covariance_times(batches: Callable[[], Iterable[Any]], mean: Array, basis: Array) -> Array:
    total = jnp.zeros_like(basis)
    for x in batches():
        total = _product(total, x, mean, basis)
    return total


def _signed(components: Array) -> Array:
    """Let the entry of largest size be positive, so that the same data give the same signs."""
    largest = jnp.take_along_axis(components, jnp.abs(components).argmax(1)[:, None], 1)
    return components * jnp.where(largest < 0, -1.0, 1.0)
