"""Sizes that take turns, and a calm end: which transform each step of a training has."""

import itertools

import numpy as np
import pytest

from mapjax.config import load as configs
from mapjax.engine import schedule
from mapjax.errors import UserError
from mapjax.runs import sources
from mapjax.sharding import mesh as shard

MOSAIC = "{'name': 'mosaic', 'max_boxes': 8, 'augment': {'jitter': (0.5, 1.5), 'flip_horizontal': 0.5}}"
TURNS = "((32, 48), (48, 32), (48, 64))"


def config(**overrides):
    return configs.load("detect", {"image_size": "(48, 48)", "transform": MOSAIC, "batch": "8", **overrides})


def transforms(given, steps=100):
    return sources.make_transforms(given, schedule.Clock(8, 100, steps))


def test_sizes_take_turns_of_ten_steps_by_the_seed():
    given = config(multi_scale=TURNS, calm_last="0.25")
    made = transforms(given)
    assert [first for first, _ in made] == [*range(0, 80, 10), 75] and len({id(one) for _, one in made}) == 4
    assert all(one.companions == 3 for _, one in made[:-1]) and not hasattr(made[-1][1], "companions")
    sizes = [one._options["size"] for _, one in made[:-1]]
    assert set(sizes) == {(32, 48), (48, 32), (48, 64)}
    again = [one._options["size"] for _, one in transforms(config(multi_scale=TURNS), 1000)]
    assert again[:8] == sizes and len(again) == 100 and {again[:99].count(size) for size in again} == {33}
    other = [one._options["size"] for _, one in transforms(config(multi_scale=TURNS, seed="1"), 1000)]
    assert any(one != two for one, two in itertools.pairwise(again)) and other != again


def test_shapes_are_told_once_and_the_last_transform_comes_last():
    given, source, _ = sources.open_sources(config(multi_scale=TURNS, calm_last="0.25", **{"data.val_length": "1"}))
    sharding = shard.batch_sharding(shard.make_mesh({"data": 1, "fsdp": 1, "model": 1}), 8)
    made = transforms(given)
    found = [one["image"].shape for one in sources.abstract_batches(source, made, 8, sharding)]
    assert found[-1] == (8, 48, 48, 3) and set(found) == {
        (8, *size, 3) for size in ((32, 48), (48, 32), (48, 64), (48, 48))
    }
    turned = [*made[:3], *made[:1]]
    last = made[0][1]._options["size"]
    assert sources.abstract_batches(source, turned, 8, sharding)[-1]["image"].shape == (8, *last, 3)


def test_the_calm_end_keeps_what_changes_little():
    (_, wild), (first, calm) = transforms(config(calm_last="0.1"))
    assert first == 90 and wild._config["jitter"] == (0.5, 1.5)
    record = {
        "id": 0, "file": "a", "image": np.zeros((24, 24, 3), np.uint8), "size": np.array([24, 24], np.int32),
        "boxes": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int32), "crowd": np.zeros(0, bool),
        "areas": np.zeros(0, np.float32),
    }  # fmt: skip
    matrices = [calm(record, np.random.default_rng(seed))["matrix"] for seed in range(9)]
    assert {abs(float(one[0, 0])) for one in matrices} == {2.0} and {float(one[0, 0]) for one in matrices} == {
        2.0,
        -2.0,
    }


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"multi_scale": "((32,),)"}, "multi_scale=.* must be sizes"),
        ({"multi_scale": "((0, 32),)"}, "multi_scale=.* must be sizes"),
        ({"multi_scale": TURNS, "progressive_sizes": "((0.0, (32, 32)),)"}, "both say how large"),
        ({"calm_last": "1.0"}, "calm_last"),
    ],
)
def test_mistakes(overrides, words):
    with pytest.raises(UserError, match=words):
        transforms(config(**overrides))
