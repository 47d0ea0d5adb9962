"""What a dense detector answers for one image: the best of its scores, their boxes, and suppression."""

import jax
import jax.numpy as jnp

from mapjax.ops import boxes as box_ops
from mapjax.task import Result
from mapjax.tasks.detection.suppression import Suppress


def best_pairs(scores, count: int):
    """The best (site, class) pairs of scores (r c): their score, site and class (k), best first; k = min(count, r c).

    They are all among the `count` sites whose best class is best, which are far fewer to sort.
    """
    _, rows = jax.lax.top_k(scores.max(1), min(count, len(scores)))
    score, index = jax.lax.top_k(scores[rows].reshape(-1), min(count, scores.size))
    row, label = jnp.divmod(index, scores.shape[1])
    return score, rows[row], label


def detect_by_level(
    scores, deltas, extent, *, sites, decode, threshold: float, candidates: int, suppress: Suppress | None, count: int
) -> Result:
    """The answer for one image, of the best candidates of each level: boxes (k 4), scores, classes, sites, valid (k).

    Args:
      scores (r c), deltas (r 4): of the sites.
      extent (4): the image, to which boxes are clipped.
      sites: one array (r_l 4) a level.
      threshold: scores must be higher.
      candidates: of each level that enter suppression.
      suppress: of suppression.py; None: nothing is suppressed.
      count: k.
    """
    found, start = [], 0
    for level in sites:
        here = slice(start, start + len(level))
        score, row, label = best_pairs(scores[here], candidates)
        boxes = box_ops.clip(decode(deltas[here][row], jnp.asarray(level)[row]), extent)
        found.append((boxes, score, label, start + row))
        start += len(level)
    boxes, score, label, site = (jnp.concatenate(parts) for parts in zip(*found))
    if suppress is None:
        score, best = jax.lax.top_k(score, min(count, len(score)))
        return _listed(boxes[best], score, label[best], site[best], score > threshold)
    best, score, kept = suppress(boxes, score, label, score > threshold, count)
    return _listed(boxes[best], score, label[best], site[best], kept)


def detect_by_class(
    scores, deltas, extent, *, sites, decode, threshold: float, candidates: int, suppress: Suppress | None, count: int
) -> Result:
    """As `detect_by_level`, of the best candidates of each class."""
    every = jnp.concatenate([jnp.asarray(level) for level in sites])
    boxes = box_ops.clip(decode(deltas, every), extent)
    score, row = jax.lax.top_k(scores.T, min(candidates, len(scores)))  # (c k)
    boxes = boxes[row]
    keep = score > threshold
    if suppress is not None:
        one = jnp.zeros(score.shape[1], jnp.int32)  # within a class there is one
        best, score, keep = jax.vmap(lambda *given: suppress(*given[:2], one, given[2], count))(boxes, score, keep)
        boxes, row = jnp.take_along_axis(boxes, best[..., None], 1), jnp.take_along_axis(row, best, 1)
    best, index = jax.lax.top_k(jnp.where(keep, score, -1).reshape(-1), min(count, score.size))
    return _listed(boxes.reshape(-1, 4)[index], best, index // score.shape[1], row.reshape(-1)[index], best > threshold)


def _listed(boxes, scores, classes, sites, valid) -> Result:
    return {
        "boxes": jnp.where(valid[:, None], boxes, 0),
        "scores": jnp.where(valid, scores, 0),
        "classes": jnp.where(valid, classes, 0).astype(jnp.int32),
        "sites": jnp.where(valid, sites, 0),
        "valid": valid,
    }
