"""mapjax.metrics.multilabel against scikit-learn."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from mapjax.data.source import Source
from mapjax.engine import evaluate
from mapjax.metrics import multilabel


def case(seed, images=80, classes=6, ties=False, share=0.3):
    rng = np.random.default_rng(seed)
    labels = rng.random((images, classes)) < share
    probabilities = 1 / (1 + np.exp(-rng.normal(np.where(labels, 0.8, -0.8), 1.2)))
    probabilities = (np.round(probabilities, 1) if ties else probabilities).astype(np.float32)
    records = [{"id": i, "file": f"{i}.png", "labels": row} for i, row in enumerate(labels)]
    source = Source("fake", "val", tuple(f"c{k}" for k in range(classes)), tuple(range(classes)), records, {}, "0")
    counts = {int(i): {"probabilities": probabilities[i], "labels": labels[i]} for i in rng.permutation(images)}
    return source, counts, probabilities, labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_figures_are_scikit_learns(seed, ties):
    source, counts, probabilities, labels = case(seed, ties=ties)
    found = multilabel.make(source).summarize(counts)
    taken = probabilities >= 0.5
    assert found["mAP"] == pytest.approx(oracle.average_precision_score(labels, probabilities, average="macro"))
    each = oracle.average_precision_score(labels, probabilities, average=None)
    assert [found[f"AP/c{k}"] for k in range(6)] == pytest.approx(each)
    figures = oracle.precision_recall_fscore_support(labels, taken, average=None, zero_division=0)
    for name, wanted in zip(("precision", "recall", "f1"), figures):
        assert [found[f"{name}/c{k}"] for k in range(6)] == pytest.approx(wanted)
        assert found[name] == pytest.approx(wanted.mean())
    assert found["f1_micro"] == pytest.approx(oracle.f1_score(labels, taken, average="micro"))
    assert list(found)[:3] == ["mAP", "f1", "f1_micro"] and multilabel.make(source).best == "mAP"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30))
def test_average_precision_of_any_ranking(answers):
    probabilities = np.array([a for a, _ in answers], np.float32) / 6
    labels = np.array([b for _, b in answers])
    wanted = oracle.average_precision_score(labels, probabilities) if labels.any() else -1
    assert multilabel.average_precision(probabilities, labels) == pytest.approx(wanted)


def test_a_class_without_truth_is_left_out_of_the_means():
    source, counts, probabilities, labels = case(3)
    labels = labels & (np.arange(6) != 2)
    counts = {i: {**row, "labels": labels[i]} for i, row in counts.items()}
    found = multilabel.make(source).summarize(counts)
    assert {found[f"{name}/c2"] for name in ("AP", "f1", "precision", "recall")} == {-1}
    known = [0, 1, 3, 4, 5]
    assert found["mAP"] == pytest.approx(oracle.average_precision_score(labels[:, known], probabilities[:, known]))
    taken = probabilities >= 0.5
    assert found["f1"] == pytest.approx(oracle.f1_score(labels[:, known], taken[:, known], average="macro"))
    assert found["f1_micro"] == pytest.approx(oracle.f1_score(labels, taken, average="micro"))


@pytest.mark.parametrize(("images", "share"), [(0, 0.3), (1, 0.3), (5, 0.0), (5, 1.0)])
def test_degenerate_answers(images, share):
    source, counts, _, labels = case(0, images=images, share=share)
    metric = multilabel.make(source)
    found = metric.summarize(counts)
    json.dumps([found, metric.files(counts)], allow_nan=False)
    assert all(value == -1 or 0 <= value <= 1 for value in found.values())
    measured = labels.any(0)
    assert [found[f"AP/c{k}"] >= 0 for k in range(6)] == measured.tolist()
    assert found["mAP"] == (-1 if not measured.any() else pytest.approx(1.0) if share == 1 else found["mAP"])
    assert len(metric.files(counts)["predictions.json"]) == images


def test_measure_leaves_padding_out_and_halves_merge():
    source, counts, probabilities, labels = case(4, images=9)
    metric = multilabel.make(source)

    def measured(rows, real):
        batch = {"index": np.array(rows, np.int32), "mask": np.array(real), "labels": labels[rows]}
        return metric.measure({"probabilities": probabilities[rows]}, batch)

    merged = metric.merge(measured([0, 1, 2], [True] * 3), measured([2, 3, 3], [True, True, False]))
    assert metric.summarize(merged) == metric.summarize({i: counts[i] for i in range(4)})
    assert metric.summarize(evaluate._unpack(evaluate._pack(merged))) == metric.summarize(merged)


def test_files():
    source, counts, probabilities, labels = case(5, images=10)
    rows = json.loads(json.dumps(multilabel.make(source).files(counts)))["predictions.json"]
    for i, row in enumerate(rows):
        assert row["file"] == f"{i}.png"
        assert row["labels"] == [f"c{k}" for k in np.flatnonzero(labels[i])]
        assert sorted(row["predicted"]) == [f"c{k}" for k in np.flatnonzero(probabilities[i] >= 0.5)]
        assert [one["class"] for one in row["top"]] == [f"c{k}" for k in np.argsort(-probabilities[i])[:5]]
