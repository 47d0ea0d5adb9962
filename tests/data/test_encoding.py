"""Records become bytes and come back the same; other bytes are refused."""

import json
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mapjax.data import images, run_lengths
from mapjax.data.prepared import encoding
from mapjax.errors import UserError

DTYPES = st.sampled_from([np.dtype(name) for name in ("i4", "f4", "?", "u1", "i8", "f8", ">i4")])
ARRAYS = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
TEXT = st.text(st.characters(), max_size=9)  # surrogates too, as a name that is not UTF-8 holds
RECORDS = st.fixed_dictionaries(
    {
        "id": st.integers(-(2**63), 2**63 - 1),
        "file": TEXT,
        "image": st.binary(max_size=99),
        "arrays": st.dictionaries(TEXT.filter(lambda key: key not in ("id", "file", "image")), ARRAYS, max_size=4),
    }
)


@settings(derandomize=True)
@given(RECORDS)
def test_what_is_encoded_comes_back(drawn):
    record = {key: drawn[key] for key in ("id", "file", "image")} | drawn["arrays"]
    back = encoding.decode(encoding.encode(record))
    assert back.keys() == record.keys()
    assert (back["id"], back["file"], back["image"]) == (record["id"], record["file"], record["image"])
    for key, array in drawn["arrays"].items():
        assert back[key].shape == array.shape and back[key].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(back[key], array)
        assert array.ndim == 0 or back[key].flags.writeable


def test_the_layout_is_what_the_docstring_says():
    box = np.array([[1, 2, 3, 4.5]], np.float32)
    data = encoding.encode({"id": 7, "file": "ä.jpg", "boxes": box, "label": np.int32(3), "image": b"IMAGE"})
    length = struct.unpack("<I", data[8:12])[0]
    header = json.loads(data[12 : 12 + length])
    assert data[:8] == b"mapjax1\n"
    assert header == {"id": 7, "file": "ä.jpg", "arrays": [["boxes", "<f4", [1, 4], 16], ["label", "<i4", [], 4]]}
    assert data[12 + length :] == struct.pack("<4f", 1, 2, 3, 4.5) + struct.pack("<i", 3) + b"IMAGE"


def test_masks_are_small():
    masks = np.zeros((8, 480, 640), bool)
    masks[:, 100:200, 50:300] = True
    data = encoding.encode({"id": 0, "file": "", "masks": masks, "image": b""})
    assert len(data) < 4000
    back = encoding.decode(data)
    assert back.keys() == {"id", "file", "masks", "image"} and all(isinstance(mask, bytes) for mask in back["masks"])
    np.testing.assert_array_equal(run_lengths.stacked(back["masks"], (480, 640)), masks)


def test_masks_that_an_earlier_version_wrote_as_bits_are_read():
    masks = np.arange(24).reshape(2, 3, 4) % 5 < 2
    header = {"id": 0, "file": "", "arrays": [["masks", "bits", [2, 3, 4], 11]]}
    packed = zlib.compress(np.packbits(masks).tobytes())
    header["arrays"][0][3] = len(packed)
    text = json.dumps(header).encode()
    data = b"mapjax1\n" + struct.pack("<I", len(text)) + text + packed
    np.testing.assert_array_equal(encoding.decode(data)["masks"], masks)


def test_label_maps_are_small():
    label_map = np.full((480, 640), 255, np.uint8)
    label_map[100:200, 50:300] = 7
    data = encoding.encode({"id": 0, "file": "", "label_map": label_map, "image": b""})
    assert len(data) < 4000
    back = encoding.decode(data)["label_map"]
    np.testing.assert_array_equal(back, label_map)
    assert back.flags.writeable


@pytest.mark.parametrize("length", [0, 3, 11, 30])
def test_bytes_that_are_cut_short_are_refused(length):
    data = encoding.encode({"id": 0, "file": "a", "boxes": np.ones((2, 4), np.float32), "image": b""})
    with pytest.raises(ValueError, match=r"record|cut short|JSON|Unterminated|Expecting"):
        encoding.decode(data[:length])
    with pytest.raises(ValueError, match="cut short in 'boxes'"):
        encoding.decode(data[:-1])
    with pytest.raises(ValueError, match="does not begin"):
        encoding.decode(b"other" + data)


def test_what_cannot_be_written_is_a_mistake_of_the_source():
    with pytest.raises(TypeError, match="not encoded bytes"):
        encoding.encode({"id": 0, "file": "a", "image": "path"})
    with pytest.raises(TypeError, match="'words' is object"):
        encoding.encode({"id": 0, "file": "a", "words": np.array([None]), "image": b""})


def test_images_keep_their_bytes_and_arrays_their_pixels(tmp_path):
    PIL.Image.new("RGB", (5, 4), (9, 80, 200)).save(tmp_path / "a.jpg")
    stored = (tmp_path / "a.jpg").read_bytes()
    assert encoding.encoded(str(tmp_path / "a.jpg")) == encoding.encoded(stored) == stored
    rng = np.random.default_rng(0)
    for shape in ((6, 5, 3), (6, 5), (6, 5, 1), (6, 5, 4)):
        pixels = rng.integers(0, 256, shape).astype(np.uint8)
        np.testing.assert_array_equal(images.read(encoding.encoded(pixels)), images.read(pixels))
    with pytest.raises(UserError, match="no such image file"):
        encoding.encoded(str(tmp_path / "none.jpg"))
