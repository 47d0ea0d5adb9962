"""Masks as run lengths against pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle

from mapjax.data import run_lengths


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_they_agree_with_pycocotools(height, width, density, seed):
    mask = np.random.default_rng(seed).random((height, width)) < density
    expected = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert run_lengths.encode(mask) == expected
    np.testing.assert_array_equal(run_lengths.decode(expected, (height, width)), mask)
    assert run_lengths.area(expected) == run_lengths.area(mask) == mask.sum()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2**31), max_size=12))
def test_long_and_empty_runs_come_back(counts):
    text = run_lengths.compress(counts)
    assert run_lengths.decompress(text).tolist() == counts == run_lengths.decompress(text.decode()).tolist()


def test_bits_and_run_lengths_are_one_mask():
    mask = np.eye(3, 4) > 0
    both = run_lengths.stacked([mask, run_lengths.encode(mask)], (3, 4))
    np.testing.assert_array_equal(both, [mask, mask])
    assert run_lengths.stacked([], (3, 4)).shape == (0, 3, 4)
    with pytest.raises(ValueError, match="add up to 12 pixels, not to 4×4"):
        run_lengths.decode(run_lengths.encode(mask), (4, 4))
