"""What an image file says of itself before it is decoded: its kind, its size, and which way up it is."""

import functools
import io
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import PIL.Image
import PIL.JpegImagePlugin

from mapjax.config import regular
from mapjax.data import tiffs
from mapjax.errors import UserError

BEGIN = 32  # bytes of a file that tell its kind
_MOST_CHUNKS, _MOST_EXIF = 1 << 20, 1 << 20  # of a PNG; bytes
_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held

# By Pillow's names.
_MARKS = {
    "JPEG": rb"\xff\xd8",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{12}[\x0c(4@8l|]\0\0\0",
    "WEBP": rb"RIFF.{4}WEBP",
    "PPM": rb"P[1-6][\s#]",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "AVIF": rb".{4}ftyp(avi[fs]|m[is]f1.{4,16}avif)",
    "HEIF": rb".{4}ftyp(hei[cxms]|hev[cxms]|m[is]f1)",
    "JXL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "PSD": rb"8BPS\0",
    "EXR": rb"v/1\x01",
}
_PATTERNS = {kind: re.compile(mark, re.DOTALL) for kind, mark in _MARKS.items()}


class NoSuchImage(UserError):
    """There is no such image file."""


class Header(NamedTuple):
    """The kind of an image, its height, width as stored, and its EXIF orientation, 1 to 8."""

    kind: str
    stored: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Return height, width of the image as a person sees it."""
        height, width = self.stored
        return (width, height) if self.orientation >= 5 else (height, width)


def kind_of(begin: bytes) -> str:
    """Tell the kind of an image by its first bytes; "" for what is none that is known here."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.match(begin)), "")


def is_readable(begin: bytes) -> bool:
    """Tell by its first bytes whether an image is of a kind that the installed decoders read."""
    kind = kind_of(begin)
    if kind not in _decoders() or kind == "PSD":  # Pillow reads of a PSD what its author made last, layer upon layer
        return False
    accepts = PIL.Image.OPEN[kind][1]
    return accepts is None or accepts(begin) is True


def open_file(path: str | os.PathLike) -> io.BufferedReader:
    """Open the file of an image, if it is a regular one.

    Raises:
      NoSuchImage: it is not there.
      UserError: it is something else, or cannot be read.
    """
    try:
        return regular.open_file(path)
    except FileNotFoundError as error:
        raise NoSuchImage(f"{os.fspath(path)}: there is no such image file.") from error
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: this image file cannot be read ({error.strerror}).") from error


def read(file: io.BufferedIOBase) -> Header:
    """Read the header of an image; nothing is decoded.

    Raises:
      Exception: whatever a broken header may raise inside a decoder.
    """
    kind = kind_of(begin := file.read(BEGIN))
    if kind == "PNG":
        size, turned = (_number(begin[20:24]), _number(begin[16:20])), orientation_of(_png_exif(file))
    elif kind == "WEBP":
        size, turned = _webp_size(begin), orientation_of(_webp_exif(file))
    elif kind == "TIFF":
        tags = tiffs.read_tags(file)
        size, turned = tags.size, tags.orientation
    else:
        image = open_by_pillow(file, kind)
        size, turned = (image.height, image.width), orientation_of(image.info.get("exif", b""))
    if min(size) < 1:
        raise ValueError(f"an image of {size[0]}×{size[1]} pixels")
    return Header(kind, size, turned)


def read_orientation(data: bytes) -> int:
    """Return the EXIF orientation of an encoded image, 1 to 8; 1 (upright) where there is none that can be read.

    A search, which costs a hundredth of reading it, tells whether a JPEG or a PNG may have one.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return read(io.BytesIO(data)).orientation if b"Exif\0\0" in data else 1
        return orientation_of(_png_exif(io.BytesIO(data))) if is_png(data) else read(io.BytesIO(data)).orientation
    except Exception:  # a broken EXIF block is no reason to lose the image
        return 1


def orientation_of(exif: bytes) -> int:
    """Return the orientation that an EXIF block says, 1 to 8; 1 where it says none."""
    if not exif:
        return 1
    tags = PIL.Image.Exif()
    try:
        tags.load(exif)
        found: Any = tags.get(_ORIENTATION)
    except Exception:  # a broken EXIF block is no reason to lose the image
        return 1
    return found if found in range(1, 9) else 1


def open_by_pillow(file: io.BufferedIOBase, kind: str) -> PIL.Image.Image:
    """Open an image of a kind as `PIL.Image.open` does, but without its limit of pixels: that is ours (budgets.py)."""
    if kind not in _decoders():
        raise ValueError(f"no decoder of {kind or 'such'} images")
    file.seek(0)
    return _decoders()[kind](file, "")


def is_png(data: bytes) -> bool:
    """Tell whether encoded data begin as a PNG."""
    return data[:8] == b"\x89PNG\r\n\x1a\n"


def is_whole_png(data: bytes) -> bool:
    """Tell whether every chunk of a PNG lies within it, to the last; decoders believe the lengths that it says."""
    place = 8
    for _ in range(_MOST_CHUNKS):
        head = data[place : place + 8]
        place += 12 + _number(head[:4])
        if head[4:] == b"IEND":
            return True
        if place > len(data) or len(head) < 8:
            return False
    return False


def _png_exif(file: io.BufferedIOBase) -> bytes:
    file.seek(8)
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if head[4:] == b"eXIf":
            return file.read(min(_number(head[:4]), _MOST_EXIF))
        if not head[4:].isalpha() or head[4:] == b"IEND":
            break
        file.seek(_number(head[:4]) + 4, io.SEEK_CUR)
    return b""


def _webp_size(begin: bytes) -> tuple[int, int]:
    """Return height, width: of an extended file, of one without loss, or else of a frame of VP8."""
    if begin[12:16] == b"VP8X":
        return int.from_bytes(begin[27:30], "little") + 1, int.from_bytes(begin[24:27], "little") + 1
    if begin[12:16] == b"VP8L":
        bits = int.from_bytes(begin[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return int.from_bytes(begin[28:30], "little") & 0x3FFF, int.from_bytes(begin[26:28], "little") & 0x3FFF


def _webp_exif(file: io.BufferedIOBase) -> bytes:
    file.seek(12)
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            return file.read(min(length, _MOST_EXIF))
        if not length:
            break
        file.seek(length + length % 2, io.SEEK_CUR)
    return b""


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


@functools.cache
def _decoders() -> dict[str, Callable[[io.BufferedIOBase, str], PIL.Image.Image]]:
    """Return Pillow's openers of the kinds that are known here; of a JPEG with further ones in it, of the first."""
    PIL.Image.init()
    known: dict[str, Any] = {kind: PIL.Image.OPEN[kind][0] for kind in _MARKS if kind in PIL.Image.OPEN}
    known["JPEG"] = PIL.JpegImagePlugin.JpegImageFile
    return known
