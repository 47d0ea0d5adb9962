import math

import pytest

from mapjax.errors import UserError
from mapjax.plan import search


@pytest.mark.parametrize("unit", [1, 8])
@pytest.mark.parametrize("start", [1, 64, 4096])
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("room", [0.5, 3, 37, 300, 5000])
def test_the_largest_batch_that_fits(unit, start, says, room):
    """Memory is 1000 bytes and 7 an image; `room` is the units that fit."""
    limit = 1000 + int(7 * unit * room)
    tried = []

    def attempt(batch):
        tried.append(batch)
        needed = 1000 + 7 * batch
        return search.Tried(needed if says or needed <= limit else 0, needed <= limit)

    if room < 1:
        with pytest.raises(UserError, match="no batch fits"):
            search.largest_batch(attempt, unit, start, limit)
        return
    found = search.largest_batch(attempt, unit, start, limit)
    best = int(room) * unit
    assert found <= best
    assert found % unit == 0
    if len(tried) < search.MOST or says:
        assert best - found <= max(unit, found // search.ENOUGH + unit)
    assert len(tried) <= search.MOST + 13  # halving 4096 to 1
    assert len(set(tried)) == len(tried)
    assert found in tried


def test_meshes_use_every_device():
    found = list(search.meshes(16))
    assert {"data": 16, "fsdp": 1, "model": 1, "pipe": 1} in found
    assert {"data": 1, "fsdp": 16, "model": 1, "pipe": 1} in found
    assert {"data": 4, "fsdp": 1, "model": 4, "pipe": 1} in found
    assert all(one["data"] * one["fsdp"] * one["model"] == 16 and one["pipe"] == 1 for one in found)
    assert len({tuple(one.values()) for one in found}) == len(found)


def test_a_stack_is_cut_over_a_pipeline_too():
    found = list(search.meshes(16, stacked=True))
    assert [one for one in found if one["pipe"] == 1] == list(search.meshes(16))
    assert {"data": 4, "fsdp": 1, "model": 1, "pipe": 4} in found
    assert {"data": 2, "fsdp": 1, "model": 2, "pipe": 4} in found
    assert all(math.prod(one.values()) == 16 for one in found)
    assert len({tuple(one.values()) for one in found}) == len(found)
