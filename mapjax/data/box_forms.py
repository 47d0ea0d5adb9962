"""Boxes as a file gives them, judged against their images: are most of them written in another form than is read?

A few boxes that are empty or outside are mistakes, left out and counted. Where most are, all of them are likely to mean
something else: the form under which they fit their images is named.
"""

import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mapjax.data import geometry
from mapjax.data.objects import MIN_SIDE
from mapjax.errors import UserError

Boxes = Float[np.ndarray, "n 4"]

_ROUNDING = 0.5  # pixels by which a box may reach beyond its image without a word
_WHOLE = 0.9  # share of a box inside its image from which on it is taken for right
_SHARES = "they look like shares of the image from 0 to 1: multiply them by its width and height"
_CONFINED = "box, all in the upper left quarters of their images, as those of smaller images, or percents, would be"
_FEWEST, _FEW = 4, 10  # boxes that tell another form that fits, and one that boxes cut off at a border may fit


def _corners(given: Boxes) -> Boxes:
    return given


def _sides(given: Boxes) -> Boxes:
    return np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)


def _centres(given: Boxes) -> Boxes:
    return np.concatenate([given[:, :2] - given[:, 2:] / 2, given[:, :2] + given[:, 2:] / 2], axis=1)


class Form(NamedTuple):
    """A form in which files give boxes: what it is called, and its numbers as x1,y1,x2,y2."""

    name: str
    corners: Callable[[Boxes], Boxes]


CORNERS = Form("corners x1,y1,x2,y2", _corners)
SIDES = Form("x,y,width,height", _sides)
CENTRES = Form("centre x, centre y, width, height", _centres)
_OTHERS = (  # of several that fit alike the first is named
    CORNERS,
    SIDES,
    Form("corners y1,x1,y2,x2, rows first", lambda given: given[:, [1, 0, 3, 2]]),
    Form("corners x2,y2,x1,y1, the last first", lambda given: given[:, [2, 3, 0, 1]]),
    CENTRES,
)


def is_clipped(box: Sequence[float], clipped: Sequence[float]) -> bool:
    """Tell whether more than a rounding error was cut off a box."""
    (x1, y1, x2, y2), (left, top, right, bottom) = box, clipped
    return max(left - x1, top - y1, x2 - right, y2 - bottom) > _ROUNDING


class Written:
    """The boxes of a split as its file has them."""

    def __init__(self, form: Form):
        """Take the form in which they are read."""
        self.form = form
        self._numbers = array.array("d")
        self._places: list[str] = []
        self._shares: list[str] = []  # where objects have points within 0 and 1
        self._pointed = 0

    def add(self, given: Sequence[float], size: geometry.Size, other: geometry.Size, place: str) -> None:
        """Take one box, as written, of an image of height, width, and `other` the other way up; and where it is."""
        self._numbers.extend((*given, *size, *other))
        self._places.append(place)

    def add_points(self, points: Float[np.ndarray, "k 2"], place: str) -> None:
        """Take the keypoints or the polygons of an object, x,y, as written."""
        if len(points):
            self._pointed += 1
            if ((points >= 0) & (points <= 1)).all():
                self._shares.append(place)

    def require_plausible(self, where: str) -> None:
        """Stop where most of the boxes do not fit their images, or most of the points are shares of it.

        Args:
          where: the file and the split, for the message.

        Raises:
          UserError: naming the first of them, how many there are, and what they may be instead.
        """
        if self._pointed >= _FEWEST and 2 * len(self._shares) > self._pointed:
            raise UserError(
                f"{where}: of {len(self._shares)} of {self._pointed} objects all points are from 0 to 1, such as "
                f"{self._shares[0]}; {_SHARES}."
            )
        given, sizes, others = self._arrays()
        odd, lost = _judged(self.form.corners(given), sizes)
        cause = _cause(given, sizes, others, self.form, odd, lost)
        if not cause:
            return
        first = int(np.flatnonzero(odd)[0])
        numbers, (height, width) = ", ".join(f"{value:g}" for value in given[first]), sizes[first].astype(int)
        raise UserError(
            f"{where}: {odd.sum()} of {len(odd)} boxes, read as {self.form.name}, are empty, under a pixel or not in "
            f"their image, such as {self._places[first]}: ({numbers}) in {height}×{width} pixels (height × width); "
            f"{cause}."
        )

    def noted(self) -> dict[str, list[str]]:
        """Return what is odd about all boxes together, and where they are written; nothing where nothing is."""
        given, sizes, _ = self._arrays()
        confined = len(given) >= _FEW and (self.form.corners(given)[:, 2:] < sizes[:, ::-1] / 2).all()
        return {_CONFINED: self._places} if confined else {}

    def _arrays(self) -> tuple[Boxes, np.ndarray, np.ndarray]:
        """Return the boxes, the sizes of their images, and those the other way up."""
        rows = np.frombuffer(self._numbers, np.float64).reshape(-1, 8)
        return rows[:, :4], rows[:, 4:6], rows[:, 6:]


def _judged(corners: Boxes, sizes: Float[np.ndarray, "n 2"]) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Tell which boxes are not quite in their images of height, width or too small, and of which little is left."""
    extents = sizes[:, [1, 0, 1, 0]]
    with np.errstate(over="ignore", invalid="ignore"):
        sides = corners[:, 2:] - corners[:, :2]
        visible = geometry.box_areas(np.clip(corners, 0, extents)) / np.maximum(geometry.box_areas(corners), 1e-9)
    thin = ~(sides >= MIN_SIDE).all(axis=1)
    return thin | ~(visible >= _WHOLE), thin | ~(visible >= 0.5)


def _fits(corners: Boxes, sizes: Float[np.ndarray, "n 2"]) -> float:
    """Return the share of boxes that are inside their images of height, width."""
    inside = (corners >= -_ROUNDING).all(axis=1) & (corners <= sizes[:, [1, 0, 1, 0]] + _ROUNDING).all(axis=1)
    return float(np.mean(inside & (corners[:, 2:] - corners[:, :2] >= MIN_SIDE).all(axis=1)))


def _cause(
    given: Boxes,
    sizes: Float[np.ndarray, "n 2"],
    others: Float[np.ndarray, "n 2"],
    form: Form,
    odd: Bool[np.ndarray, " n"],
    lost: Bool[np.ndarray, " n"],
) -> str:
    """Name what boxes of which many are odd may be instead, and the mend; nothing where they are plausible."""
    if len(odd) < _FEWEST:
        return ""
    enough = 0.9 if odd.mean() > 0.5 else 0.99 if odd.mean() > 0.25 and len(odd) >= _FEW else np.inf
    if ((given >= 0) & (given <= 1)).all(axis=1).mean() >= enough:
        return _SHARES
    with np.errstate(over="ignore", invalid="ignore"):
        if (sizes != others).any() and _fits(form.corners(given), others) >= enough:
            return "they fit where EXIF turns the images the other way: see data.orientation"
        forms = [other for other in _OTHERS if other is not form and (other is not CENTRES or len(odd) >= _FEW)]
        fits = {other.name: _fits(other.corners(given), sizes) for other in forms}
    best = max(fits, key=fits.__getitem__)
    if fits[best] >= enough:
        return f"they look like {best}: write {form.name} instead"
    if len(odd) >= _FEW and lost.mean() > 0.5:
        return "they were probably drawn on images of another size, or on other images: correct the boxes or the images"
    return ""
