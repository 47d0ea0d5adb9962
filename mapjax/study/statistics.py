"""What may be said of a difference between two cells: intervals over seeds, paired tests, many comparisons at once."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

LEVEL = 0.95  # of intervals; a difference is significant where p is below the rest
RESAMPLES = 2000  # so that also the largest of 50 differences can be significant by Holm's method


class Mean(NamedTuple):
    """A mean over seeds and half of its interval; `half` is NaN for one seed, which has no spread."""

    value: float
    half: float
    seeds: int


class Difference(NamedTuple):
    """What a cell's figure is above the baseline's, with the interval and the two-sided p of "there is none"."""

    value: float
    low: float
    high: float
    p: float


def mean(values: Sequence[float]) -> Mean:
    """Give the mean with Student's interval, which holds for a normal spread over seeds, however few they are."""
    found = np.asarray(values, np.float64)
    half = math.nan
    if len(found) > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(found) - 1) * stats.sem(found))
    return Mean(float(found.mean()), half, len(found))


def over_seeds(ours: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Compare by a paired t-test, the pairs being the same seeds of both.

    p is NaN where the differences have no spread to judge by: one seed, or the same difference for all.
    """
    differences = np.asarray(ours, np.float64) - np.asarray(baseline, np.float64)
    middle = mean(differences.tolist())
    spread = differences.std() > 1e-12 * max(1.0, float(np.abs(differences).max(initial=0.0)))
    tested: Any = stats.ttest_1samp(differences, 0.0) if len(differences) > 1 and spread else None
    p = math.nan if tested is None else float(tested.pvalue)
    return Difference(middle.value, middle.value - middle.half, middle.value + middle.half, p)


def draws(figure: Callable[[Int[np.ndarray, " n"]], float], images: int) -> Float[np.ndarray, " r"]:
    """Give a figure of the images as they are, and of RESAMPLES other sets drawn from them; the same sets every time.

    Args:
      figure: of how often each image counts (n,).
      images: n.
    """
    rng = np.random.default_rng(0)
    drawn = (np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(RESAMPLES))
    return np.array([figure(np.ones(images, np.int64)), *map(figure, drawn)])


def over_images(ours: Float[np.ndarray, "seeds r"], baseline: Float[np.ndarray, "seeds r"]) -> Difference:
    """Compare what `draws` gave of the same images by a paired bootstrap (Efron & Tibshirani 1993, § 16).

    What it says is of these trained networks, the mean over them, on other images; not of other seeds.
    """
    value, *drawn = (ours - baseline).mean(0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # On which side of 0 the fewer of the draws are; those at 0 are on both, and the images as they are count too.
    side = min(np.count_nonzero(np.asarray(drawn) <= 0), np.count_nonzero(np.asarray(drawn) >= 0))
    return Difference(float(value), float(low), float(high), min(1.0, 2 * (side + 1) / (len(drawn) + 1)))


def holm(ps: Sequence[float]) -> list[float]:
    """Correct the p of several comparisons, so that the chance of any false one stays what it says (Holm 1979).

    NaN is no comparison, and stays.
    """
    given = np.asarray(ps, np.float64)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    corrected = np.full(len(given), math.nan)
    least = 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * given[place]))
        corrected[place] = least
    return corrected.tolist()
