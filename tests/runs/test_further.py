"""A run with a second stream: a toy task that learns from both, gone on with exactly; nodes that cannot be."""

import shutil

import cv2
import jax
import numpy as np
import pytest

from mapjax.cli import bench_runs
from mapjax.config import load as configs
from mapjax.data import streams
from mapjax.data.formats import digits
from mapjax.errors import UserError
from mapjax.plan import step
from mapjax.runs import fit, further, setup, trained
from mapjax.runtime import log as logs
from mapjax.sharding import mesh

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
    one, other = (trained.load(tmp_path / name, trusted=True).variables for name in ("whole", "again"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    moved = configs.from_dict(configs.to_dict(config) | {"streams": {"unlabelled": {"data": {"name": "digits"}}}})
    with pytest.raises(UserError, match="holds another experiment"):
        fit.fit(moved, tmp_path / "again")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"data": {"name": "digits"}, "needs": "bla"}, r"streams\.more\.needs='bla' is no kind of labels"),
        (
            {"data": {"name": "digits"}, "needs": "boxes"},
            "have label, and streams.more.needs='boxes' learns from boxes",
        ),
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


@pytest.mark.parametrize("needs", ["", "label"])
def test_labels_come_only_where_they_are_asked_for(config, needs):
    node = {"unlabelled": {"data": {"name": "digits"}, "batch": 4, "needs": needs}}
    (stream,) = further.make(configs.from_dict(configs.to_dict(config) | {"streams": node}), digits.make(split="train"))
    shapes = further.shapes(stream, mesh.make_mesh({"data": 1}, jax.devices()[:1]), 2)
    assert ("label" in shapes) == bool(needs) and shapes["image"].shape == (4, 8, 8, 3)
    seen, _ = streams.element(stream, 0, 0)
    assert ("label" in seen) == bool(needs)


def test_a_batch_that_does_not_divide(config):
    node = {"unlabelled": {"data": {"name": "digits"}, "batch": 3}}
    asked = configs.from_dict(configs.to_dict(config) | {"streams": node, "accumulate": 2})
    with pytest.raises(UserError, match=r"streams\.unlabelled: its batch=3 does not divide by accumulate=2"):
        setup.build(asked)


def test_bench_and_plan_know_the_streams(config):
    bench_runs.train_step(config).run()
    node = {"unlabelled": {"data": {"name": "folder", "path": "nowhere"}}}
    config, source, note = step.find_source(configs.from_dict(configs.to_dict(config) | {"streams": node}))
    assert note == "nowhere (streams.unlabelled) is not here: planned with the main data in its place"
    (planned,) = step.planned(config, source, source, mesh.make_mesh({"data": 1}, jax.devices()[:1])).streams
    assert planned.source is source and planned.batch == 8


def test_images_without_labels_are_a_stream(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    streams = {"unlabelled": {"data": {"name": "folder", "path": str(tmp_path)}, "batch": 2}}
    config = configs.from_dict(
        configs.to_dict(configs.load("classify", SMALL | {"task.name": "classify"})) | {"streams": streams}
    )
    seen = setup.build(config).batches[0]["unlabelled"]
    assert seen["image"].shape == (2, 8, 8, 3) and seen.keys().isdisjoint(further.LABELS)
