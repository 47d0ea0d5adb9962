"""Selective search (Uijlings et al. 2013, IJCV 104(2)): boxes that may hold an object, of any class.

Segments of an image (graph_segments.py) are joined two by two, the most alike first, until one is left; the box around
each that came about is a proposal. What is alike differs from one hierarchy to the next: colours, scales and measures.
"""

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from mapjax.data import graph_segments
from mapjax.errors import UserError, near

SIDE = 320  # pixels of the longer side at which an image is searched: time is in proportion to its area
_SIGMA, _COLOURS, _TEXTURES, _TURNS = 0.8, 25, 10, 8  # smoothing; bins of a channel; bins, and directions, of edges
_LEAST = 4  # pixels of a proposal's sides, at the size that is searched


class Mode(NamedTuple):
    """How much is searched: each colour space with each scale of segments, by each sum of measures.

    measures: letters of c (colour), t (texture), s (size: small ones first) and f (fill: no holes between them).
    """

    colours: tuple[str, ...]
    scales: tuple[int, ...]
    measures: tuple[str, ...]


MODES = {  # the paper's section 5.3, without its spaces of single channels in "quality"
    "fast": Mode(("hsv", "lab"), (50, 100), ("ctsf", "tsf")),
    "quality": Mode(("hsv", "lab", "rgi"), (50, 100, 150, 300), ("ctsf", "tsf", "f", "s")),
}


class _Regions(NamedTuple):
    """Segments of an image; rows for those that come about by joining are there already.

    colour, texture: histograms that sum to 1.
    size: shares of the image.
    box: x1,y1,x2,y2.
    pairs: which touch, the lower number first.
    """

    count: int
    colour: Float[np.ndarray, "r a"]
    texture: Float[np.ndarray, "r b"]
    size: Float[np.ndarray, " r"]
    box: Float[np.ndarray, "r 4"]
    pairs: Int[np.ndarray, "p 2"]


def require_mode(name: str, key: str) -> str:
    """Give the name of a mode.

    Raises:
      UserError: there is none of that name; `key` says who asked.
    """
    if name not in MODES:
        raise UserError(f"{key} {name!r} is no mode of selective search.{near(name, MODES)}")
    return name


def search(image: UInt8[np.ndarray, "h w 3"], mode: str = "fast") -> Float[np.ndarray, "n 4"]:
    """Find boxes x1,y1,x2,y2 in pixels of an RGB image, each once, the likeliest first; the same every time.

    Args:
      mode: of `MODES`; the more is searched, the more objects are among the boxes, and the longer it takes.

    Raises:
      UserError: no such mode.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import selective_search
      >>> image = np.zeros((40, 40, 3), np.uint8)
      >>> image[10:30, 5:25] = 255
      >>> [5.0, 10.0, 25.0, 30.0] in selective_search.search(image).tolist()
      True
    """
    chosen, (height, width) = MODES[require_mode(mode, "proposals:")], image.shape[:2]
    shrunk = min(1.0, SIDE / max(height, width))
    size = max(round(width * shrunk), 1), max(round(height * shrunk), 1)
    small = image if shrunk == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    rng, ranked = np.random.default_rng(0), []
    for colours in chosen.colours:
        shown = _converted(small, colours)
        smooth = cv2.GaussianBlur(shown, (0, 0), _SIGMA).reshape(shown.shape)
        for scale in chosen.scales:
            regions = _regions(shown, *graph_segments.segments(smooth, scale=scale, least=scale))
            for measures in chosen.measures:
                boxes = grouped(regions, measures)[::-1]  # the whole image first
                ranked.append((boxes, np.arange(1, len(boxes) + 1) * rng.random(len(boxes))))
    boxes, rank = (np.concatenate(part) for part in zip(*ranked))
    boxes = boxes[np.argsort(rank, kind="stable")]
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) >= min(_LEAST, *size)]
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)] * np.tile([width / size[0], height / size[1]], 2).astype(np.float32)


def grouped(regions: _Regions, measures: str) -> Float[np.ndarray, "n 4"]:
    """Join the regions that touch, the most alike first; gives the boxes of all, in the order they came about."""
    colour, texture, size, box = (part.copy() for part in regions[1:5])
    touching: list[set[int]] = [set() for _ in range(len(size))]
    for one, other in regions.pairs.tolist():
        touching[one].add(other)
        touching[other].add(one)

    def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        total = np.zeros(len(other))
        if "c" in measures:
            total += np.minimum(colour[one], colour[other]).sum(-1)
        if "t" in measures:
            total += np.minimum(texture[one], texture[other]).sum(-1)
        if "s" in measures:
            total += 1 - size[one] - size[other]
        if "f" in measures:
            low, high = np.minimum(box[one, :2], box[other, :2]), np.maximum(box[one, 2:], box[other, 2:])
            total += 1 - (high - low).prod(-1) / whole + size[one] + size[other]
        return total

    whole = max(float(box[: regions.count, 2].max() * box[: regions.count, 3].max()), 1.0)
    first = alike(*regions.pairs.T).tolist()
    heap = [(-value, one, other) for value, (one, other) in zip(first, regions.pairs.tolist())]
    heapq.heapify(heap)
    gone, new = set[int](), regions.count
    while heap:
        _, one, other = heapq.heappop(heap)
        if one in gone or other in gone:
            continue
        gone |= {one, other}
        size[new] = size[one] + size[other]
        for values in (colour, texture):
            values[new] = (values[one] * size[one] + values[other] * size[other]) / size[new]
        box[new, :2], box[new, 2:] = (np.minimum(box[one], box[other])[:2], np.maximum(box[one], box[other])[2:])
        touching[new] = (touching[one] | touching[other]) - {one, other}
        if around := sorted(touching[new]):
            for neighbour in around:
                touching[neighbour] = (touching[neighbour] - {one, other}) | {new}
            for value, neighbour in zip(alike(np.full(len(around), new), np.array(around)).tolist(), around):
                heapq.heappush(heap, (-value, neighbour, new))
        new += 1
    return box[:new]


def _converted(image: UInt8[np.ndarray, "h w 3"], space: str) -> Float[np.ndarray, "h w 3"]:
    """Give an RGB image in another space, each channel from 0 to 255."""
    if space == "hsv":
        return cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL).astype(np.float32)
    if space == "lab":
        return cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    total = np.maximum(image.sum(-1, dtype=np.float32), 1)  # "rgi": shares of red and green, and the intensity
    return np.stack([255 * image[..., 0] / total, 255 * image[..., 1] / total, total / 3], -1).astype(np.float32)


def _regions(image: Float[np.ndarray, "h w 3"], number: Int[np.ndarray, "h w"], count: int) -> _Regions:
    """Measure segments; what is numbered `count` and above is for those that come about."""
    flat, pixels = number.ravel(), np.bincount(number.ravel(), minlength=count)
    shares = [_histograms(flat, bins, count, most) for bins, most in _binned(image)]
    colour, texture = np.concatenate(shares[:3], 1), np.concatenate(shares[3:], 1)
    rows, columns = np.indices(number.shape, np.float32)
    box = np.zeros((count, 4), np.float32)
    for place, (values, end) in enumerate([(columns, min), (rows, min), (columns, max), (rows, max)]):
        box[:, place] = _extremes(flat, values.ravel(), count, end is max)
    box[:, 2:] += 1
    return _Regions(
        count,
        _doubled(colour / colour.sum(1, keepdims=True)),
        _doubled(texture / texture.sum(1, keepdims=True)),
        _doubled(pixels / number.size),
        _doubled(box),
        _touching(number),
    )


def _binned(image: Float[np.ndarray, "h w 3"]) -> Iterator[tuple[Int[np.ndarray, "h w"], int]]:
    """Give the bin of each pixel, and how many bins there are: of each channel, then of edges in each direction."""
    for channel in np.moveaxis(image, -1, 0):
        yield np.minimum(channel * (_COLOURS / 256), _COLOURS - 1).astype(np.int32), _COLOURS
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).reshape(image.shape)
    across, down = (cv2.Scharr(smooth, cv2.CV_32F, *step).reshape(image.shape) / 32 for step in ((1, 0), (0, 1)))
    for angle in np.arange(_TURNS) * 2 * np.pi / _TURNS:
        edge = np.maximum(float(np.cos(angle)) * across + float(np.sin(angle)) * down, 0)
        most = np.maximum(edge.max((0, 1)), 1e-6)
        for channel in np.moveaxis(edge * (_TEXTURES / most), -1, 0):
            yield np.minimum(channel, _TEXTURES - 1).astype(np.int32), _TEXTURES


def _histograms(flat: np.ndarray, bins: np.ndarray, count: int, most: int) -> Float[np.ndarray, "r b"]:
    return np.bincount(flat * most + bins.ravel(), minlength=count * most).reshape(count, most).astype(np.float32)


def _extremes(flat: np.ndarray, values: np.ndarray, count: int, largest: bool) -> np.ndarray:
    """Give the least or largest value of each segment."""
    found = np.zeros(count, values.dtype)
    order = np.argsort(values if largest else -values, kind="stable")
    found[flat[order]] = values[order]  # the last one written stays
    return found


def _touching(number: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "p 2"]:
    sides = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    pairs = np.concatenate([np.stack([one.ravel(), other.ravel()], 1) for one, other in sides])
    return np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)


def _doubled(values: np.ndarray) -> np.ndarray:
    """Add the rows of segments that come about: one fewer than there are."""
    return np.concatenate([values, np.zeros((max(len(values) - 1, 0), *values.shape[1:]), values.dtype)])


def recall(
    proposals: Iterable[Float[np.ndarray, "n 4"]], truth: Iterable[Float[np.ndarray, "m 4"]], iou: float | int = 0.5
) -> float:
    """Return the share of true boxes that a proposal of their image overlaps by `iou` or more; nan without any.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import selective_search
      >>> truth = np.array([[0.0, 0, 4, 4], [8, 8, 9, 9]])
      >>> selective_search.recall([truth[:1]], [truth])
      0.5
    """
    found = []
    for boxes, real in zip(proposals, truth, strict=True):
        sides = np.minimum(boxes[:, None, 2:], real[None, :, 2:]) - np.maximum(boxes[:, None, :2], real[None, :, :2])
        inner = np.maximum(sides, 0).prod(-1)
        areas = [(one[:, 2:] - one[:, :2]).prod(-1) for one in (boxes, real)]
        overlap = inner / np.maximum(areas[0][:, None] + areas[1] - inner, 1e-9)
        found.append(overlap.max(0, initial=0) >= iou)
    return float(np.concatenate(found).mean()) if any(map(len, found)) else float("nan")
