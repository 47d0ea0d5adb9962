"""Values that no config can hold are refused at the door."""

import json

import pytest

from mapjax.config import load as configs
from mapjax.config import writable
from mapjax.errors import UserError

PARTS = json.dumps({"data": {"name": "digits"}, "transform": {"name": "pixelwise"}, "task": {"name": "classify"}})[1:-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"batch": 1' + "0" * 400, r"'batch' must be of whole numbers below 2\*\*63"),
        ('"batch": 1' + "0" * 5000, "is no config of a run"),
        ('"optimizer": {"clip": 1e999}', "'optimizer' must be of finite numbers"),
        ('"optimizer": {"clip": NaN}', "'optimizer' must be of finite numbers"),
        ('"model": {"name": "tiny", "widths": [[1, Infinity]]}', "'model' must be of finite numbers"),
        ('"rules": ' + "[" * 200 + "]" * 200, "'rules' must be nested in at most 32 steps"),
        ('"rules": ' + "[" * 100_000 + "]" * 100_000, "is no config of a run"),
        (r'"init_from": "a\u0000b"', "'init_from' must be of text without zero bytes"),
        (r'"init_from": "\ud800"', "'init_from' must be of text without zero bytes and lone surrogates"),
        ('"model": {"name": "tiny", "a.b": 1}', "'model' must be nodes whose keys are names without dots"),
        ('"batch": "many"', "batch='many' must be a whole number"),
    ],
)
def test_they_are_refused(text, message, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(f"{{{PARTS}, {text}}}")
    with pytest.raises(UserError, match=f"--config .*config.json.* {message}") as caught:
        configs.load(str(file))
    assert len(str(caught.value)) < 500


def test_on_the_command_line_too():
    for value in ("1e999", "1" + "0" * 400):
        with pytest.raises(UserError, match=r"must be of|expected a value"):
            configs.load("classify", {"optimizer.clip": value})
        with pytest.raises(UserError, match=r"model\.width=.* must be of|expected a value"):
            configs.load("classify", {"model.width": value, "model.name": "tiny"})


def test_what_json_can_hold_is_let_through():
    values = {"a": [1, -(2**63) + 1, 0.5, None, True, "schön"], "b": {"c": {}}}
    assert writable.fault(values) == "" and json.loads(json.dumps(values, allow_nan=False)) == values
