"""The examples of docs/extend.md: each part does what the page says, and all of them train together."""

import json
import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

import mapjax
from mapjax.config import keys, parts
from mapjax.config import load as configs
from mapjax.task import Context

DOCS = pathlib.Path(__file__).parents[2] / "docs"
SHADES = ("dark", "light", "middle")


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Eight grey images of each shade to learn from, and two to score."""
    folder, lines = tmp_path_factory.mktemp("shades"), []
    for number in range(30):
        label, split = SHADES[number % 3], "train" if number < 24 else "val"
        image = np.full((20, 24, 3), {"dark": 20, "light": 230, "middle": 120}[label] + number % 5, np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append({"file": f"{number}.png", "label": label, "split": split})
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "labels.jsonl"


def test_the_network_gives_features_and_logits_by_name():
    model = parts.make("models", {"name": "examples.network", "width": 8, "depth": 1}, classes=3, dtype="float32")
    images = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    outputs, stats = jax.eval_shape(lambda v: model.apply(v, images, train=False, key=None), variables)
    assert {name: value.shape for name, value in outputs.items()} == {
        "layer1": (2, 4, 4, 8), "pool": (2, 8), "logits": (2, 3),
    }  # fmt: skip
    assert stats == {} and model.levels == {"layer1": 2}


def test_the_metric_is_scikit_learns_and_counts_real_rows_only():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 3, 40), rng.random((40, 3))
    source = mapjax.Source("", "", SHADES, (1, 2, 3), [], {}, "")
    metric = parts.make("metrics", {"name": "examples.metric"}, source=source)
    mask = np.arange(40) < 37
    rows = [slice(0, 20), slice(20, 40)]
    counts = [metric.measure({"probabilities": scores[r]}, {"label": truth[r], "mask": mask[r]}) for r in rows]
    found = metric.summarize(metric.merge(*counts))
    assert found == {"kappa": pytest.approx(cohen_kappa_score(truth[mask], scores.argmax(1)[mask]))}


def test_the_format_reads_its_splits_and_says_what_is_wrong(labels, tmp_path):
    node = configs.parse_data(f"examples.data_format:{labels}")
    train, val = (parts.make("data.formats", node, split=split) for split in ("train", "val"))
    assert train.classes == val.classes == SHADES and (len(train.records), len(val.records)) == (24, 6)
    assert train.fingerprint != val.fingerprint
    with pytest.raises(mapjax.UserError, match="has no split 'test'; there is: train, val"):
        parts.make("data.formats", node, split="test")
    (tmp_path / "wrong.jsonl").write_text('{"file": "a.png"}')
    with pytest.raises(mapjax.UserError, match=r"wrong\.jsonl, line 1: write"):
        parts.make("data.formats", {**node, "path": str(tmp_path / "wrong.jsonl")}, split="train")


def test_the_augmentation_darkens_corners_in_training_only():
    node = {"name": "examples.augmentation", "vignette": 0.8, "fit": "stretch"}
    record = {"id": 0, "file": "a", "image": np.full((9, 9, 3), 200, np.uint8), "label": np.int32(0)}
    trained, scored = (
        parts.make("data.transforms", {**node, "augment": augment}, size=(9, 9))(record, np.random.default_rng(1))
        for augment in ({}, None)
    )
    assert (scored["image"] == 200).all()
    assert trained["image"][4, 4, 0] == 200 and trained["image"][0, 0, 0] == trained["image"][-1, -1, 0] < 150


def test_the_task_counts_how_far_off_a_class_is():
    model = mapjax.Model(lambda key, images: {}, lambda variables, images, **_: ({"logits": variables}, {}))
    task = parts.make("tasks", {"name": "examples.task"}, model=model, classes=SHADES)
    batch = {"image": jnp.zeros((1, 4, 4, 3), jnp.uint8), "label": jnp.array([0]), "mask": jnp.array([True])}
    near, far = (
        task.loss(jnp.array([[0.0, 0.0, 0.0]]).at[0, k].set(50.0), batch, Context(jax.random.key(0)))[0] for k in (1, 2)
    )
    assert (near, far) == (pytest.approx(1), pytest.approx(2))


def test_they_train_together_and_answer(labels, tmp_path):
    config = str(DOCS / "examples" / "experiment.py")
    assert "transform.vignette" in keys.optional(configs.recipe(config))
    chosen = {"duration": "6 steps", "eval_batch": 4, "model.width": 4, "model.depth": 1, "input.threads": 1}
    run = mapjax.fit(config, workdir=tmp_path / "run", data=f"examples.data_format:{labels}", **chosen)
    written = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert {"top1", "kappa"} <= written.keys()
    assert run.predict(np.full((20, 24, 3), 20, np.uint8)).label in SHADES
