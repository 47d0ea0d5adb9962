"""Sources that are prepared in tests, and what is compared of them."""

import hashlib
import pathlib

import numpy as np

from mapjax.data import images, run_lengths
from mapjax.data.prepared import prepare

IMAGES = 7  # of the fixture `photos`


def opened(node, splits=("train",), needs=None):
    return prepare.open_splits(node, splits, needs)


def written(node, out, *, splits=("train",), count=3, shuffle=None, needs=None, **options):
    sources = opened(node, splits, needs)
    plan = prepare.make_plan(sources, out, count, shuffle, needs)
    return sources, *prepare.prepare(sources, out, plan, data="test", **options)


def folder(path, **options):
    return {"name": "folder", "path": str(path), "hold_out": 0, **options}


def contents(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(pathlib.Path(out).iterdir())}


def equal(record, other):
    """Compare two records; the image as it is stored where both store one, else its pixels; masks likewise."""
    assert record.keys() == other.keys()
    if "masks" in record:
        masks, expected = (run_lengths.stacked(one["masks"], tuple(one["size"].tolist())) for one in (record, other))
        np.testing.assert_array_equal(masks, expected, strict=True)
    for key in record.keys() - {"image", "masks"}:
        np.testing.assert_array_equal(record[key], other[key], strict=True)
    np.testing.assert_array_equal(images.read(record["image"]), images.read(other["image"]))
