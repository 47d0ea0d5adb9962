"""Labels packed into arrays come back record by record."""

import numpy as np
import pytest

from mapjax.data import run_lengths
from mapjax.data.prepared import truth

LISTS = ("boxes", "classes", "crowd", "areas", "keypoints")


def boxed(number, count):
    rng = np.random.default_rng(number)
    return {
        "id": 10 * number,
        "file": f"{'ä' * number}/\udcff{number}.jpg",
        "image": b"",
        "size": np.array([number, 9], np.int32),
        "boxes": rng.random((count, 4), np.float32),
        "classes": rng.integers(0, 5, count).astype(np.int32),
        "crowd": rng.random(count) < 0.5,
        "areas": rng.random(count, np.float32),
        "masks": [run_lengths.encode(rng.random((number, 9)) < 0.4) for _ in range(count)] if number else [],
        "keypoints": rng.random((count, 4, 3), np.float32),
        "mirrored": np.array([1, 0, 2, 3], np.int32),
    }


def labelled(number, several):
    label = {"labels": np.arange(3) == number % 4} if several else {"label": np.int32(number)}
    return {"id": number, "file": f"{number}.png", "image": b"", **label}


SETS = {
    "boxes": [boxed(number, count) for number, count in enumerate([0, 2, 0, 3, 0, 0, 1])],
    "label": [labelled(number, False) for number in range(6)],
    "labels": [labelled(number, True) for number in range(6)],
}


def equal(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(one[key], other[key]) and getattr(one[key], "dtype", 0) == getattr(other[key], "dtype", 0)
        for key in one
    )


@pytest.mark.parametrize("kind", SETS)
def test_labels_come_back_whole_and_in_parts(kind):
    records = SETS[kind]
    expected = [{key: value for key, value in one.items() if key != "image"} for one in records]
    packed = truth.join([truth.pack(records[:2]), truth.pack([]), truth.pack(records[2:])])
    assert equal(packed, truth.pack(records))
    found = truth.Truth(truth.load(truth.save(packed)))
    assert len(found) == len(records) and all(equal(found.at(row), one) for row, one in enumerate(expected))
    assert [type(found.at(0)[key]) for key in expected[0]] == [type(expected[0][key]) for key in expected[0]]
    names = found.names(np.array([4, 1]))
    assert list(names) == [records[4]["file"], records[1]["file"]] and list(names[1:]) == [records[1]["file"]]
    known = found.labels()
    if kind == "boxes":
        assert known is None
    else:
        np.testing.assert_array_equal(known, [one[kind] for one in records])


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6], [1, 2, 5], []])
def test_objects_of_some_records_stand_end_to_end(rows):
    found = truth.Truth(truth.pack(SETS["boxes"]))
    objects = found.objects(np.array(rows, int))
    np.testing.assert_array_equal(objects["counts"], [len(SETS["boxes"][row]["boxes"]) for row in rows])
    for key in LISTS:
        expected = [SETS["boxes"][row][key] for row in rows]
        np.testing.assert_array_equal(objects[key], np.concatenate([objects[key][:0], *expected]), strict=True)


def test_a_record_may_be_written_to():
    found = truth.Truth(truth.pack(SETS["boxes"]))
    for key in ("size", *LISTS, "mirrored"):
        found.at(1)[key][...] = 0
    assert equal(found.at(1), truth.Truth(truth.pack(SETS["boxes"])).at(1))


def test_nothing_is_executed_when_labels_are_read():
    data = truth.save({"id": np.array([object()], object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        truth.load(data)
