"""Kernels judged: on this device against float64 on its CPU, forward and gradient, and whether they repeat."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mapjax.check.kernels import KERNELS, Kernel
from mapjax.errors import UserError

# Of the largest value that there is. Float32 with the products that a device takes by itself (TF32 on NVIDIA's, which
# has bfloat16's 8 bits of exponent and 10 of mantissa), float32 with full products, and bfloat16.
TOLERANCES = {"float32": 4e-3, "float32, full products": 4e-5, "bfloat16": 4e-2}


class Verdict(NamedTuple):
    """How far a kernel is from the truth in one precision.

    forward, gradient: largest difference, as a share of the largest value; gradient is None of whole numbers.
    tolerance: what both may be.
    repeats: whether a second run gave the same bits.
    """

    kernel: str
    precision: str
    forward: float
    gradient: float | None
    tolerance: float
    repeats: bool

    @property
    def right(self) -> bool:
        """Say whether it is within its tolerance; NaN is not."""
        return all(error <= self.tolerance for error in (self.forward, self.gradient or 0.0))


def verdicts(*, large: bool, names: Sequence[str] = ()) -> Iterator[Verdict]:
    """Judge the kernels one after the other.

    Args:
      large: with arrays as networks have them; else small ones, for a CPU.
      names: some of them only.

    Raises:
      UserError: JAX sees no CPU to compare with.
    """
    host = _host()
    for name in names or KERNELS:
        kernel, rng = KERNELS[name], np.random.default_rng(0)
        floats = kernel.floats(rng, large)
        weights = _weights(kernel, floats, rng)
        with jax.default_device(host), jax.enable_x64(not kernel.draws):
            dtype = np.float32 if kernel.draws else np.float64
            true = kernel._replace(function=kernel.reference or kernel.function)
            truth = _run(true, [one.astype(dtype) for one in floats], weights)
        for precision in _precisions(kernel):
            yield _judge(name, kernel, floats, weights, truth, precision, TOLERANCES[precision])


def count(names: Sequence[str] = ()) -> int:
    """Say how many verdicts there will be."""
    return sum(len(_precisions(KERNELS[name])) for name in names or KERNELS)


def _precisions(kernel: Kernel) -> list[str]:
    if kernel.exact:
        return ["float32"]
    return [name for name in TOLERANCES if kernel.wide is not None or name != "bfloat16"]


def _host() -> Any:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "JAX sees no CPU to compare with; leave JAX_PLATFORMS unset, or write JAX_PLATFORMS=cuda,cpu."
        ) from error


def _weights(kernel: Kernel, floats: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Draw what the outputs are multiplied by before they are added up, so that every gradient counts."""
    shapes = jax.eval_shape(kernel.function, *(jax.ShapeDtypeStruct(one.shape, np.float32) for one in floats))
    return [rng.normal(size=shape.shape) for shape in jax.tree.leaves(shapes)]


def _run(
    kernel: Kernel, floats: Sequence[Any], weights: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the outputs, and of the kernel that has them the gradients."""
    outputs = jax.jit(kernel.function)(*floats)
    if kernel.exact:
        return _as_numbers(outputs), []

    def total(*given: Any) -> Any:
        leaves = jax.tree.leaves(kernel.function(*given))
        wide = jnp.promote_types(leaves[0].dtype, jnp.float32)
        return sum(jnp.sum(leaf.astype(wide) * weight.astype(wide)) for leaf, weight in zip(leaves, weights))

    gradients = jax.jit(jax.grad(total, tuple(range(len(floats)))))(*floats)
    return _as_numbers(outputs), _as_numbers(gradients)


def _as_numbers(tree: Any) -> list[np.ndarray]:
    return [np.asarray(jax.device_get(leaf)).astype(np.float64) for leaf in jax.tree.leaves(tree)]


def _judge(
    name: str,
    kernel: Kernel,
    floats: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    truth: tuple[list[np.ndarray], list[np.ndarray]],
    precision: str,
    tolerance: float,
) -> Verdict:
    narrow: Any = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    wide = kernel.wide or ()
    given = [jnp.asarray(one, jnp.float32 if place in wide else narrow) for place, one in enumerate(floats)]
    with jax.default_matmul_precision("highest" if "full" in precision else "default"):
        first, second = (_run(kernel, given, weights) for _ in range(2))
    repeats = all(np.array_equal(a, b) for one, other in zip(first, second) for a, b in zip(one, other))
    forward, gradient = (_largest(*pair) for pair in zip(first, truth))
    return Verdict(
        name, precision, forward, None if kernel.exact else gradient, 0.0 if kernel.exact else tolerance, repeats
    )


def _largest(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """Return the largest difference of arrays, as a share of the largest value of each."""
    errors = [np.abs(a - b).max(initial=0) / (np.abs(b).max(initial=0) or 1.0) for a, b in zip(found, truth)]
    return float(max(errors, default=0.0))
