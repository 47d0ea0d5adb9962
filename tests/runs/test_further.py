"""A run with a second stream: a toy task that learns from both, gone on with exactly; nodes that cannot be."""

import shutil

import jax
import numpy as np
import pytest

from mapjax.config import load as configs
from mapjax.data.formats import digits
from mapjax.errors import UserError
from mapjax.runs import fit, further, trained
from mapjax.runtime import log as logs

TASK = """
import jax.numpy as jnp

from mapjax.tasks import classify


def make(*, model, classes, image_size, **options):
    task = classify.make(model=model, classes=classes, image_size=image_size, **options)

    def loss(variables, batch, context):
        total, (stats, scalars) = task.loss(variables, batch, context)
        seen = task.predict(variables, batch["unlabelled"], context.key)["logits"]
        spread = jnp.square(seen - seen.mean(-1, keepdims=True)).mean()
        return total + 0.01 * spread, (stats, scalars | {"spread": spread})

    return task._replace(loss=loss)
"""
SMALL = {
    "model.width": "2",
    "batch": "8",
    "eval_batch": "120",
    "duration": "6 steps",
    "every.log": "1 steps",
    "every.save": "3 steps",
    "input.threads": "1",
    "task.name": "both_streams.task",
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    package = tmp_path / "both_streams"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "task.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = configs.load("experiments/classify.py", SMALL)
    return configs.from_dict(
        configs.to_dict(found) | {"streams": {"unlabelled": {"data": {"name": "digits"}, "split": "val", "share": 1.5}}}
    )


def test_it_learns_from_both_and_goes_on_to_the_same_bits(config, tmp_path):
    fit.fit(config, tmp_path / "whole")
    lines = logs.read(tmp_path / "whole" / "metrics.jsonl")
    assert all(line["spread"] > 0 for line in lines if line["kind"] == "train")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    fit.fit(config, tmp_path / "again")
    one, other = (trained.load(tmp_path / name).variables for name in ("whole", "again"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    moved = configs.from_dict(configs.to_dict(config) | {"streams": {"unlabelled": {"data": {"name": "digits"}}}})
    with pytest.raises(UserError, match="holds another experiment"):
        fit.fit(moved, tmp_path / "again")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "streams.more must name its data"),
        ({"data": {"name": "digits"}, "shares": 2}, "has no key 'shares'. Did you mean 'share'"),
        ({"data": {"name": "digits"}, "share": 0.01}, "leaves nothing; give its own batch=N"),
        ({"data": {"name": "digits"}, "split": "test"}, "no split 'test'"),
        ({"data": {"name": "scenes", "train_length": 2}, "needs": "label_map"}, "has the classes background, 0, "),
    ],
)
def test_nodes_that_cannot_be(config, node, message):
    asked = configs.from_dict(configs.to_dict(config) | {"streams": {"more": node}})
    with pytest.raises(UserError, match=message):
        further.make(asked, digits.make(split="train"))
    taken = configs.from_dict(configs.to_dict(config) | {"streams": {"image": {"data": {"name": "digits"}}}})
    with pytest.raises(UserError, match="a batch has a key of this name already"):
        further.make(taken, digits.make(split="train"))
