"""Several metrics of one evaluation, and one of a person's own, by hand."""

import numpy as np
import pytest

from mapjax.data import labelled
from mapjax.errors import UserError
from mapjax.metrics import accuracy, combine
from mapjax.report import views

OWN = """
from mapjax.task import Metric

def make(source, scale=1.0):
    measure = lambda result, batch: {"n": float(batch["mask"].sum())}
    merge = lambda one, other: {"n": one.get("n", 0) + other.get("n", 0)}
    return Metric(measure, merge, lambda counts: {"seen": scale * counts["n"]}, lambda counts: {}, "seen")
"""


@pytest.fixture
def source():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    labels = np.array([0, 1, 1, 0], np.int32)
    return labelled.make_source("x", "val", ("cat", "dog"), list("abcd"), labels, images, dropped={})


def halves(metric):
    result = {"probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]], np.float32)}
    batch = {"label": np.array([0, 1, 1, 0]), "index": np.arange(4), "mask": np.array([True, True, True, False])}
    for rows in (slice(0, 2), slice(2, 4)):
        part = {name: value[rows] for name, value in batch.items()}
        yield metric.measure(metric.score({name: value[rows] for name, value in result.items()}, part), part)


def test_each_counts_for_itself(source, tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(OWN)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    (tmp_path / "own" / "metric.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    metric = combine.named(["classification", {"name": "own.metric", "scale": 10.0}], source)
    counts = metric.merge(*halves(metric))
    found = metric.summarize(counts)
    assert metric.best == "top1" and found["seen"] == 30.0
    alone = accuracy.make(source)
    assert found["top1"] == pytest.approx(2 / 3) == alone.summarize(counts["classification"])["top1"]
    assert metric.merge({}, counts) == counts  # what a process without images has counted
    assert set(metric.files(counts)) == set(alone.files(counts["classification"]))
    titles = [section.title for section in views.sections(source, counts, found)]
    assert "Classes" in titles  # those of the one that has sections


@pytest.mark.parametrize("names", [[], ["accuracy", "accuracy"]])
def test_names_that_cannot_be(source, names):
    with pytest.raises(UserError, match="must name one or more metrics, each once"):
        combine.named(names, source)
    with pytest.raises(UserError, match="Did you mean 'accuracy'"):
        combine.named(["acuracy"], source)


def test_two_metrics_with_one_name_for_their_figures_are_told_apart(source):
    """Before training where both rank by it; where they share others, a figure or a file is never another's."""
    with pytest.raises(UserError, match="'classification' and 'accuracy' both give 'top1'; leave one of them out"):
        combine.named(["classification", "accuracy"], source)
    metric = accuracy.make(source)
    (counts, *_) = halves(combine.together({"first": metric}))
    other = metric._replace(best="mine", summarize=lambda counts: {"mine": 0.5, "f1": 0.0}, files=lambda counts: {})
    both = combine.together({"first": metric, "second": other})
    with pytest.raises(UserError, match="'first' and 'second' both give 'f1'"):
        both.summarize({"first": counts["first"], "second": {}})
    for names in ({"mine.json": []}, {"predictions.json": []}):
        both = combine.together({"first": metric, "second": other._replace(files=lambda counts, names=names: names)})
        if "mine.json" in names:
            assert set(both.files({"first": counts["first"], "second": {}})) > {"mine.json", "predictions.json"}
        else:
            with pytest.raises(UserError, match=r"both give 'predictions\.json'"):
                both.files({"first": counts["first"], "second": {}})


def test_a_result_without_a_view_is_refused():
    with pytest.raises(UserError, match="keys waves cannot be drawn; known are: probabilities"):
        views.show({"waves": np.zeros(2)}, np.zeros((2, 2, 3), np.uint8), classes=["a"], score=0.5, enlarge=False)
