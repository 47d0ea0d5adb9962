"""Every kind of image becomes 8-bit RGB, against Pillow; broken ones are named in one sentence."""

import io
import struct

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from mapjax.data import images
from mapjax.errors import UserError

rng = np.random.default_rng(0)
SMOOTH = np.asarray(
    PIL.Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((80, 60), PIL.Image.Resampling.BICUBIC)
)


def encode(array, form, mode=None, **options):
    image = PIL.Image.fromarray(array) if isinstance(array, np.ndarray) else array
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def tagged(turned):
    exif = PIL.Image.Exif()  # Pillow changes it when it writes AVIF
    exif[0x0112] = turned
    return exif


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_exactly(form, tmp_path):
    data = encode(SMOOTH, form)
    np.testing.assert_array_equal(images.read(data), SMOOTH)
    path = tmp_path / "image"
    path.write_bytes(data)
    np.testing.assert_array_equal(images.read(str(path)), SMOOTH)
    assert images.read_size(path) == images.read_size(data) == (60, 80)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"mode": "L"}, {"mode": "CMYK"}])
def test_jpegs_agree_with_pillow(options):
    data = encode(SMOOTH, "JPEG", quality=95, **options)
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"), np.int32)
    assert np.abs(images.read(data) - expected).max() <= 6
    assert np.abs(images.read(data) - expected).mean() < 1


def test_transparency_is_laid_on_white():
    alpha = np.dstack([SMOOTH, np.full((60, 80), 255, np.uint8)])
    alpha[:30, :, 3] = 0
    alpha[30:40, :, 3] = 128
    for data in (encode(alpha, "PNG"), alpha):
        pixels = images.read(data)
        np.testing.assert_array_equal(pixels[:30], 255)
        np.testing.assert_allclose(pixels[30:40], SMOOTH[30:40] * (128 / 255) + 255 * (127 / 255), atol=0.51)
        np.testing.assert_array_equal(pixels[40:], SMOOTH[40:])
    gray_alpha = encode(PIL.Image.fromarray(alpha).convert("LA"), "PNG")
    np.testing.assert_array_equal(images.read(gray_alpha)[:30], 255)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_level_or_colour_may_be_transparent(mode):
    image = PIL.Image.fromarray(SMOOTH).convert(mode)
    clear = np.asarray(image)[0, 0]
    data = encode(image, "PNG", transparency=tuple(clear.tolist()) if mode == "RGB" else int(clear))
    hidden = (np.asarray(image).reshape(60, 80, -1) == clear).all(2)
    expected = np.where(hidden[..., None], 255, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(images.read(data), expected)


def test_palette_grayscale_bilevel_and_16_bit():
    palette = PIL.Image.fromarray(SMOOTH).convert("P")
    np.testing.assert_array_equal(images.read(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    gray = SMOOTH[..., 0]
    np.testing.assert_array_equal(images.read(encode(gray, "PNG")), np.dstack([gray] * 3))
    np.testing.assert_array_equal(images.read(gray), np.dstack([gray] * 3))
    bilevel = images.read(encode(PIL.Image.fromarray(gray).convert("1"), "PNG"))
    assert set(np.unique(bilevel)) == {0, 255}
    deep = gray.astype(np.uint16) * 257
    np.testing.assert_array_equal(images.read(encode(deep, "PNG")), np.dstack([gray] * 3))


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_image_is_turned_upright_unless_it_is_asked_for_as_stored(turned, form):
    data = encode(SMOOTH, form, exif=tagged(turned), **({"quality": 95} if form == "JPEG" else {}))
    stored = images.read(data, orient=False)
    assert stored.shape == SMOOTH.shape and images.read_size(data, orient=False) == (60, 80)
    assert np.abs(stored - SMOOTH.astype(int)).mean() < 12  # JPEG loses a little
    turned_by_pillow = PIL.ImageOps.exif_transpose(
        PIL.Image.open(io.BytesIO(encode(stored, "PNG", exif=tagged(turned))))
    )
    expected = np.asarray(turned_by_pillow)
    np.testing.assert_array_equal(images.read(data), expected)
    np.testing.assert_array_equal(images.read_as_labelled(data, expected.shape[:2]), expected)
    assert images.read_size(data) == expected.shape[:2]


@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("turned", [1, 3, 6])
def test_labels_go_with_the_upright_image_unless_their_size_or_the_data_set_says_otherwise(turned, square):
    pixels = SMOOTH[:, :60] if square else SMOOTH
    data = encode(pixels, "PNG", exif=tagged(turned))
    upright = images.read(data)
    for stored, by_default in ((False, upright), (True, pixels)):
        for shown in (upright, pixels) if turned == 6 and not square else (by_default,):
            found = images.read_as_labelled(data, shown.shape[:2], stored=stored)
            np.testing.assert_array_equal(found, shown)
        np.testing.assert_array_equal(images.read_as_labelled(data, (5, 5), stored=stored), by_default)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_a_file_cut_in_half_is_named(form, tmp_path):
    data = encode(SMOOTH, form)
    path = tmp_path / "half.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"half\.img .*cut short"):
        images.read(str(path))


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0 but no more"])
def test_what_is_no_image_is_named(content, tmp_path):
    path = tmp_path / "strange.jpg"
    path.write_bytes(content)
    for read in (images.read, images.read_size):
        with pytest.raises(UserError, match=r"strange\.jpg"):
            read(str(path))


def test_missing_files_and_odd_arrays(tmp_path):
    for read in (images.read, images.read_size):
        with pytest.raises(UserError, match=r"gone\.png: there is no such"):
            read(tmp_path / "gone.png")
    with pytest.raises(UserError, match="cannot be read"):
        images.read(tmp_path)
    with pytest.raises(UserError, match="float64"):
        images.read(np.zeros((4, 4, 3)))


def test_extremes_of_size():
    for size in ((1, 1), (20, 10_000)):
        array = rng.integers(0, 256, (*size, 3), np.uint8)
        np.testing.assert_array_equal(images.read(encode(array, "PNG")), array)
        assert images.read(encode(array, "JPEG")).shape == (*size, 3)


@pytest.mark.parametrize("size", [(60, 80), (61, 83), (375, 499)])
@pytest.mark.parametrize("shrink", [0.5, 1, 2, 3.9, 4, 100])
def test_a_jpeg_is_decoded_smaller_by_a_whole_factor(size, shrink):
    few = PIL.Image.fromarray(rng.integers(0, 256, (2, 3, 3), np.uint8))
    image = few.resize(size[::-1], PIL.Image.Resampling.BICUBIC)
    data = encode(image, "JPEG", quality=95)
    found, decode = images.peek(data)
    smaller, factor = decode(shrink)
    assert found == size and factor == {0.5: 1, 1: 1, 2: 2, 3.9: 2, 4: 4, 100: 8}[shrink]
    assert smaller.shape == (-(-size[0] // factor), -(-size[1] // factor), 3)
    whole = images.read(data)
    blocks = np.pad(whole, ((0, -size[0] % factor), (0, -size[1] % factor), (0, 0)), "edge").astype(float)
    means = blocks.reshape(smaller.shape[0], factor, smaller.shape[1], factor, 3).mean(axis=(1, 3))
    assert np.abs(smaller - means).mean() < 1  # pixel i is the mean of those from i·factor on


def test_what_is_no_plain_jpeg_is_decoded_whole():
    for data in (encode(SMOOTH, "PNG"), encode(SMOOTH, "JPEG", "CMYK"), SMOOTH):
        size, decode = images.peek(data)
        pixels, factor = decode(8)
        assert size == (60, 80) and pixels.shape == SMOOTH.shape and factor == 1
        np.testing.assert_array_equal(pixels, images.read(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_peeking_turns_when_asked(form):
    data = encode(SMOOTH, form, exif=tagged(8))
    assert images.peek(data, orient=False)[0] == (60, 80)
    size, decode = images.peek(data)
    assert size == (80, 60)
    np.testing.assert_array_equal(decode(4)[0], images.read(data))
    assert np.abs(decode(1)[0] - np.rot90(SMOOTH).astype(int)).mean() < 12  # JPEG and WebP lose a little


def test_peeking_names_what_cannot_be_read():
    data = encode(SMOOTH, "JPEG")
    with pytest.raises(UserError, match="a cat"):
        images.peek(b"\xff\xd8\xff\xe0 but no more", name="a cat")
    _, decode = images.peek(data[: len(data) // 2], name="a cat")
    with pytest.raises(UserError, match="a cat is cut short"):
        decode(2)


@pytest.mark.parametrize("most", [100, 255, 1023, 65535])
@pytest.mark.parametrize("bands", [1, 3])
def test_the_brightest_value_of_a_ppm_is_white(bands, most):
    shares = np.random.default_rng(0).random((6, 9, bands))
    values = np.rint(shares * most).astype(">u2" if most > 255 else np.uint8)
    data = b"P%d 9 6 %d\n" % (6 if bands == 3 else 5, most) + values.tobytes()
    np.testing.assert_allclose(images.read(data), np.broadcast_to(shares * 255, (6, 9, 3)), atol=2)


def test_a_bitmap_of_os2_keeps_its_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    head = b"BM" + struct.pack("<IHHIIHHHH", 26 + pixels.nbytes, 0, 0, 26, 12, 8, 6, 1, 24)
    np.testing.assert_array_equal(images.read(head + pixels[::-1, :, ::-1].tobytes()), pixels)
