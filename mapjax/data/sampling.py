"""Which record each position of an epoch shows: each once, or classes balanced by repeating or leaving out.

An order is a pure function of (seed, epoch), and its counts are exact: each class comes as often as it should in every
epoch, and no record of a class comes more than once oftener than another.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mapjax.errors import UserError, near

KINDS = ("uniform", "over", "under", "sqrt")
_KEPT = 4  # epochs whose order is kept


class Sampler(NamedTuple):
    """Which records an epoch shows.

    length: positions of an epoch.
    order: epoch → the record at each of them, int64 (length,).
    """

    length: int
    order: Callable[[int], np.ndarray]


def make(kind: str, labels: np.ndarray | None, length: int, seed: int) -> Sampler:
    """Make the sampler of a source.

    Args:
      kind: "uniform": every record once. "over": every class as often as the largest. "under": every class as often as
        the smallest, another random subset in each epoch. "sqrt": as often as the square root of its number of records
        says, in an epoch as long as the source (Mahajan et al. 2018).
      labels: the class of each record, int (length,), as `labels_of` gives them; only "uniform" does without.
      length: records of the source.
      seed: of the order.

    Raises:
      UserError: an unknown kind, or records without one label each.
    """
    if kind not in KINDS:
        raise UserError(f"sampling={kind!r} is not known.{near(kind, KINDS)}")
    if kind == "uniform":
        return Sampler(length, _Remembered(partial(_permuted, seed, length)))
    if labels is None or labels.ndim != 1 or len(labels) != length or length == 0:
        raise UserError(f"sampling={kind!r} needs one class for each image; use sampling='uniform' with this data.")
    counts = np.bincount(labels)
    groups = [rows for rows in np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1]) if len(rows)]
    wanted = times(kind, np.array([len(rows) for rows in groups]))
    return Sampler(int(wanted.sum()), _Remembered(partial(_drawn, seed, groups, wanted)))


def times(kind: str, counts: Int[np.ndarray, " c"]) -> Int[np.ndarray, " c"]:
    """Return how often an epoch shows each class of `counts` records, none of them 0."""
    if kind == "over":
        return np.full_like(counts, counts.max())
    if kind == "under":
        return np.full_like(counts, counts.min())
    quota = np.sqrt(counts) * (counts.sum() / np.sqrt(counts).sum())
    whole = np.floor(quota).astype(counts.dtype)
    # The largest remainders are rounded up, so that the sum is exact.
    order = np.argsort(whole - quota, kind="stable")
    whole[order[: int(counts.sum() - whole.sum())]] += 1
    return whole


class _Remembered:
    """An order that keeps its last epochs; it can be sent to a process, which a bare lru_cache cannot."""

    def __init__(self, draw: Callable[[int], np.ndarray]):
        self._draw, self._kept = draw, lru_cache(maxsize=_KEPT)(draw)

    def __call__(self, epoch: int) -> np.ndarray:
        return self._kept(epoch)

    def __reduce__(self):
        return type(self), (self._draw,)


def _permuted(seed: int, length: int, epoch: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch)).permutation(length)


def _drawn(seed: int, groups: list[np.ndarray], wanted: np.ndarray, epoch: int) -> Int[np.ndarray, " n"]:
    """Each group's rows repeated whole as often as fits, a random remainder, and all of it shuffled."""
    rng = np.random.default_rng((seed, epoch))
    drawn = []
    for rows, count in zip(groups, wanted.tolist()):
        repeats, rest = divmod(count, len(rows))
        drawn += [np.tile(rows, repeats), rng.permutation(rows)[:rest]]
    return rng.permutation(np.concatenate(drawn))
