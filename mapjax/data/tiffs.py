"""TIFF images: how many bands, and what they are by the tags; decoders take any fourth band for transparency."""

import io
from typing import NamedTuple

import cv2
import numpy as np
import PIL.TiffImagePlugin
from jaxtyping import Shaped

from mapjax.errors import UserError

_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _ORIENTATION, _BANDS = 256, 257, 258, 262, 274, 277
_PLANES, _EXTRA, _FORM = 284, 338, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
# Photometric interpretation → bands: grey (twice), RGB, palette, CMYK, YCbCr, three of CIE Lab.
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, 3: 1, 5: 4, 6: 3, 8: 3, 9: 3, 10: 3}
_PREMULTIPLIED, _STRAIGHT = 1, 2  # extra samples that are transparency; 0 is anything else, such as infrared
_MOST_DEEP = 4  # bands of more than 8 bits, and only side by side: OpenCV takes others for these
_FORMS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}


class Tags(NamedTuple):
    """What a TIFF says of its first image.

    size: height, width as stored.
    orientation: 1 to 8, as in EXIF.
    photometric: what its colours are; None where it does not say.
    bands: values a pixel.
    extra: what those beyond the colours are.
    bits: of each band.
    form: of the numbers: 1 whole, 2 signed, 3 floating-point.
    planes: whether the bands are one after the other, not side by side in each pixel.
    """

    size: tuple[int, int]
    orientation: int
    photometric: int | None
    bands: int
    extra: tuple[int, ...]
    bits: tuple[int, ...]
    form: int
    planes: bool

    @property
    def colours(self) -> int:
        """Return how many bands are the colours."""
        return min(_COLOURS.get(-1 if self.photometric is None else self.photometric, self.bands), self.bands)

    @property
    def has_alpha(self) -> bool:
        """Tell whether the band after the colours is transparency."""
        return self.bands > self.colours and self.extra[:1] in ((_PREMULTIPLIED,), (_STRAIGHT,))

    @property
    def depth(self) -> int:
        """Return the bits of the deepest band."""
        return max(self.bits)


def read_tags(file: io.BufferedIOBase) -> Tags:
    """Read the tags; errors are those of Pillow."""
    file.seek(0)
    head = file.read(8)
    if head[2:3] == b"+" or head[3:4] == b"+":  # BigTIFF
        head += file.read(8)
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(head)
    file.seek(tags.next)
    tags.load(file)  # pyright: ignore[reportArgumentType]
    orientation = tags.get(_ORIENTATION, 1)
    return Tags(
        (int(tags[_LENGTH]), int(tags[_WIDTH])),
        orientation if orientation in range(1, 9) else 1,
        tags.get(_PHOTOMETRIC),
        int(tags.get(_BANDS, 1)),
        _tuple(tags.get(_EXTRA, ())),
        _tuple(tags.get(_BITS, (1,))),
        int(_tuple(tags.get(_FORM, (1,)))[0]),
        tags.get(_PLANES) == 2,
    )


def require_image(tags: Tags, name: str) -> None:
    """Refuse a TIFF that holds measurements rather than a grey or coloured image.

    Raises:
      UserError: numbers that are not whole, deep bands that no decoder here reads, or bands of which the tags do not
        say which are the colours.
    """
    mend = "save it as an 8- or 16-bit image of one grey or three RGB bands"
    if tags.form in _FORMS or tags.depth > 16:
        raise UserError(f"{name} holds {_FORMS.get(tags.form, 'whole')} numbers of {tags.depth} bits; {mend}.")
    if tags.depth > 8 and tags.bands > 1 and (tags.planes or tags.bands > _MOST_DEEP):
        order = " one after the other" if tags.planes else ""
        raise UserError(f"{name} holds {tags.bands} bands of {tags.depth} bits{order}, which no decoder reads; {mend}.")
    more = tags.bands - tags.colours
    if tags.colours == 1 and (more > 1 or (more and tags.depth > 8)) and not (tags.has_alpha and tags.depth <= 8):
        raise UserError(f"{name} has {tags.bands} bands, and its tags say of one only what it is; {mend}.")


def decode(data: bytes, tags: Tags) -> Shaped[np.ndarray, "h w *c"]:
    """Decode to grey, RGB or RGBA of 8 or 16 bits, turned as the tag says; bands that are no colours are left out.

    OpenCV leaves the deep ones as they are, and of the others multiplies colours by their transparency; so those, and
    what it does not read, are Pillow's.

    Raises:
      Exception: whatever a decoder raises, or TIFFs that neither reads.
    """
    found = None
    if (tags.depth > 8 and tags.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)) or (
        tags.bands == tags.colours and tags.depth <= 8
    ):
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        image = PIL.TiffImagePlugin.TiffImageFile(io.BytesIO(data), "")
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"a TIFF of the kind {image.mode}")
        return np.asarray(image.convert("RGBA" if tags.has_alpha else "RGB"))
    if found.ndim == 3:
        found = cv2.cvtColor(found, cv2.COLOR_BGRA2RGBA if tags.has_alpha else _TO_RGB[found.shape[2]])
    if tags.depth > 8 and tags.photometric == _WHITE_IS_ZERO:
        found = np.iinfo(np.uint16).max - found
    return found


_TO_RGB = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}


def _tuple(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)  # pyright: ignore
