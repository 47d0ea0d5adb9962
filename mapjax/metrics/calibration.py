"""How far a classifier's probabilities can be believed, and the one number that mends most of it.

Expected calibration error and temperature scaling are those of Guo et al. 2017, "On Calibration of Modern Neural
Networks" (arXiv:1706.04599). A temperature T divides the logits; logarithms of probabilities are logits as well, since
softmax takes no notice of a constant.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 15
COLDEST, HOTTEST = 0.05, 20.0  # where all answers are right, or none is, the best temperature would be 0 or infinite
_BLOCK = 100_000  # numbers worked on at once, so that they stay in the cache
_STEPS, _NEAR = 60, 1e-5


class Bins(NamedTuple):
    """Answers grouped by confidence in bins (a, b] of equal width; an empty bin has 0 everywhere.

    `edges` are the bins' ends, `counts` their answers, `confidence` and `accuracy` the means in each.
    """

    edges: Float[np.ndarray, " m+1"]
    counts: Int[np.ndarray, " m"]
    confidence: Float[np.ndarray, " m"]
    accuracy: Float[np.ndarray, " m"]


def bins(confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], number: int = BINS) -> Bins:
    """Group answers by their confidence, 0 to 1; `correct` says which of them were right."""
    edges = np.linspace(0, 1, number + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, number - 1)
    counts = np.bincount(place, minlength=number)
    sums = [np.bincount(place, weights=np.float64(values), minlength=number) for values in (confidence, correct)]
    return Bins(edges, counts, *(total / np.maximum(counts, 1) for total in sums))


def expected_error(grouped: Bins) -> float:
    """Average |accuracy − confidence| over the bins, each by its share of the answers (ECE); -1 without answers."""
    total = grouped.counts.sum()
    return float(grouped.counts @ np.abs(grouped.accuracy - grouped.confidence) / total) if total else -1.0


def temperature(logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    """Find the temperature under which the labels are most likely: Newton's method within a shrinking bracket.

    The mean negative log-likelihood is convex in 1/T, so there is one minimum; it is looked for between COLDEST and
    HOTTEST, and 1 where T makes no difference.

    Args:
      logits: or log-probabilities, finite.
      labels: 0-based classes.
    """
    inverse = 1.0
    slope, curve = _derivatives(logits, labels, inverse)
    if slope == 0:
        return 1.0
    low, high = (inverse, 1 / COLDEST) if slope < 0 else (1 / HOTTEST, inverse)
    far = high if slope < 0 else low
    if np.sign(_derivatives(logits, labels, far)[0]) in (np.sign(slope), 0):
        return float(1 / far)
    for _ in range(_STEPS):
        wanted = inverse - slope / curve if curve > 0 else np.inf
        # Where Newton's step leaves the bracket, its middle on the scale of logarithms is tried instead.
        following = wanted if low < wanted < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= _NEAR * inverse:
            break
        inverse = following
        slope, curve = _derivatives(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
    return float(1 / inverse)


def scaled_confidence(logits: Float[np.ndarray, "n c"], temperature: float) -> Float[np.ndarray, " n"]:
    """Compute the probability of each row's most probable class at a temperature; which class it is does not change."""
    sums = [np.exp(block / temperature).sum(1) for _, block in _blocks(logits)]
    return 1 / np.concatenate([np.zeros(0), *sums])


def held_out_confidence(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], seed: int = 0
) -> Float[np.ndarray, " n"]:
    """Compute the scaled confidence of each half of the rows at the temperature fitted on the other half.

    So no label helps to judge its own probability. The halves are drawn at random by `seed`, because a data set's order
    may go with its classes.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    confidence = np.zeros(len(labels))
    for own, other in (halves, halves[::-1]):
        confidence[own] = scaled_confidence(logits[own], temperature(logits[other], labels[other]))
    return confidence


def _derivatives(logits: np.ndarray, labels: np.ndarray, inverse: float) -> tuple[float, float]:
    """Differentiate the mean negative log-likelihood by 1/T, once and twice: by the mean and variance of the logits."""
    slope = curve = 0.0
    for rows, block in _blocks(logits):
        weights = np.exp(inverse * block)
        total, weighted = weights.sum(1), weights * block
        mean = weighted.sum(1) / total
        slope += float((mean - block[np.arange(len(block)), labels[rows]]).sum(dtype=np.float64))
        curve += float((np.einsum("nc,nc->n", weighted, block) / total - mean**2).sum(dtype=np.float64))
    number = max(len(labels), 1)
    return slope / number, curve / number


def _blocks(logits: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Give a few rows at a time, in the precision that they have, the greatest of each row moved to 0."""
    height = max(1, _BLOCK // max(logits.shape[1], 1))
    for start in range(0, len(logits), height):
        block = logits[start : start + height]
        yield slice(start, start + height), block - block.max(1, keepdims=True)
