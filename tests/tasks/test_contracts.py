"""What holds of every task: what it needs, gradients down to the pixels, keys that the table lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import stages
from mapjax.config import load as configs
from mapjax.engine import evaluate
from mapjax.errors import UserError
from mapjax.runs import networks, sources
from mapjax.task import Context

SMALL = {
    "classify": {"model.width": "2"},
    "detect": {"model.channels": "4", "model.representation": "8", "model.backbone.width": "0.0625"},
    "segment": {"model.width": "2", "model.backbone.width": "0.0625"},
}
SIDES = {"classify": 8, "detect": 32, "segment": 32}
NEEDS = {"classify": "label", "detect": "boxes", "segment": "label_map"}


def config_of(name, **changes):
    side = SIDES[name]
    return configs.load(f"experiments/{name}.py", {**SMALL[name], "image_size": f"({side}, {side})", **changes})


def batch_of(name):
    """Two random images and what each task learns from."""
    rng, side = np.random.default_rng(0), SIDES[name]
    labels = {
        "classify": {"label": np.array([1, 3], np.int32)},
        "detect": {
            "boxes": np.array([[[4, 4, 20, 24]]] * 2, np.float32),
            "classes": np.ones((2, 1), np.int32),
            "crowd": np.zeros((2, 1), bool),
            "valid": np.ones((2, 1), bool),
        },
        "segment": {"label_map": rng.integers(0, 11, (2, side, side)).astype(np.uint8)},
    }
    return {
        "image": rng.integers(0, 256, (2, side, side, 3)).astype(np.uint8),
        "size": np.full((2, 2), side, np.int32),
        "matrix": np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
        "index": np.arange(2, dtype=np.int32),
        "mask": np.ones(2, bool),
        **labels[name],
    }


@pytest.mark.parametrize("name", list(SMALL))
def test_what_it_needs_and_keys_that_are_listed(name):
    config, batch = config_of(name), batch_of(name)
    task = networks.make_task(config, tuple("0123456789x"))
    assert task.needs == NEEDS[name] == networks.needs(config)
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    answered = jax.eval_shape(evaluate.make_answer(task), variables, batch)  # checks both stages as it is traced
    stages.check("result", answered)
    assert len(answered) > 0 and all(len(leaf.shape) > 0 for leaf in answered.values())


@pytest.mark.parametrize("name", ["classify", "segment"])
def test_gradients_reach_the_pixels(name):
    batch = jax.tree.map(jnp.asarray, batch_of(name))
    task = networks.make_task(config_of(name), tuple("0123456789x"))
    variables = jax.jit(task.init)(jax.random.key(0), batch)

    def of_pixels(pixels):
        given = {**batch, "image": task.normalize(pixels)}
        return task.loss(variables, given, Context(jax.random.key(1)))[0], given["image"]

    derive = jax.jit(jax.value_and_grad(of_pixels, has_aux=True))
    (value, seen), gradient = derive(batch["image"].astype(jnp.float32))
    np.testing.assert_allclose(seen, task.normalize(batch["image"]), rtol=1e-6)  # so uint8 gives the same loss
    assert np.isfinite(value) and np.isfinite(gradient).all() and np.abs(gradient).max() > 0


WRAPPER = """
from mapjax.tasks import segment

def make(*, model, classes, image_size, **options):
    return segment.make(model=model, classes=classes, image_size=image_size, **options)
"""
NOISY = """
from mapjax.tasks import classify

def make(*, model, classes, image_size, **options):
    task = classify.make(model=model, classes=classes, image_size=image_size, **options)

    def predict(variables, batch, key):
        return task.predict(variables, batch, key) | {"extra": batch["image"]}

    return task._replace(predict=predict)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    package = tmp_path / "own_tasks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "wrapper.py").write_text(WRAPPER)
    (package / "noisy.py").write_text(NOISY)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_task_of_your_own_that_wraps_another_gets_its_labels(own):
    """0.1 asked the module for what it needs, and gave boxes to one that did not say it."""
    config = config_of("segment", **{"task.name": "own_tasks.wrapper", "data.val_length": "2"})
    assert "label_map" in sources.make_source(config, "eval").records[0]


def test_a_key_that_the_table_does_not_list_is_told_before_training(own):
    config = config_of("classify", **{"task.name": "own_tasks.noisy"})
    task = networks.make_task(config, tuple("0123456789"))
    batch = batch_of("classify")
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    with pytest.raises(ValueError, match=r"prediction has a key 'extra' that the table of stages\.py does not list"):
        jax.eval_shape(evaluate.make_answer(task), variables, batch)


def test_a_classifier_on_mask_folders_is_told_what_it_learns_from(tmp_path):
    config = configs.load("experiments/classify.py", data=f"masks:{tmp_path}")
    with pytest.raises(UserError, match="has a class for each pixel, and this task learns from label;"):
        sources.make_source(config, "eval")
