"""The embedded handwritten digits: scikit-learn's 1,797 images of 8×8 pixels, ten classes, no download.

Which of them are held out for validation is always the same. Options make the two faults of real data, to see what
helps against them: classes that are rare, and labels that are wrong.
"""

from functools import lru_cache

import numpy as np

from mapjax.data import bundled, labelled
from mapjax.data.source import Source
from mapjax.errors import NoSuchSplit, UserError, near

ABOUT = "digits (labels; embedded)"
EMBEDDED = True  # it needs no path

CLASSES = tuple("0123456789")
SPLITS = ("train", "val")
_SEED = 1797  # of the division into splits, and of what a long tail keeps


def make(
    *,
    split: str,
    seed: int = 0,
    hold_out: float | int = 0.2,
    tail: float | int = 1.0,
    noise: float | int = 0.0,
) -> Source:
    """Give one split of the digits, uint8 RGB of 8×8.

    Args:
      split: "train" or "val".
      seed: of the wrong labels only.
      hold_out: share of each class that is for validation.
      tail: ratio r between the first class and the last in training: class k keeps n·r^(-k/9) of its n images (Cui
        et al. 2019). 1 keeps all.
      noise: share of the training images whose label is wrong, one of the other nine at random.

    Raises:
      UserError: another split, or a share or ratio out of range.

    Example:
      >>> from mapjax.data.formats import digits
      >>> source = digits.make(split="val")
      >>> len(source.records), source.records[0]["image"].shape
      (359, (8, 8, 3))
    """
    if split not in SPLITS:
        raise NoSuchSplit(f"digits has no split {split!r}.{near(split, SPLITS)}")
    if not 0 < hold_out < 1 or tail < 1 or not 0 <= noise < 1:
        raise UserError(
            f"digits need 0 < hold_out < 1, tail >= 1 and 0 <= noise < 1; found hold_out={hold_out}, tail={tail}, "
            f"noise={noise}."
        )
    images, targets = _images()
    rows = members(split, float(hold_out), float(tail))
    labels = targets[rows]
    if split == "train" and noise:
        labels = corrupted(labels, seed, float(noise))
    files = [f"{split}/{row:04d}" for row in rows]
    return labelled.make_source("digits", split, CLASSES, files, labels, images[rows], dropped={})


def members(split: str, hold_out: float, tail: float) -> np.ndarray:
    """Return the digits of one split, by position in scikit-learn's list."""
    _, targets = _images()
    rng = np.random.default_rng(_SEED)
    chosen = []
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(targets == digit))
        held = round(len(rows) * hold_out)
        kept = rows[held:]
        chosen.append(rows[:held] if split == "val" else kept[: max(round(len(kept) * tail ** (-digit / 9)), 1)])
    return np.sort(np.concatenate(chosen))


def corrupted(labels: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Replace a share of the labels, rounded to whole images, by another class each."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[: round(noise * len(labels))]
    changed = labels.copy()
    changed[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return changed


@lru_cache(maxsize=1)
def _images() -> tuple[np.ndarray, np.ndarray]:
    images, classes = bundled.digits()
    grey = np.rint(images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), classes.astype(np.int32)
