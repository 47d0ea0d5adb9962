"""Images from files, bytes or arrays to uint8 RGB, whatever their format."""

import io
import os
import pathlib
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import PIL.Image
import simplejpeg
from jaxtyping import UInt8

from mapjax.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held

Decode = Callable[[float | int], tuple[UInt8[np.ndarray, "h w 3"], int]]


def read(image: str | os.PathLike | bytes | np.ndarray, *, orient: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image to RGB.

    Grayscale, palette, CMYK, 16-bit (scaled to 8) and transparent images (laid on white) all become 8-bit RGB.

    Args:
      image: a path, the encoded bytes, or a decoded array (h w), (h w 1), (h w 3) or (h w 4), uint8 or uint16.
      orient: turn the image upright as its EXIF tag says. Off by default, because the boxes of COCO and VOC
        refer to the pixels as stored; on for showing a person's own photos.

    Raises:
      UserError: a missing, unreadable or truncated file, or an array of another kind.
    """
    if isinstance(image, np.ndarray):
        return _to_rgb(image, "the array")
    name = "the encoded image" if isinstance(image, bytes) else os.fspath(image)
    data = image if isinstance(image, bytes) else _read_bytes(image)
    pixels = _decode(data, name)
    return _upright(pixels, orientation(data)) if orient else pixels


def read_as_labelled(
    image: str | os.PathLike | bytes | np.ndarray, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image as its labels were drawn: as stored, or upright where only that has the labels' size.

    Args:
      image: as for `read`.
      size: height, width that the labels go with.
    """
    stored = read(image)
    if stored.shape[:2] == size or stored.shape[:2] != size[::-1] or isinstance(image, np.ndarray):
        return stored
    upright = read(image, orient=True)
    return upright if upright.shape[:2] == size else stored


def peek(
    image: str | os.PathLike | bytes | np.ndarray, *, orient: bool = False, name: str | None = None
) -> tuple[tuple[int, int], Decode]:
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
    name = name or (os.fspath(image) if isinstance(image, (str, os.PathLike)) else "the encoded image")
    if isinstance(image, np.ndarray):
        pixels = _to_rgb(image, name)
        return pixels.shape[:2], lambda shrink: (pixels, 1)
    data = image if isinstance(image, bytes) else _read_bytes(image)
    turned = orientation(data) if orient and _may_be_turned(data) else 1
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


def read_size(image: str | os.PathLike | bytes) -> tuple[int, int]:
    """Read height, width of an image as stored from its header alone.

    Raises:
      UserError: the file is missing, or has no header that can be read.
    """
    name = "the encoded image" if isinstance(image, bytes) else os.fspath(image)
    try:
        with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as header:
            return header.height, header.width
    except FileNotFoundError as error:
        raise UserError(f"{name}: there is no such image file.") from error
    except Exception as error:  # whatever a broken file may raise inside a decoder
        raise UserError(f"{name} is not an image that can be read; replace or remove it.") from error


def orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where there is none, or where decoding has undone it."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return 1  # OpenCV turns a TIFF upright by itself
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            return int(header.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block is no reason to lose the image
        return 1


def _read_bytes(path: str | os.PathLike) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{os.fspath(path)}: there is no such image file.") from error
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: this image file cannot be read ({error.strerror}).") from error


def _may_be_turned(data: bytes) -> bool:
    """Tell by a search, which costs a hundredth of reading the EXIF block, whether there may be one."""
    if data[:2] == b"\xff\xd8":
        return data.find(b"Exif", 0, 1 << 16) >= 0
    return data[:4] != b"\x89PNG" or b"eXIf" in data


def _decode(data: bytes, name: str, least: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Decode; a JPEG to the smallest of libjpeg's sizes that is at least `least`, if that is positive."""
    pixels = _decode_jpeg(data, name, least) if data[:2] == b"\xff\xd8" else None
    return _decode_other(data, name) if pixels is None else pixels


def _decode_smaller(data: bytes, name: str, size: tuple[int, int], shrink: float | int) -> tuple[np.ndarray, int]:
    """Decode a JPEG smaller by 1, 2, 4 or 8; libjpeg-turbo's other sizes take longer than the whole image."""
    factor = next(factor for factor in (8, 4, 2, 1) if factor <= max(shrink, 1))
    least = (-(-size[0] // factor), -(-size[1] // factor))
    pixels = _decode(data, name, least)
    return pixels, factor if pixels.shape[:2] == least else 1


def _decode_jpeg(data: bytes, name: str, least: tuple[int, int]) -> np.ndarray | None:
    """Decode by libjpeg-turbo; None for a JPEG that is better left to OpenCV."""
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK"):
            return _cmyk_to_rgb(simplejpeg.decode_jpeg(data, "CMYK"), inverted=b"Adobe" in data[:4096])
        return simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
    except ValueError as error:
        reason = str(error).lower()
        if "premature end" in reason:
            raise UserError(f"{name} is cut short (a truncated JPEG); replace or remove it.") from error
        if "huffman" in reason or "bad" in reason:
            raise UserError(f"{name} is a damaged JPEG ({error}); replace or remove it.") from error
        return None


def _decode_other(data: bytes, name: str) -> np.ndarray:
    truncated_png = data[:4] == b"\x89PNG" and b"IEND" not in data[-4096:]
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        found = None
    if found is None or truncated_png:
        state = "is an empty file" if not data else "is not an image that can be read, or is cut short"
        raise UserError(f"{name} {state}; replace or remove it.")
    if found.ndim == 3:
        found = cv2.cvtColor(found, cv2.COLOR_BGRA2RGBA if found.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return _to_rgb(found, name)


def _to_rgb(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise UserError(
            f"{name} holds {pixels.dtype} values of shape {pixels.shape}; save it as an 8- or 16-bit image."
        )
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


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
