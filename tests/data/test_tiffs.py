"""Bands of TIFFs: the colours are shown, transparency is laid on white, and what is neither is not taken for it."""

import io
import struct

import numpy as np
import PIL.Image
import pytest

from mapjax.data import images
from mapjax.errors import UserError

RNG = np.random.default_rng(0)
GREY, RGB, CMYK, LAB = 1, 2, 5, 8


def tiff(values, photometric, extra=None, form=None):
    """Write (h w c) as a TIFF of one strip; extra: what the bands after the colours are, None to say nothing."""
    bands, bits = values.shape[2], 8 * values.dtype.itemsize
    shorts = {258: [bits] * bands, 262: [photometric], 277: [bands], 284: [1], 259: [1]}
    shorts |= {339: [form or {"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * bands}
    shorts |= {338: extra} if extra is not None else {}
    longs = {256: values.shape[1], 257: values.shape[0], 273: 0, 278: values.shape[0], 279: values.nbytes}
    start = 8 + 2 + 12 * (len(shorts) + len(longs)) + 4
    lists = b"".join(struct.pack(f"<{len(v)}H", *v) for _, v in sorted(shorts.items()) if len(v) > 2)
    longs[273] = start + len(lists)
    entries, place = [], start
    for tag in sorted({*shorts, *longs}):
        if tag in longs:
            entries.append(struct.pack("<HHII", tag, 4, 1, longs[tag]))
        elif len(shorts[tag]) > 2:
            entries.append(struct.pack("<HHII", tag, 3, len(shorts[tag]), place))
            place += 2 * len(shorts[tag])
        else:
            value = struct.pack(f"<{len(shorts[tag])}H", *shorts[tag]).ljust(4, b"\0")
            entries.append(struct.pack("<HHI", tag, 3, len(shorts[tag])) + value)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + lists + values.tobytes()


def values(bands, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, (6, 9, bands), dtype, endpoint=True)


def on_white(colours, alpha):
    return np.rint(colours.astype(float) * alpha / 255 + 255 - alpha)


@pytest.mark.parametrize("extra", [[0], None, [0, 0], [0, 0, 0]])
def test_bands_beside_the_colours_are_left_out(extra):
    found = values(3 + len(extra or [0]))
    np.testing.assert_array_equal(images.read(tiff(found, RGB, extra)), found[..., :3])


def test_deep_bands_beside_the_colours_are_left_out():
    found = values(4, np.uint16)
    np.testing.assert_allclose(images.read(tiff(found, RGB, [0])), found[..., :3] / 257, atol=0.51)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_is_laid_on_white(dtype):
    found = values(4, dtype)
    eight = found if dtype == np.uint8 else np.rint(found / 257)
    np.testing.assert_allclose(images.read(tiff(found, RGB, [2])), on_white(eight[..., :3], eight[..., 3:]), atol=1.01)


def test_colours_multiplied_by_their_transparency_are_laid_on_white():
    straight, alpha = values(3), np.repeat(values(1), 3, 2)
    multiplied = np.rint(straight * (alpha / 255)).astype(np.uint8)
    found = images.read(tiff(np.dstack([multiplied, alpha[..., :1]]), RGB, [1]))
    np.testing.assert_allclose(found, multiplied + 255.0 - alpha, atol=2.01)


def test_grey_with_transparency_and_grey_with_another_band():
    found = values(2)
    shown = images.read(tiff(found, GREY, [2]))
    np.testing.assert_allclose(shown, np.repeat(on_white(found[..., :1], found[..., 1:]), 3, 2), atol=1.01)
    np.testing.assert_array_equal(images.read(tiff(found, GREY, [0])), np.repeat(found[..., :1], 3, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_zero_may_be_white(dtype):
    found = values(1, dtype)
    expected = 255 - found / (257 if dtype == np.uint16 else 1)
    np.testing.assert_allclose(images.read(tiff(found, 0)), np.repeat(expected, 3, 2), atol=0.51)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ink_is_no_transparency(dtype):
    found = values(4, dtype)
    data = tiff(found, CMYK)
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"), int)
    assert np.abs(images.read(data) - expected).max() <= 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff(values(4), GREY, [0, 0, 0]), "has 4 bands, and its tags say of one only"),
        (tiff(values(3), GREY, [0, 0]), "has 3 bands"),
        (tiff(values(5), GREY, [0, 0, 0, 0]), "has 5 bands"),
        (tiff(RNG.random((6, 9, 1)), GREY), "floating-point numbers of 64 bits"),
        (tiff(RNG.random((6, 9, 3)), RGB), "floating-point numbers of 64 bits"),
        (tiff(RNG.random((6, 9, 1)).astype("f4"), GREY), "floating-point numbers of 32 bits"),
        (tiff(values(1, np.int16), GREY), "signed numbers of 16 bits"),
        (tiff(values(3, np.uint32), RGB), "whole numbers of 32 bits"),
    ],
)
def test_measurements_are_no_image(data, words):
    for read in (images.read, lambda data: images.peek(data)[1](1)):
        with pytest.raises(UserError, match=words):
            read(data)


def test_measurements_are_told_by_their_header():
    measured = tiff(np.zeros((6, 9, 1), np.float32), GREY)
    with pytest.raises(UserError, match="holds floating-point numbers of 32 bits"):
        images.read_header(measured)
    assert images.read_header(measured, mask=True).stored == (6, 9)


def test_deep_bands_that_opencv_would_mix_up_are_refused():
    side_by_side = tiff(values(3, np.uint16), RGB)
    planes = side_by_side.replace(struct.pack("<HHIH", 284, 3, 1, 1), struct.pack("<HHIH", 284, 3, 1, 2))
    with pytest.raises(UserError, match="3 bands of 16 bits one after the other, which no decoder reads"):
        images.read(planes)
    with pytest.raises(UserError, match="5 bands of 16 bits, which"):
        images.read(tiff(values(5, np.uint16), RGB, [0, 0]))
