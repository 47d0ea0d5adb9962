"""How much a file may ask for, so that a few bytes cannot fill the memory: pixels of an image, bytes once unpacked.

Both are judged before the memory is taken. The environment variables of these names set other limits.
"""

import os

from mapjax.errors import UserError

PIXELS, UNPACKED = "MAPJAX_MAX_PIXELS", "MAPJAX_MAX_UNPACKED"
_DEFAULTS = {PIXELS: 250_000_000, UNPACKED: 750_000_000}  # 750 MB each, as 8-bit RGB and as they are
_SMALL, _PIXELS_A_BYTE = 64_000_000, 100


class TooLarge(UserError):
    """An image or a packed file that asks for more than it may."""


def limit(name: str) -> int:
    """Return the limit that the environment variable of this name sets, or its default.

    Raises:
      UserError: it is no positive whole number.
    """
    given = os.environ.get(name)
    if not given:
        return _DEFAULTS[name]
    if not given.isascii() or not given.isdigit() or int(given[:20]) < 1:
        raise UserError(f"the environment variable {name}={given!r} must be a positive whole number, as 500000000.")
    return int(given[:20])


def require_pixels(size: tuple[int, int], name: str, length: int | None = None) -> None:
    """Refuse an image of too many pixels.

    Args:
      size: height, width.
      name: of it, for the error.
      length: of its file in bytes. Photos have no more than 50 pixels a byte, and a JPEG of one colour 64, so where the
        user sets no limit, 100 is one for what is larger than 64 million; None for masks, whose pixels are alike.

    Raises:
      TooLarge: naming the image, its size and the limit.
    """
    most, small = limit(PIXELS), ""
    if length is not None and not os.environ.get(PIXELS) and (dense := max(_SMALL, _PIXELS_A_BYTE * length)) < most:
        most, small = dense, f" in a file of {length:,} bytes"
    if size[0] * size[1] > most:
        raise TooLarge(
            f"{name} says it has {size[0]}×{size[1]} pixels (height × width), more than {most:,}{small}; if it is no "
            f"mistake, set the environment variable {PIXELS} to as many."
        )


def require_bytes(size: int, name: str) -> None:
    """Refuse what is, or unpacks to, too many bytes.

    Raises:
      TooLarge: naming it and the limit.
    """
    most = limit(UNPACKED)
    if size > most:
        raise TooLarge(
            f"{name} unpacks to more than {most:,} bytes; if it is no mistake, set the environment variable {UNPACKED} "
            "higher."
        )
