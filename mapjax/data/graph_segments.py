"""Segments of an image by a minimum spanning forest (Felzenszwalb & Huttenlocher 2004, IJCV 59(2)).

Neighbouring pixels are joined, the most alike first, as long as what parts two segments is no larger than what is
within each of them, plus scale / (number of its pixels).
"""

import numpy as np
from jaxtyping import Float, Int


def segments(
    image: Float[np.ndarray, "h w c"], *, scale: float | int, least: int = 0
) -> tuple[Int[np.ndarray, "h w"], int]:
    """Return the number of each pixel's segment, from 0 on, and how many segments there are.

    Args:
      image: smoothed a little beforehand; a difference is the distance of two colours.
      scale: the larger, the larger the segments; in units of that distance.
      least: segments of fewer pixels are joined to the neighbour that is most alike.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import graph_segments
      >>> image = np.zeros((2, 4, 1), np.float32)
      >>> image[:, 2:] = 100
      >>> graph_segments.segments(image, scale=10)[0].tolist()
      [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    height, width = image.shape[:2]
    one, other, weight = edges(image)
    order = np.argsort(weight, kind="stable")
    pairs = one[order].tolist(), other[order].tolist(), weight[order].tolist()
    parent = _forest(height * width, *pairs, float(scale), least)
    roots = np.array(parent)
    while not np.array_equal(above := roots[roots], roots):
        roots = above
    _, number = np.unique(roots, return_inverse=True)
    return number.reshape(height, width).astype(np.int32), int(number.max(initial=-1)) + 1


def edges(
    image: Float[np.ndarray, "h w c"],
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Return the pairs of pixels that touch, by their numbers in rows, and the distances of their colours."""
    height, width = image.shape[:2]
    number = np.arange(height * width, dtype=np.int32).reshape(height, width)
    whole, first, last = slice(None), slice(0, -1), slice(1, None)
    # To the right, below, below on the right, above on the right.
    steps = ((whole, first, whole, last), (first, whole, last, whole), (first, first, last, last))
    steps += ((last, first, first, last),)
    found = []
    for y, x, down, right in steps:
        distance = np.sqrt(((image[y, x] - image[down, right]) ** 2).sum(-1))
        found.append((number[y, x].ravel(), number[down, right].ravel(), distance.ravel()))
    one, other, weight = (np.concatenate(part) for part in zip(*found))
    return one, other, weight


def _forest(count: int, one: list[int], other: list[int], weight: list[float], scale: float, least: int) -> list[int]:
    """Join pixels over edges in rising order; gives the parent of each, a root being its own.

    Plain lists: an edge depends on all before it, and Python's are faster than arrays for one number at a time.
    """
    parent, size, limit = list(range(count)), [1] * count, [scale] * count
    left = []  # edges between segments, for the second pass
    for x, y, distance in zip(one, other, weight):
        while parent[x] != x:
            parent[x] = x = parent[parent[x]]
        while parent[y] != y:
            parent[y] = y = parent[parent[y]]
        if x == y:
            continue
        if distance <= limit[x] and distance <= limit[y]:
            parent[y] = x
            size[x] += size[y]
            limit[x] = distance + scale / size[x]
        else:
            left.append((x, y))
    for x, y in left if least > 1 else ():
        while parent[x] != x:
            parent[x] = x = parent[parent[x]]
        while parent[y] != y:
            parent[y] = y = parent[parent[y]]
        if x != y and (size[x] < least or size[y] < least):
            parent[y] = x
            size[x] += size[y]
    return parent
