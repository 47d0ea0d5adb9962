"""The label files of YOLO: a row an object, its class and shares of the image from 0 to 1, in one of three forms.

class cx cy w h                        a box by its centre, width and height
class x1 y1 x2 y2 x3 y3 …              a polygon, of three corners or more
class cx cy w h  x y [v]  x y [v] …    a box and its keypoints, as many as `kpt_shape` says
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mapjax.data import fields, geometry
from mapjax.data.geometry import Size

BOX, POLYGON, KEYPOINTS = "rows of five", "polygons", "keypoints"

NO_NUMBERS = "a row that is not all finite numbers"
NO_CLASS = "a row whose class is no whole number from 0 on"
LENGTH = "a row of another length"
MENDS = {
    NO_NUMBERS: "write numbers with points, divided by spaces",
    NO_CLASS: "write the class first, from 0 on",
    LENGTH: "a row is class, cx, cy, w, h, or class and the corners of a polygon; keypoints need kpt_shape in "
    "data.yaml, and scores have no place",
}
MOST_CLASS = 99_999  # so that classes without names can be numbered


class Row(NamedTuple):
    """One line: its number, its class, what follows, and what is wrong with it, or nothing."""

    line: int
    category: int
    numbers: tuple[float, ...]
    fault: str


class Object(NamedTuple):
    """What a row says, in pixels.

    form: of the three.
    given: centre x, centre y, width, height.
    polygon: its corners (k 2), or none.
    keypoints: x,y,visibility (n 3), or none.
    """

    form: str
    given: tuple[float, float, float, float]
    polygon: Float[np.ndarray, "k 2"]
    keypoints: Float[np.ndarray, "n 3"]

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Return x1,y1,x2,y2."""
        x, y, width, height = self.given
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    @property
    def area(self) -> float:
        """Return what the polygon encloses, else the box's area, in pixels²."""
        x, y = self.polygon.T
        enclosed = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
        return enclosed or self.given[2] * self.given[3]


def read(text: str, points: tuple[int, int] = (0, 0)) -> list[Row]:
    """Read the rows of a label file; empty lines are passed over.

    Args:
      points: of kpt_shape, how many keypoints an object has, and 2 or 3 numbers for each; (0, 0): none.

    Example:
      >>> from mapjax.data.formats import yolo_rows
      >>> [row.fault for row in yolo_rows.read("0 .5 .5 .2 .2\\n\\n1 0 0 1 0 1 1\\n2 .5 .5 nan 1\\n3 .5")]
      ['', '', 'a row that is not all finite numbers', 'a row of another length']
    """
    return [_row(number, cells, points) for number, cells in enumerate(map(str.split, text.split("\n")), 1) if cells]


def form_of(row: Row, points: tuple[int, int]) -> str:
    """Tell which of the three forms a row without fault has."""
    if len(row.numbers) == 4:
        return BOX
    return KEYPOINTS if points[0] else POLYGON


def place(row: Row, size: Size, points: tuple[int, int]) -> Object:
    """Give a row without fault in pixels of an image of height, width."""
    height, width = size
    form = form_of(row, points)
    none, unseen = np.zeros((0, 2)), np.zeros((points[0], 3), np.float32)
    if form == POLYGON:
        polygon = np.array(row.numbers).reshape(-1, 2) * (width, height)
        x1, y1, x2, y2 = geometry.bounds(polygon).tolist()
        return Object(form, ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), polygon, unseen)
    x, y, across, down = row.numbers[:4]
    found = _keypoints(row.numbers[4:], size, points) if form == KEYPOINTS else unseen
    return Object(form, (x * width, y * height, across * width, down * height), none, found)


def _row(line: int, cells: Sequence[str], points: tuple[int, int]) -> Row:
    try:
        numbers = tuple(map(float, cells))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)) or max(map(abs, numbers)) > 1e9:
        return Row(line, -1, (), NO_NUMBERS)
    category = fields.whole(numbers[0], 0, MOST_CLASS)
    if category is None:
        return Row(line, -1, (), NO_CLASS)
    count = len(numbers) - 1
    allowed = count == 4 + points[0] * points[1] if points[0] else count >= 6 and count % 2 == 0
    return Row(line, category, numbers[1:], "" if count == 4 or allowed else LENGTH)


def _keypoints(numbers: Sequence[float], size: Size, points: tuple[int, int]) -> Float[np.ndarray, "n 3"]:
    """Read keypoints as x,y,visibility; without visibility those at the origin or outside are not labelled."""
    given = np.array(numbers, np.float64).reshape(points)
    found = np.zeros((points[0], 3), np.float32)
    found[:, :2] = given[:, :2] * (size[1], size[0])
    labelled = (given[:, :2] >= 0).all(axis=1) & given[:, :2].any(axis=1)
    found[:, 2] = given[:, 2] if points[1] == 3 else np.where(labelled, 2, 0)
    return found
