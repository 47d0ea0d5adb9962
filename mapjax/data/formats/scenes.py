"""The embedded data set: real handwritten digits on crops of real photos, made on the fly, no download.

Scikit-learn ships 1,797 handwritten digits of 8×8 pixels and two photos. A scene is a random crop of a photo in a
random light, with lines, blobs and arcs for clutter, and one to six digits, each enlarged smoothly, turned, coloured
to stand out from what is behind it, sometimes on a plate, and overlapping. Ten classes; boxes and masks are those of
the visible strokes, and so is the label map, which has the background as its class 0. A scene is a pure function of
(seed, split, index). Training and validation share neither digits nor any part of a photo.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np

from mapjax.data import bundled, geometry
from mapjax.data.source import Record, Records, Source
from mapjax.errors import NoSuchSplit, UserError, near

ABOUT = "scenes (boxes, masks or label maps; embedded)"
EMBEDDED = True  # it needs no path

CLASSES = tuple("0123456789")
SPLITS = ("train", "val")
VERSION = 3  # of the recipe below: part of the fingerprint

_TILE = 48  # pixels of an enlarged digit; its 8×8 original covers the middle 40
_MIN_VISIBLE = 0.85  # share of every digit's strokes that later digits must leave uncovered
_VAL_SHARE = 0.25  # of the digits of every class, and of the width of the photos
_CONTRAST = 70  # least difference in brightness between strokes and what is behind them, of 255


def make(
    *,
    split: str,
    seed: int = 0,
    size: tuple[int, int] = (128, 128),
    digits: tuple[int, int] = (1, 6),
    train_digits: tuple[int, int] | None = None,
    digit_size: tuple[float | int, float | int] = (18.0, 56.0),
    train_length: int = 20_000,
    val_length: int = 500,
    needs: str = "boxes",
) -> Source:
    """Make the source of one split.

    Args:
      split: "train" or "val".
      seed: of the scenes; the division of the digits into the splits is always the same.
      size: height, width of the scenes in pixels.
      digits: least and most digits a scene (a digit that finds no room is left out).
      train_digits: in training, if these shall be more, so that there is more to learn from a scene.
      digit_size: least and largest side in pixels of the square in which a digit is written.
      train_length, val_length: scenes in each split.
      needs: what the task learns from: with "label_map" records have that and no boxes.

    Raises:
      UserError: another split, or sizes and numbers that make no scene.

    Example:
      >>> from mapjax.data.formats import scenes
      >>> record = scenes.make(split="val", size=(64, 64), val_length=1).records[0]
      >>> record["image"].shape, len(record["boxes"]) == len(record["classes"])
      ((64, 64, 3), True)
    """
    if split not in SPLITS:
        raise NoSuchSplit(f"scenes has no split {split!r}.{near(split, SPLITS)}")
    length = train_length if split == "train" else val_length
    digits = train_digits if split == "train" and train_digits else digits
    if min(size) < 32 or length < 1 or not 1 <= digits[0] <= digits[1] or not 8 <= digit_size[0] <= digit_size[1]:
        raise UserError(
            f"scenes need size >= (32, 32), a length >= 1, 1 <= digits[0] <= digits[1] and 8 <= digit_size[0] <= "
            f"digit_size[1]; found size={size}, length={length}, digits={digits}, digit_size={digit_size}."
        )
    low, high = map(float, digit_size)
    recipe = _Recipe(split, seed, (size[0], size[1]), (digits[0], digits[1]), (low, high), length)
    fingerprint = f"scenes-{VERSION}-{'-'.join(str(part) for part in recipe)}"
    sizes = np.broadcast_to(np.array(recipe.size, np.int32), (length, 2))
    if needs != "label_map":
        records = Records(length, partial(draw, recipe), sizes=sizes)
        return Source("scenes", split, CLASSES, tuple(range(1, 11)), records, {}, fingerprint)
    return Source(
        name="scenes",
        split=split,
        classes=("background", *CLASSES),
        category_ids=tuple(range(11)),
        records=Records(
            length, partial(_mapped, recipe), truth=partial(_named, recipe), sizes=sizes,
            label_map=partial(_label_map, recipe),
        ),
        dropped={},
        fingerprint=f"{fingerprint}-label_map",
    )  # fmt: skip


class _Recipe(NamedTuple):
    split: str
    seed: int
    size: geometry.Size
    digits: tuple[int, int]
    digit_size: tuple[float, float]
    length: int


def draw(recipe: _Recipe, index: int) -> Record:
    """Draw one scene."""
    rng = np.random.default_rng((recipe.seed, SPLITS.index(recipe.split), index))
    scene = _background(rng, recipe.split, recipe.size)
    _clutter(rng, scene)
    masks, classes = _digits(rng, scene, recipe)
    scene = _light(rng, scene)
    boxes = [geometry.mask_bounds(mask) for mask in masks]
    return {
        **_named(recipe, index),
        "image": scene,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "classes": np.array(classes, np.int32),
        "crowd": np.zeros(len(classes), bool),
        "areas": np.array([mask.sum() for mask in masks], np.float32),
        "masks": np.array(masks, bool).reshape(-1, *recipe.size),
    }


def _named(recipe: _Recipe, index: int) -> Record:
    return {"id": index, "file": f"{recipe.split}/{index:06d}", "size": np.array(recipe.size, np.int32)}


def _mapped(recipe: _Recipe, index: int) -> Record:
    """Draw one scene with its label map."""
    scene = draw(recipe, index)
    label_map = np.zeros(recipe.size, np.uint8)
    for mask, digit in zip(scene["masks"], scene["classes"]):  # of what overlaps, the later digit is on top
        label_map[mask] = digit + 1
    return {**_named(recipe, index), "image": scene["image"], "label_map": label_map}


def _label_map(recipe: _Recipe, index: int) -> np.ndarray:
    return _mapped(recipe, index)["label_map"]


@lru_cache(maxsize=1)
def _glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Enlarge all digits once: coverage (1797, _TILE, _TILE) uint8, and their classes."""
    images, classes = bundled.digits()
    small = np.pad(images.astype(np.float32) / 16, ((0, 0), (1, 1), (1, 1)))
    tiles = np.empty((len(small), _TILE, _TILE), np.uint8)
    for glyph, tile in zip(small, tiles):
        smooth = cv2.resize(glyph, (50, 50), interpolation=cv2.INTER_CUBIC)[1:-1, 1:-1]
        # A steeper edge than that of the enlarged 8×8 grid: strokes, not clouds.
        tile[:] = 255 * np.clip((smooth - 0.45) * 4 + 0.5, 0, 1)
    return tiles, classes


@lru_cache(maxsize=2)
def _members(split: str) -> np.ndarray:
    """The digits of one split, by position: in each class a fixed random quarter is for validation."""
    _, classes = _glyphs()
    rng = np.random.default_rng(1797)
    held_out = np.zeros(len(classes), bool)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(classes == digit))
        held_out[rows[: round(len(rows) * _VAL_SHARE)]] = True
    return np.flatnonzero(held_out == (split == "val"))


@lru_cache(maxsize=2)
def _photos(split: str) -> tuple[np.ndarray, ...]:
    """The part of each photo that belongs to one split: the left to training, the right to validation."""
    photos = bundled.photos()
    border = round(photos[0].shape[1] * (1 - _VAL_SHARE))
    return tuple(photo[:, :border] if split == "train" else photo[:, border:] for photo in photos)


def _background(rng: np.random.Generator, split: str, size: geometry.Size) -> np.ndarray:
    photos = _photos(split)
    photo = photos[rng.integers(len(photos))]
    height, width = size
    # As large as fits into validation's part, in training as well: both see their photos in the same range of sizes.
    zoom = rng.uniform(0.4, 1.0) * min(photo.shape[0] / height, _photos("val")[0].shape[1] / width)
    window = max(int(height * zoom), 1), max(int(width * zoom), 1)
    top, left = (int(rng.integers(n - w + 1)) for n, w in zip(photo.shape[:2], window))
    image = np.ascontiguousarray(photo[top : top + window[0], left : left + window[1]])
    scene = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(scene, 1) if rng.random() < 0.5 else scene


def _clutter(rng: np.random.Generator, scene: np.ndarray) -> None:
    """Draw lines, blobs and arcs, stroke-like but no digits."""
    height, width = scene.shape[:2]
    for _ in range(rng.integers(0, 7)):
        colour = rng.integers(0, 256, 3).tolist()
        x, y = int(rng.integers(width)), int(rng.integers(height))
        thickness = int(rng.integers(1, 4))
        kind = rng.random()
        if kind < 0.4:
            end = (x + int(rng.integers(-width // 2, width // 2)), y + int(rng.integers(-height // 2, height // 2)))
            cv2.line(scene, (x, y), end, colour, thickness, cv2.LINE_AA)
        elif kind < 0.7:
            axes = (int(rng.integers(4, 18)), int(rng.integers(4, 18)))
            start, turned = rng.integers(0, 360, 2).tolist()
            cv2.ellipse(scene, (x, y), axes, turned, start, start + int(rng.integers(60, 180)), colour, thickness)
        else:
            cv2.circle(scene, (x, y), int(rng.integers(2, 12)), colour, cv2.FILLED, cv2.LINE_AA)


def _digits(rng: np.random.Generator, scene: np.ndarray, recipe: _Recipe) -> tuple[list[np.ndarray], list[int]]:
    """Write the digits onto the scene.

    Returns:
      The mask of the visible strokes of each, and their classes.
    """
    tiles, classes = _glyphs()
    members = _members(recipe.split)
    strokes = np.zeros(recipe.size, bool)
    masks: list[np.ndarray] = []
    whole: list[int] = []
    labels: list[int] = []
    wanted = int(rng.integers(recipe.digits[0], recipe.digits[1] + 1))
    for _ in range(3 * wanted):
        member = members[rng.integers(len(members))]
        plate = rng.random() < 0.25
        place = _place(rng, recipe)
        ink = _ink(tiles[member], place, recipe.size)
        paper = _plate(place, recipe.size) if plate else ink
        mask = ink > 127
        cover = paper > 127
        left = [np.count_nonzero(other & ~cover) for other in masks]
        if any(count < _MIN_VISIBLE * all_of_it for count, all_of_it in zip(left, whole)):
            continue
        _write(rng, scene, ink, paper if plate else None, strokes)
        strokes = (strokes & ~cover) | mask
        masks = [other & ~cover for other in masks] + [mask]
        whole.append(int(np.count_nonzero(mask)))
        labels.append(int(classes[member]))
        if len(labels) == wanted:
            break
    return masks, labels


def _place(rng: np.random.Generator, recipe: _Recipe) -> np.ndarray:
    """Draw where a tile goes: size (small ones as often as large), angle, stretch and position inside the scene."""
    height, width = recipe.size
    low, high = recipe.digit_size
    side = float(np.exp(rng.uniform(np.log(low), np.log(min(high, 0.8 * min(recipe.size))))))
    stretch = float(np.exp(rng.uniform(-0.2, 0.2)))
    margin = 0.45 * side
    x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
    centred = geometry.translate(-_TILE / 2, -_TILE / 2)
    grown = geometry.scale(side / 40 * stretch, side / 40 / stretch)
    turned = geometry.rotate(rng.uniform(-20, 20))
    return geometry.compose(centred, grown, turned, geometry.translate(x, y))


def _ink(tile: np.ndarray, place: np.ndarray, size: geometry.Size) -> np.ndarray:
    """Coverage of the strokes of a digit."""
    frame = geometry.clip_boxes(geometry.map_boxes(place, np.array([[0.0, 0, _TILE, _TILE]])), size)[0]
    (left, top), (right, bottom) = np.floor(frame[:2]).astype(int).tolist(), np.ceil(frame[2:]).astype(int).tolist()
    ink = np.zeros(size, np.uint8)
    here = geometry.compose(place, geometry.crop(left, top))[:2]
    ink[top:bottom, left:right] = cv2.warpAffine(tile, here, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    return ink


def _plate(place: np.ndarray, size: geometry.Size) -> np.ndarray:
    """Coverage of the plate under a digit: its tile's square, turned with it."""
    corners = geometry.map_points(place, np.array([[3.0, 3], [45, 3], [45, 45], [3, 45]]))
    paper = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(paper, np.rint(corners * 16).astype(np.int32), 255, cv2.LINE_AA, shift=4)
    return paper


def _write(
    rng: np.random.Generator, scene: np.ndarray, ink: np.ndarray, paper: np.ndarray | None, strokes: np.ndarray
) -> None:
    """Blend plate and strokes into the scene, in a colour that stands out from what is behind, strokes as well."""
    x, y, width, height = cv2.boundingRect(ink if paper is None else paper)
    window = (slice(y, y + height), slice(x, x + width))
    ink, view = ink[window], scene[window]
    if paper is not None:
        view[:] = _blend(view, paper[window], rng.integers(0, 256, 3))
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
    behind = [cv2.mean(grey, ink)[0]]
    if paper is None and (crossed := strokes[window] & (ink > 0)).any():
        behind.append(float(grey[crossed].mean()))
    view[:] = _blend(view, ink, _contrasting(rng, behind))


def _contrasting(rng: np.random.Generator, behind: list[float]) -> np.ndarray:
    """Draw a colour at least _CONTRAST brighter or darker than the grey levels behind (or as far as there is room)."""

    def distance(level: float) -> float:
        return min(abs(level - other) for other in behind)

    levels = (255 * rng.random(16)).tolist()
    level = next((n for n in levels if distance(n) >= _CONTRAST), None)
    level = max(0.0, 255.0, key=distance) if level is None else level
    colour = 255 * rng.random(3)
    # Move the colour's brightness to the level, towards black or white, so that it stays a colour.
    brightness = colour @ (0.299, 0.587, 0.114)
    if brightness > level:
        return colour * level / brightness
    return 255 - (255 - colour) * (255 - level) / (255 - brightness)


def _blend(below: np.ndarray, coverage: np.ndarray, colour: np.ndarray) -> np.ndarray:
    alpha = coverage[..., None].astype(np.float32) / 255
    return np.rint(below + (colour.astype(np.float32) - below) * alpha).astype(np.uint8)


def _light(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Brighten one side of the scene and darken the other, and add the grain of a camera."""
    height, width = scene.shape[:2]
    gain = rng.uniform(0.75, 1.15)
    slope_x, slope_y = rng.uniform(-0.25, 0.25, 2).tolist()
    across = gain + slope_x * np.linspace(-1, 1, width, dtype=np.float32)
    down = slope_y * np.linspace(-1, 1, height, dtype=np.float32)
    light = (across[None, :] + down[:, None])[..., None]
    lit = scene * light
    lit += rng.integers(-6, 7, (height, width, 1), dtype=np.int8)
    return np.clip(lit, 0, 255, out=lit).astype(np.uint8)
