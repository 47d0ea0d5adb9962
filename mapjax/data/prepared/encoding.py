"""A record as bytes and back: a JSON header that says what follows, the label arrays, and the image as it is.

    "mapjax1\\n" · length of the header, uint32 · header · arrays, one after the other · encoded image

The header is `{"id": 7, "file": "a.jpg", "arrays": [[key, dtype, shape, bytes], …]}`; numbers are little-endian. Labels
are arrays as labels.py stores them. Arrays of yes and no with more than one axis are packed, 8 a byte, and deflated
(dtype "bits": so mapjax 0.1 wrote masks); lists of bytes (label maps, run lengths) are deflated ("bytes"). Nothing is
executed when it is read, unlike pickle.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from mapjax.data import fields, images, labels
from mapjax.data.source import Record

_MARK = b"mapjax1\n"
_LENGTH = struct.Struct("<I")
_MOST = 2**31  # elements of an array


def encode(record: Mapping[str, Any]) -> bytes:
    """Write a record whose `image` is encoded bytes; the other keys are `id`, `file`, labels and arrays of numbers.

    Raises:
      TypeError: an image that is not bytes, or a value that is no array of numbers.
    """
    image = record["image"]
    if not isinstance(image, bytes):
        raise TypeError(f"the image of {record['file']} is {type(image).__name__}, not encoded bytes")
    described, chunks = [], []
    for key, value in labels.store(record).items():
        if key not in ("id", "file", "image"):
            array = np.asarray(value)
            dtype, chunk = _pack(array, key)
            described.append([key, dtype, list(array.shape), len(chunk)])
            chunks.append(chunk)
    header = {"id": int(record["id"]), "file": record["file"], "arrays": described}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")  # escapes keep any file name
    return b"".join((_MARK, _LENGTH.pack(len(text)), text, *chunks, image))


def decode(data: bytes) -> Record:
    """Read what `encode` wrote; `image` is the encoded image again.

    Raises:
      ValueError: the bytes are no such record, or not a whole one.
    """
    if not data.startswith(_MARK):
        raise ValueError("it does not begin as a record")
    try:
        return _decode(data)
    except (LookupError, TypeError, AttributeError, RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(f"its header or its labels cannot be ({error})") from error
    except (struct.error, zlib.error) as error:
        raise ValueError(f"it is cut short or damaged ({error})") from error


def _decode(data: bytes) -> Record:
    start = len(_MARK) + _LENGTH.size
    end = start + _LENGTH.unpack_from(data, len(_MARK))[0]
    header = json.loads(data[start:end])
    if not isinstance(header["file"], str) or fields.whole(header["id"]) is None:
        raise ValueError("its 'file' is no name or its 'id' no number")
    record: Record = {"id": int(header["id"]), "file": header["file"]}
    for key, dtype, shape, length in header["arrays"]:
        if length < 0 or end + length > len(data):
            raise ValueError(f"it is cut short in {key!r}")
        record[key] = _unpack(data[end : end + length], dtype, tuple(shape))
        end += length
    return labels.restore(record) | {"image": data[end:]}


def encoded(image: Any) -> bytes:
    """Give an image as encoded bytes: those of the file, or those given; an array becomes a PNG, without loss.

    Raises:
      UserError: an array that is no image, or a file that is missing or cannot be read (images.read_bytes).
    """
    if not isinstance(image, np.ndarray):
        return images.read_bytes(image)
    pixels = images.read(image)
    grey = (pixels == pixels[..., :1]).all()
    whole, png = cv2.imencode(".png", pixels[..., 0] if grey else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert whole, "OpenCV always has its PNG encoder"
    return png.tobytes()


def _pack(array: np.ndarray, key: str) -> tuple[str, bytes]:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{key!r} is {array.dtype}, not an array of numbers")
    if array.dtype == bool and array.ndim > 1:
        return "bits", zlib.compress(np.packbits(array.ravel()).tobytes())
    if array.dtype == np.uint8 and array.ndim > 0:
        return "bytes", zlib.compress(array.tobytes())
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.dtype.str, little.tobytes()


def _unpack(data: bytes, dtype: str, shape: tuple[int, ...]) -> Any:
    """Make the array anew, so that it can be written to; a scalar for no axes."""
    count = math.prod(shape)
    if not 0 <= count <= _MOST or min(shape, default=0) < 0:
        raise ValueError(f"an array cannot have the shape {shape}")
    if dtype == "bits":
        bits = np.frombuffer(_inflate(data, -(-count // 8)), np.uint8)
        return np.unpackbits(bits, count=count).astype(bool).reshape(shape)
    if dtype == "bytes":
        return np.frombuffer(bytearray(_inflate(data, count)), np.uint8).reshape(shape)
    array = np.frombuffer(data, dtype).reshape(shape)
    return array[()] if not shape else array.copy()


def _inflate(data: bytes, size: int) -> bytes:
    """Unpack to so many bytes and no more, whatever the data say."""
    return zlib.decompressobj().decompress(data, size + 1)
