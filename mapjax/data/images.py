"""Images from files, bytes or arrays to uint8 RGB, whatever their format.

Images are turned upright, as their EXIF tag says, unless their labels were drawn on the pixels as stored.
"""

import io
import os
from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from mapjax.data import budgets, headers, tiffs
from mapjax.data.headers import Header
from mapjax.errors import UserError, near

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
ORIENTATIONS = ("upright", "stored")
OTHER_WAY = "box or part of one outside the image, but not the other way up (see data.orientation)"
_MOST_BYTES = 8  # a pixel, as 16 bits of four bands that are not packed at all
_AT_ONCE = 1 << 22  # values that are converted at once, for what that takes of memory

Decode = Callable[[float | int], tuple[UInt8[np.ndarray, "h w 3"], int]]
Size = tuple[int, int]


def read(image: str | os.PathLike | bytes | np.ndarray, *, orient: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image to RGB.

    Grayscale, palette, CMYK, 16-bit (scaled to 8) and transparent images (laid on white) all become 8-bit RGB.

    Args:
      image: a path, the encoded bytes, or a decoded array (h w), (h w 1), (h w 3) or (h w 4), uint8 or uint16.
      orient: turn the image upright as its EXIF tag says.

    Raises:
      UserError: a missing, unreadable or truncated file, one of too many pixels (budgets.py), or an array of another
        kind.
    """
    if isinstance(image, np.ndarray):
        return _to_rgb(image, "the array")
    name, data = _name(image), read_bytes(image)
    pixels = _decode(data, name)
    return _upright(pixels, headers.read_orientation(data)) if orient else pixels


def read_as_labelled(
    image: str | os.PathLike | bytes | np.ndarray, size: Size, *, stored: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image as its labels were drawn: upright, or as stored where only that has the labels' size.

    Args:
      image: as for `read`.
      size: height, width that the labels go with.
      stored: they were drawn on the image as stored; then the other way round.
    """
    if isinstance(image, np.ndarray):
        return read(image)
    data = read_bytes(image)
    pixels = _decode(data, _name(image))
    header = Header("", pixels.shape[:2], headers.read_orientation(data))
    this, other = frames(header, (0, 0), stored=stored)
    as_stored = stored != (this != size == other)
    return pixels if as_stored else _upright(pixels, header.orientation)


def frames(header: Header, declared: Size, *, stored: bool) -> tuple[Size, Size]:
    """Return height, width of the frame that labels were drawn on, upright or as stored, and those of the other.

    Args:
      header: of the image.
      declared: the size that the annotation gives; where it is that of the other frame alone, it is believed.
      stored: the labels of the data set were drawn on images as stored.
    """
    this, other = (header.stored, header.upright) if stored else (header.upright, header.stored)
    return (other, this) if declared == other else (this, other)


def fault_of_box(box: Sequence[float | int], size: Size, other: Size) -> str:
    """Say that a box x1,y1,x2,y2 leaves the image of height, width `size`, and would not leave the `other` way up.

    Numbers from 1 to the width, as some tools write them, leave nothing; so a pixel more is none.
    """
    leaves, fits = (any(side > most + 1 for side, most in zip(box[2:], whole[::-1])) for whole in (size, other))
    return OTHER_WAY if leaves and not fits else ""


def is_stored(orientation: str) -> bool:
    """Tell what the keyword `orientation` of a format says: labels were drawn on images "upright" or as "stored".

    Raises:
      UserError: it is neither.
    """
    if orientation not in ORIENTATIONS:
        raise UserError(f"data.orientation={orientation!r} is not known.{near(orientation, ORIENTATIONS)}")
    return orientation == "stored"


def peek(
    image: str | os.PathLike | bytes | np.ndarray, *, orient: bool = True, name: str | None = None
) -> tuple[Size, Decode]:
    """Read the height, width of an image now, and decode it when it is known how large it is needed.

    Args:
      image, orient: as for `read`.
      name: of the image, for the errors; by default its path.

    Returns:
      The size of the whole image, and `decode(shrink)`, which gives the image and the factor 1, 2, 4 or 8, at most
      `shrink`, by which it is smaller. Only a JPEG is decoded smaller, in a fraction of the time. Pixel i of n shows
      the original's from i·factor to (i + 1)·factor, so the last may reach beyond the original's border.

    Raises:
      UserError: as `read`; what only decoding can find, from `decode`.
    """
    name = name or _name(image)
    if isinstance(image, np.ndarray):
        pixels = _to_rgb(image, name)
        return pixels.shape[:2], lambda shrink: (pixels, 1)
    data = read_bytes(image)
    turned = headers.read_orientation(data) if orient else 1
    if turned == 1 and data[:2] == b"\xff\xd8":
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            if space not in ("CMYK", "YCCK"):
                size = (int(height), int(width))
                return size, partial(_decode_smaller, data, name, size)
        except ValueError:
            pass  # the whole decoding below says what is wrong
    pixels = _upright(_decode(data, name), turned)
    return pixels.shape[:2], lambda shrink: (pixels, 1)


def read_header(image: str | os.PathLike | bytes, *, mask: bool = False) -> Header:
    """Read the kind, size and orientation of an image, or of a mask, from its header alone.

    Raises:
      NoSuchImage: the file is missing.
      TooLarge: it says that it has too many pixels (budgets.py).
      UserError: it has no header that can be read.
    """
    name = _name(image)
    try:
        with io.BytesIO(image) if isinstance(image, bytes) else headers.open_file(image) as file:
            header = headers.read(file)
            length = file.seek(0, io.SEEK_END)
    except UserError:
        raise
    except Exception as error:  # whatever a broken file may raise inside a decoder
        raise UserError(f"{name} is not an image that can be read; replace or remove it.") from error
    budgets.require_pixels(header.stored, name, None if mask else length)
    return header


def read_size(image: str | os.PathLike | bytes, *, orient: bool = True) -> Size:
    """Read height, width of an image, upright unless `orient` is off; errors as for `read_header`."""
    header = read_header(image)
    return header.upright if orient else header.stored


def fault_of(error: UserError) -> str:
    """Say in a few words why an image cannot be used, to count it by: the error is one of these functions'."""
    if isinstance(error, budgets.TooLarge):
        return f"image of more pixels than {budgets.PIXELS}"
    return "missing image" if isinstance(error, headers.NoSuchImage) else "unreadable image"


def read_bytes(image: str | os.PathLike | bytes) -> bytes:
    """Return the encoded bytes of an image, whether it is one or not.

    Raises:
      NoSuchImage: the file is missing.
      UserError: it is no regular file, cannot be read, or is larger than any image may be.
    """
    if isinstance(image, bytes):
        return image
    name = os.fspath(image)
    with headers.open_file(image) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST_BYTES * budgets.limit(budgets.PIXELS):
            raise budgets.TooLarge(f"{name} has {size:,} bytes, more than any image that may be read; remove it.")
        try:
            return file.read()
        except OSError as error:
            raise UserError(f"{name}: this image file cannot be read ({error.strerror}).") from error


def _name(image: str | os.PathLike | bytes | np.ndarray) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else "the encoded image"


def _decode(data: bytes, name: str, least: Size = (0, 0)) -> np.ndarray:
    """Decode as stored; a JPEG to the smallest of libjpeg's sizes that is at least `least`, if that is positive.

    Raises:
      UserError: whatever is wrong with it.
    """
    try:
        pixels = _decode_jpeg(data, name, least) if data[:2] == b"\xff\xd8" else None
        return _decode_other(data, name) if pixels is None else pixels
    except UserError:
        raise
    except Exception as error:  # whatever a broken file may raise inside a decoder
        state = "is not an image that can be read, or is cut short" if data else "is an empty file"
        raise UserError(f"{name} {state}; replace or remove it.") from error


def _decode_smaller(data: bytes, name: str, size: Size, shrink: float | int) -> tuple[np.ndarray, int]:
    """Decode a JPEG smaller by 1, 2, 4 or 8; libjpeg-turbo's other sizes take longer than the whole image."""
    factor = next(factor for factor in (8, 4, 2, 1) if factor <= max(shrink, 1))
    least = (-(-size[0] // factor), -(-size[1] // factor))
    pixels = _decode(data, name, least)
    return pixels, factor if pixels.shape[:2] == least else 1


def _decode_jpeg(data: bytes, name: str, least: Size) -> np.ndarray | None:
    """Decode by libjpeg-turbo; None for a JPEG that is better left to OpenCV."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        budgets.require_pixels((int(height), int(width)), name, len(data))
        if space in ("CMYK", "YCCK"):
            ink = simplejpeg.decode_jpeg(data, "CMYK")
            return _by_strips(partial(_cmyk_to_rgb, inverted=b"Adobe" in data[:4096]), ink)
        return simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
    except ValueError as error:
        reason = str(error).lower()
        if "premature end" in reason:
            raise UserError(f"{name} is cut short (a truncated JPEG); replace or remove it.") from error
        if "huffman" in reason or "bad" in reason:
            raise UserError(f"{name} is a damaged JPEG ({error}); replace or remove it.") from error
        return None


def _decode_other(data: bytes, name: str) -> np.ndarray:
    """Decode by OpenCV, or by Pillow what OpenCV does not read, once the header has been judged."""
    if headers.is_png(data) and not headers.is_whole_png(data):
        raise UserError(f"{name} is cut short (a truncated PNG); replace or remove it.")
    header = headers.read(io.BytesIO(data))
    budgets.require_pixels(header.stored, name, len(data))
    if header.kind == "TIFF":
        tags = tiffs.read_tags(io.BytesIO(data))
        tiffs.require_image(tags, name)
        return _upright(_to_rgb(tiffs.decode(data, tags), name), {6: 8, 8: 6}.get(tags.orientation, tags.orientation))
    if not (header.kind == "PNG" and data[24:26] == b"\x08\0" and b"tRNS" in data):  # OpenCV overlooks a clear grey
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if found is not None:
            return _to_rgb(found, name, blue_first=True)
    image = headers.open_by_pillow(io.BytesIO(data), header.kind)
    return _to_rgb(np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB")), name)


def _to_rgb(pixels: np.ndarray, name: str, *, blue_first: bool = False) -> np.ndarray:
    """Convert grey, RGB, RGBA, or with `blue_first` BGR or BGRA, which may be overwritten."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    known = pixels.dtype in (np.uint8, np.uint16, np.bool_) and pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4)
    if not known or pixels.size == 0:
        raise UserError(
            f"{name} holds {pixels.dtype} values of shape {pixels.shape}; save it as an 8- or 16-bit image (an array: "
            "uint8, h w 3, RGB)."
        )
    plain = pixels.dtype == np.uint8 and pixels.shape[2] == 3
    if plain and not blue_first:
        return np.ascontiguousarray(pixels)
    return _by_strips(partial(_strip_to_rgb, blue_first=blue_first), pixels, pixels if plain else None)


def _by_strips(
    change: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, out: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Change some rows at a time, so that what it takes beside the image is little."""
    out = np.empty((*pixels.shape[:2], 3), np.uint8) if out is None else out
    rows = max(_AT_ONCE // pixels[0].size, 1)
    for top in range(0, len(pixels), rows):
        out[top : top + rows] = change(pixels[top : top + rows])
    return out


def _strip_to_rgb(pixels: np.ndarray, blue_first: bool) -> np.ndarray:
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if blue_first and pixels.shape[2] > 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        return (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return pixels


def _cmyk_to_rgb(pixels: np.ndarray, inverted: bool) -> np.ndarray:
    """Convert CMYK ink to RGB light; Adobe's JPEGs store the ink inverted."""
    light = pixels.astype(np.uint16) if inverted else 255 - pixels.astype(np.uint16)
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)


def _upright(pixels: np.ndarray, turned: int) -> np.ndarray:
    """Undo the EXIF orientation 1 to 8: a mirroring for the even half, then quarter turns."""
    if turned in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarters = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(turned, 0)
    return np.ascontiguousarray(np.rot90(pixels, quarters))
