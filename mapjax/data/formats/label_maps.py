"""Masks to label maps: class ids or colours of a file's pixels become 0-based classes, VOID where there is none.

A mask of one channel holds ids: line n of the list of classes, counted from 0, is id n. An indexed PNG holds them as
its indexes, unless a palette is given: then colours count, those of its own palette as those of an RGB mask. The id 255
is always void; so are classes named "void", "unlabelled" or "ignore".
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8

from mapjax.data import budgets, headers, images, labelled
from mapjax.data.formats import class_lists
from mapjax.data.formats.class_lists import VOID_NAMES, Colour
from mapjax.errors import UserError, near
from mapjax.stages import VOID

UNLISTED = "unlisted"


class Coding(NamedTuple):
    """What the pixels of masks mean.

    classes: the names.
    ids: the id (position in the list of names) that stands for each.
    table: id → class, VOID where it has none.
    known: which ids the list has.
    colours: red·65536 + green·256 + blue of the known colours, ascending.
    colour_classes: the class of each.
    origin: what lists the classes, for messages.
    mend: what else helps against an id that it does not have, for messages.
    palette: what gives the colours, for messages.
    """

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    table: UInt8[np.ndarray, "256"]
    known: Bool[np.ndarray, "256"]
    colours: Int[np.ndarray, " k"]
    colour_classes: UInt8[np.ndarray, " k"]
    origin: str
    mend: str
    palette: str


def find_coding(
    root: pathlib.Path,
    *,
    classes: str | Sequence[str] | None,
    void: int | str | Sequence[int | str] | None,
    palette: str | Sequence[Any] | None,
    default: Sequence[Colour] = (),
) -> Coding:
    """Say what the masks below a folder mean: by `classes.txt`, one name a line, and `palette.txt`, or what is given.

    Args:
      root: the folder.
      classes: instead of classes.txt; where there is one or a palette, the choice and order of names from it.
      void: as for `make_coding`.
      palette: instead of palette.txt (or CVAT's labelmap.txt): lines as in there, or names with red, green, blue.
      default: the palette where nothing else is there.

    Raises:
      UserError: no list of classes, or something wrong with one.
    """
    listed = root / "classes.txt"
    files = [file for file in (root / "palette.txt", root / "labelmap.txt") if file.is_file()]
    given = None if classes is None else labelled.class_names(classes)
    if palette is not None:
        lines = re.split("[;|]", palette) if isinstance(palette, str) else palette
        colours, palette_origin = class_lists.palette_of(lines, "palette="), "palette="
    elif files:
        colours, palette_origin = class_lists.read_palette(files[0]), str(files[0])
    elif listed.is_file() or given is not None:
        colours, palette_origin = [], ""
    else:
        colours, palette_origin = list(default), "the list of Pascal VOC (palette.txt gives another)"
    origin = palette_origin
    if listed.is_file():
        names, origin = class_lists.read_names(listed), str(listed)
    elif colours and colours == list(default):
        names = [name for name, *_ in colours if name.lower() not in VOID_NAMES]
    elif colours:
        names = list(dict.fromkeys(name for name, *_ in colours))
    elif given is not None:
        names, given, origin = list(given), None, "classes="
    else:
        raise UserError(f"{listed} is not there: write the names of the classes to it, that of id 0 first, one a line.")
    return make_coding(names, origin, void=void, palette=colours, palette_origin=palette_origin, classes=given)


def make_coding(
    names: Sequence[str],
    origin: str,
    *,
    void: int | str | Sequence[int | str] | None = None,
    palette: Sequence[Colour] = (),
    palette_origin: str = "palette=",
    classes: Sequence[str] | None = None,
    mend: str = ", or say data.void={id} (--data masks:path=DIR,void={id}) if such pixels have no class",
) -> Coding:
    """Say what ids and colours mean.

    Args:
      names: of all ids, in order. One name at several places is one class.
      origin: what lists them, for messages: a file.
      void: ids or names of those that are no classes, besides 255 and VOID_NAMES; UNLISTED is every id without a name.
      palette: the colour of names.
      palette_origin: what gives them, for messages.
      classes: which names are classes, in order; all others are void. By default all that are not void.
      mend: what else than a line more helps against an id that is not listed, for messages.

    Raises:
      UserError: no classes or more than 255; a name in `void`, `palette` or `classes` that is not among `names`; a
        class that the palette leaves out.
    """
    lenient = void == UNLISTED
    void = None if lenient else _void_items(void, names)
    nothing = _void_names(void, names, origin)
    if classes is None:
        nothing |= {name for name in names if name.lower() in VOID_NAMES}
    chosen = tuple(name for name in dict.fromkeys(names if classes is None else classes) if name not in nothing)
    coloured = {colour[0] for colour in palette}
    unnamed = {name for name in coloured if name.lower() in VOID_NAMES and name not in names}
    for name in (*chosen, *(coloured - unnamed)):
        if name not in names:
            raise UserError(f"{origin} has no class {name!r}.{near(name, names)}")
    for name in chosen if palette else ():
        if name not in coloured:
            raise UserError(f"the palette has no colour for the class {name!r} of {origin}.{near(name, coloured)}")
    if not chosen or len(names) > VOID:
        raise UserError(
            f"{origin} must name from 1 to {VOID} classes, for masks hold 8-bit ids; it names {len(names)}."
        )
    table, known = np.full(256, VOID, np.uint8), np.zeros(256, bool)
    known[[*range(len(names)), VOID, *(one for one in void or () if isinstance(one, int))]] = True
    known |= lenient
    for number, name in enumerate(names):
        if name in chosen:
            table[number] = chosen.index(name)
    listed = {name: table[number] for number, name in reversed(list(enumerate(names)))}
    rows = sorted(((red << 16) + (green << 8) + blue, listed.get(name, VOID)) for name, red, green, blue in palette)
    return Coding(
        chosen,
        tuple(map(list(names).index, chosen)),
        table,
        known,
        np.array([code for code, _ in rows], np.int32),
        np.array([number for _, number in rows], np.uint8),
        origin,
        mend,
        palette_origin,
    )


def _void_items(void: Any, names: Sequence[str]) -> tuple[int | str, ...]:
    """Give what is void as a tuple; "11" is an id, unless a class has that name; "0, 11, sky" is three."""
    if isinstance(void, str) and void not in names:
        void = [part.strip() for part in void.strip("()").split(",") if part.strip()]
    given = () if void is None else (void,) if isinstance(void, int | str) else tuple(void)
    return tuple(
        int(one) if isinstance(one, str) and re.fullmatch("[0-9]{1,9}", one) and one not in names else one
        for one in given
    )


def _void_names(void: Any, names: Sequence[str], origin: str) -> set[str]:
    """Return the names that are void, and check what was given."""
    found = set[str]()
    for one in void or ():
        if isinstance(one, int) and not 0 <= one <= 255:
            raise UserError(f"void={one!r} must be ids from 0 to 255, or names of {origin}.")
        if isinstance(one, str) and one not in names:
            raise UserError(f"void={one!r} is no id, and {origin} does not name it.{near(one, names)}")
        if isinstance(one, str):
            found.add(one)
        elif one < len(names):
            found.add(names[one])
    return found


def read(file: str, coding: Coding, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Read the label map of an image of height, width from its mask.

    Raises:
      UserError: the mask is missing, cannot be read or has another size; an id or a colour that the list of classes
        does not have; colours where there is no palette.
    """
    pixels, own = read_pixels(file)
    require_size(pixels, size, file)
    if pixels.ndim == 3:
        return _from_colours(pixels, coding, file)
    if own is not None and len(coding.colours):
        return _from_colours(own[pixels], coding, file)
    return _from_ids(pixels, coding, file)


def require_size(pixels: np.ndarray, size: tuple[int, int], file: str) -> None:
    """Refuse a mask that is not as large as its image of height, width.

    Raises:
      UserError: naming both sizes.
    """
    if pixels.shape[:2] != size:
        raise UserError(
            f"{file} has {pixels.shape[0]}×{pixels.shape[1]} pixels (height × width), and its image has "
            f"{size[0]}×{size[1]}; make them the same."
        )


def read_segments(file: str, size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    """Read a panoptic mask of an image of height, width: of each pixel red + 256 green + 65536 blue.

    Raises:
      UserError: it is missing, cannot be read, has another size, or is not in RGB.
    """
    pixels, own = read_pixels(file)
    require_size(pixels, size, file)
    if own is not None:
        pixels = own[pixels]
    if pixels.ndim != 3:
        raise UserError(f"{file} is not in RGB, as panoptic masks are; write it again.")
    wide = pixels.astype(np.int32)
    return wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)


def read_pixels(file: str) -> tuple[np.ndarray, UInt8[np.ndarray, "256 3"] | None]:
    """Read a mask as it is stored: ids (h w), or colours (h w 3) uint8, and an indexed PNG's own palette.

    Raises:
      UserError: it is missing, or no image of these kinds.
    """
    try:
        header = images.read_header(file, mask=True)
        with headers.open_file(file) as stream, headers.open_by_pillow(stream, header.kind) as image:
            if image.mode in ("RGB", "RGBA"):  # ten bytes a pixel while they are read
                images.read_header(file)
            mode, pixels = image.mode, np.array(image)
            own = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3) if mode in ("P", "PA") else None
            own = None if own is None else np.pad(own, ((0, 256 - len(own)), (0, 0)))
    except headers.NoSuchImage as error:
        raise UserError(f"{file}: there is no such mask.") from error
    except budgets.TooLarge:
        raise
    except Exception as error:  # whatever a broken file may raise inside a decoder
        raise UserError(f"{file} is not a mask that can be read ({error}); write it again.") from error
    if mode in ("LA", "PA"):
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and mode in ("RGB", "RGBA"):
        return np.ascontiguousarray(pixels[..., :3]), None
    if pixels.ndim == 2 and pixels.dtype.kind in "bui":
        return pixels.astype(np.uint8) if pixels.dtype == bool else pixels, own
    raise UserError(f"{file} is an image of the kind {mode}; save masks as PNG of 8-bit ids, indexed or in RGB.")


def _from_ids(ids: np.ndarray, coding: Coding, file: str) -> np.ndarray:
    if ids.dtype != np.uint8:
        _require(ids <= 255, ids, coding, file)
        ids = ids.astype(np.uint8)
    known = cv2.LUT(ids, coding.known.astype(np.uint8))
    _require(known.astype(bool), ids, coding, file)
    return cv2.LUT(ids, coding.table)


def _require(good: np.ndarray, ids: np.ndarray, coding: Coding, file: str) -> None:
    if good.all():
        return
    row, column = map(int, np.argwhere(~good)[0])
    number, last = int(ids[row, column]), int(np.flatnonzero(coding.known[:VOID])[-1])
    raise UserError(
        f"{file} has the id {number} (row {row}, column {column}), and {coding.origin} names the ids 0 to {last} only: "
        f"add it there{coding.mend.format(id=number)}."
    )


def _from_colours(pixels: np.ndarray, coding: Coding, file: str) -> np.ndarray:
    if not len(coding.colours):
        if (pixels == pixels[..., :1]).all():
            return _from_ids(np.ascontiguousarray(pixels[..., 0]), coding, file)  # ids, saved as grey in RGB
        raise UserError(f"{file} is in colours; write what they mean to palette.txt, 'name r g b' a line.")
    wide = pixels.astype(np.int32)
    codes = (wide[..., 0] << 16) + (wide[..., 1] << 8) + wide[..., 2]
    rows = np.searchsorted(coding.colours, codes).clip(max=len(coding.colours) - 1)
    good = coding.colours[rows] == codes
    if not good.all():
        row, column = map(int, np.argwhere(~good)[0])
        raise UserError(
            f"{file} has the colour {tuple(pixels[row, column].tolist())} (row {row}, column {column}), which "
            f"{coding.palette} does not have; add 'NAME r g b' there, with the name 'void' if it has no class."
        )
    return coding.colour_classes[rows]
