"""Files that ask for more than there is, or for ever: each is an image that cannot be read, and costs nothing."""

import io
import os
import socket
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from mapjax.data import budgets, images
from mapjax.data.formats import label_maps
from mapjax.data.prepared import shards
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.runs import predict

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def encode(form, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(PHOTO).convert("P" if form == "GIF" else "RGB").save(file, form, **options)
    return file.getvalue()


def patched(data, place, layout, *numbers):
    packed = struct.pack(layout, *numbers)
    return data[:place] + packed + data[place + len(packed) :]


def png(width, height, more=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


JPEG, PROGRESSIVE, JP2 = encode("JPEG"), encode("JPEG", progressive=True), encode("JPEG2000")
LARGE = {
    "jpeg": patched(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH", 30000, 30000),
    "dense jpeg": patched(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH", 15000, 15000),
    "progressive jpeg": patched(PROGRESSIVE, PROGRESSIVE.index(b"\xff\xc2") + 5, ">HH", 15000, 15000),
    "png": png(60000, 60000),
    "dense png": png(15000, 15000),
    "gif": patched(encode("GIF"), 6, "<HH", 60000, 60000),
    "bmp": patched(encode("BMP"), 18, "<ii", 50000, 50000),
    "tiff": b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHIII", 256, 4, 1, 99999, 257, 4, 1, 99999, 0),
    "jp2": patched(JP2, JP2.index(b"ihdr") + 4, ">II", 60000, 60000),
    "ppm": b"P6 50000 50000 255\nabc",
}
LONG = {
    "chunk": png(8, 8, struct.pack(">I", 0x7FFFFFFF) + b"tEXta"),
    "last chunk": png(8, 8)[:-12] + struct.pack(">I", 0x7FFFFF00) + b"IDATx",
    "no end": png(8, 8)[:-12],
}
READERS = {
    "read": images.read,
    "upright": lambda file: images.read_as_labelled(file, (40, 60)),
    "peek": lambda file: images.peek(file)[1](8),
    "mask": label_maps.read_pixels,
}


@pytest.mark.parametrize("name", LARGE)
def test_an_image_that_says_it_is_huge_is_refused_before_it_is_decoded(name, tmp_path):
    file = tmp_path / "a.img"
    file.write_bytes(LARGE[name])
    readers = [images.read_size, *READERS.values()]
    for read in readers[:-1] if "dense" in name or "progressive" in name else readers:
        with pytest.raises(budgets.TooLarge, match=r"a\.img says it has \d+×\d+ pixels .* MAPJAX_MAX_PIXELS"):
            read(str(file))


def test_the_limit_can_be_set(monkeypatch):
    data = encode("PNG")
    monkeypatch.setenv(budgets.PIXELS, "2400")
    assert images.read(data).shape == (40, 60, 3)
    monkeypatch.setenv(budgets.PIXELS, "2399")
    with pytest.raises(budgets.TooLarge, match=r"40×60 pixels \(height × width\), more than 2,399;"):
        images.read(data)
    monkeypatch.setenv(budgets.PIXELS, "1e9")
    with pytest.raises(UserError, match="MAPJAX_MAX_PIXELS='1e9' must be a positive whole number"):
        images.read(data)
    monkeypatch.setenv(budgets.PIXELS, "225000000")  # what a user asks for is tried, however short the file
    assert images.read_size(LARGE["dense png"]) == (15000, 15000)


def test_a_large_photo_of_one_colour_is_none_that_lies():
    flat = io.BytesIO()
    PIL.Image.new("RGB", (1600, 1600)).save(flat, "JPEG")
    budgets.require_pixels((14000, 14000), "a.jpg", len(flat.getvalue()) * 14000**2 // 1600**2)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000", "PPM"])
def test_pillows_own_limit_is_not_ours(form, tmp_path, monkeypatch):
    tag = PIL.Image.Exif()
    tag[0x0112] = 6
    file = tmp_path / "a.img"
    file.write_bytes(encode(form, **({"exif": tag} if form in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF") else {})))
    expected = images.read(str(file))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(images.read(str(file)), expected)
    assert images.read_size(file) == images.peek(file)[0] == expected.shape[:2]
    if form not in ("TIFF", "WEBP"):  # whose decoders in Pillow have it within
        label_maps.read_pixels(str(file))


@pytest.mark.parametrize("name", LONG)
def test_chunks_longer_than_the_file(name):
    for read in (images.read, lambda data: images.peek(data)):
        with pytest.raises(UserError, match="cut short"):
            read(LONG[name])


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "loop"])
def test_only_regular_files_are_read(kind, tmp_path):
    file, listener = tmp_path / "a.png", socket.socket(socket.AF_UNIX)
    {
        "pipe": lambda: os.mkfifo(file),
        "socket": lambda: listener.bind(os.path.relpath(file)),
        "device": lambda: file.symlink_to("/dev/zero"),
        "folder": file.mkdir,
        "loop": lambda: file.symlink_to(file),
    }[kind]()
    listener.close()
    for read in (images.read_size, *READERS.values()):
        with pytest.raises(UserError, match=r"a\.png.* (cannot be read|not a mask)"):
            read(str(file))
    source = Source("mine", "train", ("a",), (1,), [{"id": 0, "file": "a.png", "image": str(file)}], {}, "")
    assert shards._read(source, 0) == (None, "unreadable image")
    if kind not in ("folder", "loop"):
        with pytest.raises(UserError, match=r"a\.png is a pipe, socket or device"):
            predict.find_images(file)
        found = predict.find_images(tmp_path)
        assert found == [file] and isinstance(predict._load(found[0], lambda *_: None), predict.Unreadable)


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.write(png(8, 8)[:-12])
        file.truncate(60 << 30)  # of which nothing is on the disk
    with pytest.raises(budgets.TooLarge, match=r"a\.png has 64,424,509,440 bytes"):
        images.read(tmp_path / "a.png")
    assert images.read_size(tmp_path / "a.png") == (8, 8)


def test_whatever_a_decoder_raises_is_an_image_that_cannot_be_read():
    rng = np.random.default_rng(1)
    whole = [encode(form) for form in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000", "PPM")]
    for number in range(400):
        data = bytearray(whole[number % len(whole)])
        for place in rng.integers(0, min(len(data), 300), 4):
            data[place] = rng.integers(256)
        for read in (images.read, images.read_size, lambda data: images.peek(data)[1](4)):
            try:
                read(bytes(data))
            except UserError:
                continue
