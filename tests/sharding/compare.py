"""A batch of noise, and how far apart two trees of arrays are."""

import jax
import numpy as np

BATCH = 16


def classified(seed: int, side: int) -> dict:
    """Give noise with labels, as a batch."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
        "mask": np.ones(BATCH, bool),
        "index": np.arange(BATCH, dtype=np.int32),
    }


def difference(wanted, found) -> float:
    """Give the largest difference of any leaf, relative to the largest number of that leaf."""
    pairs = zip(jax.tree.leaves(wanted), jax.tree.leaves(found))
    return max(float(np.abs(a - b).max() / (np.abs(a).max() + 1e-3)) for a, b in pairs)


def distance(wanted, found) -> float:
    """Give the length of the difference of all leaves together, relative to that of the wanted ones."""
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one)]).astype(float) for one in (wanted, found)]
    return float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))
