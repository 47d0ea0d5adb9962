"""What is known of records without making them agrees with the records themselves."""

import numpy as np
import pytest

from mapjax.data import source as sources
from mapjax.data.source import Records, Source
from mapjax.errors import UserError

SIZES = [(3, 9), (7, 2), (5, 5)]


def make(records):
    return Source("mine", "train", ("a", "b"), (0, 1), records, {}, "")


def record(size=(2, 3), **more):
    return {"id": 0, "file": "a", "image": "a.png", "size": np.array(size, np.int32), **more}


def never(index):
    raise AssertionError("a record was made")


def test_the_largest_size_holds_every_image():
    listed = make([record(size) for size in SIZES])
    known = make(Records(3, never, sizes=np.array(SIZES, np.int32)))
    gone_through = make(Records(3, never, truth=lambda index: record(SIZES[index])))
    for source in (listed, known, gone_through):
        assert sources.largest_size(source) == (7, 9)
    assert sources.largest_size(make([])) == (0, 0)
    with pytest.raises(UserError, match="mine does not say how large its images are; give its records a 'size'"):
        sources.largest_size(make([{"id": 0, "file": "a", "image": "a.png"}]))


def test_label_maps_are_told_and_found():
    maps = [np.full((2, 3), n, np.uint8) for n in range(2)]
    listed = make([record(label_map=one) for one in maps])
    known = make(Records(2, never, label_map=maps.__getitem__))
    for source in (listed, known):
        assert sources.kind_of(source) == "label_map"
        np.testing.assert_array_equal(sources.label_map_of(source, 1), maps[1])
    wrapped = make(Records(2, listed.records.__getitem__, truth=lambda index: record()))
    assert sources.kind_of(wrapped) == "label_map" and sources.label_map_of(wrapped, 0) is maps[0]
    listed = ((None, []), ("boxes", [record(boxes=np.zeros((0, 4)))]), ("label", [record(label=np.int32(0))]))
    for kind, other in (*listed, (None, [record()])):
        assert sources.kind_of(make(other)) == kind
    assert sources.kind_of(make(Records(1, never, np.zeros(1, np.int32)))) == "label"
    assert sources.kind_of(make(Records(1, never, np.zeros((1, 2), bool)))) == "labels"
    assert sources.kind_of(make(Records(1, never, truth=lambda index: record(boxes=())))) == "boxes"
