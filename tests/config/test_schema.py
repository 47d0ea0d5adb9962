"""The table of keys, and what is filled in from it."""

import copy

import pytest

from mapjax.config import keys, schema
from mapjax.config import load as configs


@pytest.mark.parametrize("name", schema.KEYS | schema.STREAM)
def test_every_key_is_described_and_its_default_is_of_its_kind(name):
    key = (schema.KEYS | schema.STREAM)[name]
    assert 5 < len(key.help) < 90 and key.help[-1] not in ".,;" and "\n" not in key.help
    assert isinstance(key.default, key.kind) and schema.words(key.kind) and not schema.fault(key, key.default)
    assert not key.unit or key.unit not in key.help


def test_what_is_left_out_is_the_default():
    given = {"batch": 8, "optimizer": {"name": "sgd"}, "schedule": None, "model": {"name": "tiny"}, "ema": 0}
    before = copy.deepcopy(given)
    whole = schema.complete(given)
    assert given == before
    assert whole == schema.defaults() | {
        "batch": 8,
        "optimizer": schema.defaults()["optimizer"] | {"name": "sgd"},
        "model": {"name": "tiny"},
        "ema": 0.0,
    }
    assert isinstance(whole["ema"], float) and schema.complete(whole) == whole
    whole["corruption"]["noise"] = 1.0
    assert schema.defaults()["corruption"] == {}, "nobody's change reaches the next"


def test_a_stream_is_filled_up():
    whole = schema.complete({"streams": {"more": {"share": 2.0}}})
    assert whole["streams"]["more"] == {name: key.default for name, key in schema.STREAM.items()} | {"share": 2.0}


def test_a_group_given_as_one_value_is_filled_up():
    config = configs.load("detect", {"optimizer": "{'name': 'sgd'}", "optimizer.clip": "1"})
    assert config.optimizer.to_dict() == schema.group("optimizer") | {"name": "sgd", "clip": 1.0}


def test_the_table_has_each_key_once_with_its_meaning():
    config = configs.load("detect:bccd")
    lines = keys.table(config).splitlines()
    written = [line.split("=")[0].removeprefix("--config.") for line in lines if line.startswith("--config.")]
    expected = [*dict(keys.flat_values(config)), *keys.optional(config.to_dict())]
    expected += [f"streams.NAME.{name}" for name in schema.STREAM]
    assert len(written) == len(set(written)) and set(written) == set(expected)
    for key in schema.KEYS.values():
        assert sum(key.help in line for line in lines) == 1, key
    said = "size of a training step, over all devices [a whole number; examples; default 32]"
    assert f"--config.batch=4                            {said}" in lines
    assert sum(schema.STREAM["share"].help in line for line in lines) == 1
    more = keys.table(configs.from_dict({"streams": {"more": {"data": {"name": "digits"}}}})).splitlines()
    assert sum(schema.STREAM["share"].help in line for line in more) == 1
    assert any(line.startswith("--config.model.name=faster_rcnn ") and "a part of models" in line for line in lines)
    assert "--config.task.iou=0.5" in lines
