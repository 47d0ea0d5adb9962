"""Keys that parts take, though the experiment does not write them."""

import pytest

from mapjax.config import keys
from mapjax.config import load as configs
from mapjax.errors import UserError

DETECT = "experiments/detect.py"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("transform.augment.rotate", "10", 10.0),
        ("model.backbone.remat", "True", True),
        ("optimizer.momentum", "0.5", 0.5),
        ("schedule.final", "0.1", 0.1),
        ("task.box_nms", "0.4", 0.4),
        ("data.seed", "3", 3),
        ("eval_size", "(160, 160)", (160, 160)),
    ],
)
def test_a_key_with_a_default_can_be_given(key, text, value):
    node = configs.load(DETECT, {key: text})
    assert node.is_locked
    for part in key.split("."):
        node = node[part]
    assert node == value


def test_what_is_written_is_not_listed_again():
    config = configs.load(DETECT)
    listed = keys.optional(config.to_dict())
    written = dict(keys.flat_values(config))
    assert not set(listed) & set(written)
    assert listed["model.backbone.remat"] is False and listed["transform.augment.hue"] == 0.0
    assert not any(key.rpartition(".")[2] in ("classes", "dtype", "image_size") for key in listed)


def test_a_misspelt_one_names_the_near_ones():
    with pytest.raises(UserError, match=r"Did you mean 'optimizer\.learning_rate'"):
        configs.load(DETECT, {"optimizer.lr": "1"})
    with pytest.raises(UserError, match=r"Did you mean 'transform\.augment\.rotate'"):
        configs.load(DETECT, {"transform.augment.rotat": "10"})
    with pytest.raises(UserError, match=r"expected a value like 0\.9"):
        configs.load(DETECT, {"optimizer.momentum": "much"})
