"""What zlib packed comes back, whatever its form, and never more than it may."""

import gzip
import zlib

import numpy as np
import pytest

from mapjax.data import budgets, unpacking

DATA = np.random.default_rng(0).integers(0, 4, 300_000, np.uint8).tobytes()
GZIP, RAW = 31, -15


def raw(data):
    packer = zlib.compressobj(wbits=RAW)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("packed", "form"),
    [
        (zlib.compress(DATA), zlib.MAX_WBITS),
        (raw(DATA), RAW),
        (gzip.compress(DATA), GZIP),
        (gzip.compress(DATA[:9]) + gzip.compress(DATA[9:]) + bytes(512), GZIP),
    ],
)
def test_all_of_it_comes_back_or_it_is_told(packed, form, monkeypatch):
    assert unpacking.inflate(packed, "it", form) == DATA
    with pytest.raises((EOFError, zlib.error)):
        unpacking.inflate(packed[:100], "it", form)
    with pytest.raises(zlib.error):
        unpacking.inflate(b"\xff" * 100, "it", form)
    monkeypatch.setenv(budgets.UNPACKED, str(len(DATA)))
    assert unpacking.inflate(packed, "it", form) == DATA
    monkeypatch.setenv(budgets.UNPACKED, str(len(DATA) - 1))
    with pytest.raises(budgets.TooLarge, match="it unpacks to more than 299,999 bytes"):
        unpacking.inflate(packed, "it", form)
