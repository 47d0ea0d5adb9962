"""Geometry is one matrix: 3×3, homogeneous, from the pixels of one frame to those of another.

Coordinates are continuous: the left edge of the first pixel is 0, the right edge of the last is the width, and the
centre of pixel i is i + 0.5; x grows to the right and y downwards. Matrices are float64 and affine. An example's
augmentation is one product of them (`compose`), applied once to the image, its boxes, masks and points.
"""

from collections.abc import Callable
from functools import reduce

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

Matrix = Float[np.ndarray, "3 3"]
Size = tuple[int, int]  # height, width
Number = float | int
Window = Callable[[tuple[Number, Number], Size], Matrix]  # a size and a frame, both height, width: the way there


def identity() -> Matrix:
    """Return the mapping that changes nothing."""
    return np.eye(3)


def translate(x: Number, y: Number) -> Matrix:
    """Return the shift by x pixels to the right and y pixels down."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def scale(x: Number, y: Number | None = None) -> Matrix:
    """Return the magnification by x and y about the origin; y defaults to x."""
    return np.diag([float(x), float(x if y is None else y), 1.0])


def rotate(degrees: Number) -> Matrix:
    """Return the rotation about the origin, clockwise as seen (y grows downwards).

    Example:
      >>> from mapjax.data import geometry
      >>> geometry.rotate(90).round().tolist()
      [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def shear(x_degrees: Number, y_degrees: Number = 0.0) -> Matrix:
    """Return the shear about the origin that tilts vertical lines by x_degrees and horizontal ones by y_degrees."""
    return np.array([[1, np.tan(np.deg2rad(x_degrees)), 0], [np.tan(np.deg2rad(y_degrees)), 1, 0], [0, 0, 1.0]])


def flip_horizontal(width: Number) -> Matrix:
    """Return the mirroring of left and right in a frame `width` pixels wide."""
    return np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])


def flip_vertical(height: Number) -> Matrix:
    """Return the mirroring of top and bottom in a frame `height` pixels high."""
    return np.array([[1.0, 0, 0], [0, -1, height], [0, 0, 1]])


def crop(left: Number, top: Number) -> Matrix:
    """Return the mapping into a window whose top-left corner is there; the frame's size does the cutting."""
    return translate(-left, -top)


def letterbox(size: tuple[Number, Number], frame: Size) -> Matrix:
    """Return the largest magnification at which `size` (height, width) fits in `frame`, placed at its top left.

    Only an image so long that its short side would be thinner than a pixel is stretched, to one pixel.

    Example:
      >>> from mapjax.data import geometry
      >>> geometry.letterbox((10, 20), (40, 40)).diagonal().tolist()
      [2.0, 2.0, 1.0]
    """
    fit = min(frame[0] / size[0], frame[1] / size[1])
    return scale(max(fit, 1 / size[1]), max(fit, 1 / size[0]))


def stretch(size: tuple[Number, Number], frame: Size) -> Matrix:
    """Return the mapping of `size` (height, width) onto the whole of `frame`, each side magnified on its own.

    Example:
      >>> from mapjax.data import geometry
      >>> geometry.stretch((10, 20), (40, 40)).diagonal().tolist()
      [2.0, 4.0, 1.0]
    """
    return scale(frame[1] / size[1], frame[0] / size[0])


def about(matrix: Matrix, x: Number, y: Number) -> Matrix:
    """Return `matrix` applied about the point (x, y) instead of the origin.

    Example:
      >>> from mapjax.data import geometry
      >>> geometry.about(geometry.scale(2), 5, 5).tolist()
      [[2.0, 0.0, -5.0], [0.0, 2.0, -5.0], [0.0, 0.0, 1.0]]
    """
    return translate(x, y) @ matrix @ translate(-x, -y)


def compose(*matrices: Matrix) -> Matrix:
    """Return the mapping that applies the matrices in the order given, the first one first.

    Example:
      >>> from mapjax.data import geometry
      >>> geometry.compose(geometry.scale(2), geometry.translate(1, 0)).tolist()
      [[2.0, 0.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return reduce(lambda first, then: then @ first, matrices, identity())


def invert(matrix: Matrix) -> Matrix:
    """Return the mapping back.

    Raises:
      ZeroDivisionError: a matrix that flattens the plane.

    Example:
      >>> from mapjax.data import geometry
      >>> geometry.invert(geometry.translate(3, 4))[:2, 2].tolist()
      [-3.0, -4.0]
    """
    (a, b, x), (c, d, y), _ = matrix.tolist()
    over = 1 / (a * d - b * c)  # by hand: LAPACK takes 50 times as long for so small a matrix
    a, b, c, d = d * over, -b * over, -c * over, a * over
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y], [0, 0, 1]])


def map_points(matrix: Matrix, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
    """Map points x,y (key points, or the corners of polygons); the dtype is kept.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import geometry
      >>> geometry.map_points(geometry.scale(2, 3), np.array([[1.0, 1.0]])).tolist()
      [[2.0, 3.0]]
    """
    return (points @ matrix[:2, :2].T + matrix[:2, 2]).astype(points.dtype)


def map_boxes(matrix: Matrix, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Map boxes x1,y1,x2,y2 to the smallest upright boxes around their four mapped corners; the dtype is kept.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import geometry
      >>> geometry.map_boxes(geometry.flip_horizontal(10), np.array([[1.0, 2, 4, 6]])).tolist()
      [[6.0, 2.0, 9.0, 6.0]]
    """
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    mapped = map_points(matrix, corners)
    return np.concatenate([mapped.min(axis=1), mapped.max(axis=1)], axis=1)


def clip_boxes(boxes: Float[np.ndarray, "n 4"], size: Size) -> Float[np.ndarray, "n 4"]:
    """Cut boxes off at the border of a frame of height, width.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import geometry
      >>> geometry.clip_boxes(np.array([[-1.0, 2, 14, 6]]), (8, 10)).tolist()
      [[0.0, 2.0, 10.0, 6.0]]
    """
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def box_areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """Return width times height, 0 for a box turned inside out.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import geometry
      >>> geometry.box_areas(np.array([[1.0, 2, 4, 6]])).tolist()
      [12.0]
    """
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def shrink(
    image: UInt8[np.ndarray, "h w c"], matrix: Matrix
) -> tuple[UInt8[np.ndarray, "h2 w2 c"], Float[np.ndarray, "3 3"]]:
    """Average an image down by whole factors as far as `matrix` shrinks it anyway, so that bilinear sampling is fine.

    Returns:
      The smaller image and the matrix that takes it to where `matrix` took the original, exactly.
    """
    height, width = image.shape[:2]
    factors = np.floor(1 / np.maximum(np.linalg.norm(matrix[:2, :2], axis=0), 1e-9) + 1e-6)
    if factors.max() < 2:
        return image, matrix
    small_width, small_height = (
        max(round(n / f), 1) if f >= 2 else n for n, f in zip((width, height), factors.tolist())
    )
    small = cv2.resize(image, (small_width, small_height), interpolation=cv2.INTER_AREA)
    return small.reshape(small_height, small_width, -1), matrix @ scale(width / small_width, height / small_height)


def map_image(
    matrix: Matrix, image: UInt8[np.ndarray, "h w c"], size: Size, fill: tuple[int, ...] = (0, 0, 0)
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Map an image into a frame of height, width; bilinear, averaging first where it shrinks.

    A pixel whose centre comes from outside the image is `fill`; the others never mix with it.
    """
    image, matrix = shrink(image, matrix)
    height, width = size
    centred = _on_pixel_centres(matrix)[:2]
    if np.array_equal(centred, np.eye(2, 3)) and image.shape[:2] == size:
        return image.copy()
    mapped = cv2.warpAffine(image, centred, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mapped = mapped.reshape(height, width, -1)
    outside = _outside(matrix, image.shape[:2], size)
    if outside is not None:
        mapped[outside] = fill[: mapped.shape[2]]
    return mapped


def map_masks(matrix: Matrix, masks: Bool[np.ndarray, "n h w"], size: Size) -> Bool[np.ndarray, "n h2 w2"]:
    """Map instance masks into a frame of height, width: a pixel is set where its centre comes from a set pixel."""
    height, width = size
    centred = _on_pixel_centres(matrix)[:2]
    mapped = np.zeros((len(masks), height, width), bool)
    for mask, out in zip(masks, mapped):
        out[:] = cv2.warpAffine(mask.view(np.uint8), centred, (width, height), flags=cv2.INTER_NEAREST)
    return mapped


def map_labels(matrix: Matrix, labels: UInt8[np.ndarray, "h w"], size: Size, fill: int) -> UInt8[np.ndarray, "h2 w2"]:
    """Map a label map into a frame of height, width: a pixel has the class from where its centre comes, else `fill`.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import geometry
      >>> geometry.map_labels(geometry.scale(2), np.array([[1]], np.uint8), (2, 3), fill=255).tolist()
      [[1, 1, 255], [1, 1, 255]]
    """
    height, width = size
    centred = _on_pixel_centres(matrix)[:2]
    mapped = cv2.warpAffine(
        labels, centred, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
    return mapped.reshape(height, width)


def mask_outline(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "n 2"]:
    """Return points x,y whose convex hull is that of the mask's pixels (whole squares): the ends of every row."""
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    x, y = np.concatenate([left, right]), np.concatenate([rows, rows])
    return np.concatenate([np.stack([x, y], axis=1), np.stack([x, y + 1], axis=1)]).astype(np.float64)


def mask_bounds(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "4"]:
    """Return the smallest box x1,y1,x2,y2 around the mask's pixels (whole squares); all zeros for an empty mask.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import geometry
      >>> geometry.mask_bounds(np.eye(3, 4, 1, dtype=bool)).tolist()
      [1.0, 0.0, 4.0, 3.0]
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return np.array([x, y, x + width, y + height], np.float64)


def bounds(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "4"]:
    """Return the smallest upright box x1,y1,x2,y2 around points; all zeros for no points.

    Example:
      >>> import numpy as np
      >>> from mapjax.data import geometry
      >>> geometry.bounds(np.array([[3.0, 1.0], [2.0, 5.0]])).tolist()
      [2.0, 1.0, 3.0, 5.0]
    """
    if len(points) == 0:
        return np.zeros(4, points.dtype)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _on_pixel_centres(matrix: Matrix) -> Matrix:
    """Restate a matrix for pixel indices, as OpenCV counts: pixel i has its centre at i, not at i + 0.5."""
    return translate(-0.5, -0.5) @ matrix @ translate(0.5, 0.5)


def _outside(matrix: Matrix, size: Size, frame: Size) -> np.ndarray | None:
    """Return which pixels of the frame have their centre outside the mapped image; None if none has."""
    back = invert(matrix)
    height, width = frame
    corners = map_points(back, np.array([[0.0, 0], [width, 0], [0, height], [width, height]]))
    if (corners >= 0).all() and (corners <= (size[1], size[0])).all():
        return None
    x, y = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32)[:, None] + 0.5
    across, down = (np.float32(row[0]) * x + np.float32(row[1]) * y + np.float32(row[2]) for row in back[:2])
    return (across < 0) | (across >= size[1]) | (down < 0) | (down >= size[0])
