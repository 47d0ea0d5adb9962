"""Average precision over any overlap, by COCO's rules (Lin et al. 2014, arXiv:1405.0312): matching and accumulation.

An answer, by falling score, takes the truth of its class that it overlaps most and that is free; a crowd can be taken
again and again. What takes a crowd, or a truth outside the range of areas, or takes nothing and is outside it itself,
does not count. With the overlap of boxes or masks the figures are those of pycocotools.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
RANGES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}
MOST = 100  # answers of a class in an image


class Pairs(NamedTuple):
    """The answers and truths of one class in one image; the answers by falling score, at most MOST.

    overlap: of each answer with each truth, 0 to 1.
    """

    overlap: Float[np.ndarray, "d g"]
    scores: Float[np.ndarray, " d"]
    areas: Float[np.ndarray, " d"]
    truth_areas: Float[np.ndarray, " g"]
    crowd: Bool[np.ndarray, " g"]


class _Judged(NamedTuple):
    """Of the answers of one class, at each threshold: whether they take a truth, and whether they count."""

    scores: Float[np.ndarray, " d"]
    right: Bool[np.ndarray, "t d"]
    ignored: Bool[np.ndarray, "t d"]
    truths: int


def figures(pairs: Mapping[str, Sequence[Pairs]]) -> dict[str, float]:
    """Give AP, AP50, AP75, APs, APm and APl over the classes, and AP and AP50 of each; -1 without any truth.

    Args:
      pairs: of each class by its name, an entry an image.

    Example:
      >>> import numpy as np
      >>> from mapjax.metrics import ranking
      >>> one = ranking.Pairs(np.array([[0.8]]), np.ones(1), np.ones(1), np.ones(1), np.zeros(1, bool))
      >>> round(ranking.figures({"cat": [one]})["AP"], 2)
      0.7
    """
    found = {name: {size: average(images, span) for size, span in RANGES.items()} for name, images in pairs.items()}
    scalars = {f"AP{size}": _mean([one[size] for one in found.values()]) for size in RANGES}
    at = {f"AP{round(100 * THRESHOLDS[row])}": row for row in (0, 5)}
    scalars |= {name: _mean([one[""][row : row + 1] for one in found.values()]) for name, row in at.items()}
    for name, one in found.items():
        scalars |= {f"AP/{name}": _mean([one[""]]), f"AP50/{name}": _mean([one[""][:1]])}
    return scalars


def average(images: Iterable[Pairs], span: tuple[float, float]) -> Float[np.ndarray, " t"]:
    """Compute AP at each of THRESHOLDS of one class, of objects whose area is in a range; -1 where there is none."""
    judged = [_judge(one, span) for one in images]
    truths = sum(one.truths for one in judged)
    if not truths:
        return np.full(len(THRESHOLDS), -1.0)
    order = np.argsort(-np.concatenate([one.scores for one in judged]), kind="stable")
    right, ignored = (np.concatenate([one[place] for one in judged], axis=1)[:, order] for place in (1, 2))
    return np.array([under_curve(row[~beside], truths) for row, beside in zip(right, ignored)])


def under_curve(right: Bool[np.ndarray, " d"], truths: int) -> float:
    """Average the precision over the recalls, each the highest from that recall on, 0 past the last.

    Args:
      right: which answers of a class are, the highest score first.
      truths: how many there are to be found, at least one.

    Example:
      >>> import numpy as np
      >>> from mapjax.metrics import ranking
      >>> round(ranking.under_curve(np.array([True, False]), 2), 3)
      0.505
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / truths, RECALLS)
    return float(np.append(highest, 0.0)[np.minimum(at, len(hits))].mean())


def pair_up(
    overlap: Callable[[np.ndarray, np.ndarray], Float[np.ndarray, "d g"]],
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    truth: tuple[np.ndarray, np.ndarray, np.ndarray],
    number: int,
) -> Pairs:
    """Take the answers and truths of class `number` in an image.

    Args:
      overlap: of answers and truths, given by their rows.
      found: classes, scores and areas of the answers.
      truth: classes, areas and crowd of the truths.
    """
    classes, scores, areas = found
    rows = np.flatnonzero(classes == number)
    rows = rows[np.argsort(-scores[rows], kind="stable")][:MOST]
    truths = np.flatnonzero(truth[0] == number)
    empty = np.zeros((len(rows), len(truths)))
    values = overlap(rows, truths) if empty.size else empty
    return Pairs(values, scores[rows], areas[rows], truth[1][truths], truth[2][truths])


def _judge(one: Pairs, span: tuple[float, float]) -> _Judged:
    outside = one.crowd | (one.truth_areas < span[0]) | (one.truth_areas > span[1])
    levels = np.minimum(THRESHOLDS, 1 - 1e-10)
    count = len(one.scores)
    taken = np.zeros((len(levels), len(outside)), bool)
    right, ignored = np.zeros((len(levels), count), bool), np.zeros((len(levels), count), bool)
    beyond = (one.areas < span[0]) | (one.areas > span[1])
    for row in range(count):
        near = (one.overlap[row] >= levels[:, None]) & (~taken | one.crowd)
        ordinary = near & ~outside
        chosen = np.where(ordinary.any(axis=1, keepdims=True), ordinary, near)
        right[:, row] = chosen.any(axis=1)
        ignored[:, row] = np.where(right[:, row], ~ordinary.any(axis=1), beyond[row])
        values = np.where(chosen, one.overlap[row], -1.0)[:, ::-1]
        best = len(outside) - 1 - values.argmax(axis=1) if len(outside) else np.zeros(len(levels), int)
        taken[right[:, row], best[right[:, row]]] = True  # the last of equals, as COCO's
    return _Judged(one.scores, right, ignored, int((~outside).sum()))


def _mean(parts: Sequence[Float[np.ndarray, " t"]]) -> float:
    """Average the entries that have truth (those that are not -1)."""
    values = np.concatenate([np.zeros(0), *parts])
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0
