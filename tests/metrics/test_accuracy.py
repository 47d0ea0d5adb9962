"""mapjax.metrics.accuracy against scikit-learn."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle

from mapjax.data.source import Source
from mapjax.engine import evaluate
from mapjax.metrics import accuracy


def source_of(labels, classes):
    records = [{"id": i, "file": f"{i}.png", "label": np.int32(k)} for i, k in enumerate(labels)]
    return Source("fake", "val", tuple(f"c/{k}" for k in range(classes)), tuple(range(classes)), records, {}, "0")


def case(seed, images=200, classes=8, truths=None, ties=False):
    """A source and counts of answers that are right about half of the time, in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, truths or classes, images)
    logits = rng.normal(0, 1.2, (images, classes))
    logits[np.arange(images), labels] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities = (np.round(probabilities, 1) if ties else probabilities).astype(np.float32)
    counts = {
        int(i): {"probabilities": probabilities[i], "label": np.int32(labels[i])} for i in rng.permutation(images)
    }
    return source_of(labels, classes), counts, probabilities, labels


@pytest.mark.parametrize("classes", [2, 8, 30])
@pytest.mark.parametrize("seed", range(2))
def test_figures_are_scikit_learns(classes, seed):
    source, counts, probabilities, labels = case(seed, classes=classes)
    found = accuracy.make(source).summarize(counts)
    predicted = probabilities.argmax(1)
    assert found["top1"] == pytest.approx(oracle.accuracy_score(labels, predicted))
    names = np.arange(classes)
    if classes > 5:
        assert found["top5"] == pytest.approx(oracle.top_k_accuracy_score(labels, probabilities, k=5, labels=names))
    assert ("top5" in found) == (classes > 5)
    assert found["nll"] == pytest.approx(oracle.log_loss(labels, probabilities, labels=names), rel=1e-5)
    for average, suffix in (("macro", ""), ("weighted", "_weighted"), (None, "/")):
        known = np.unique(labels)
        figures = oracle.precision_recall_fscore_support(
            labels, predicted, labels=known, average=average, zero_division=0
        )
        for name, wanted in zip(("precision", "recall", "f1"), figures):
            if average is None:
                assert [found[f"{name}/c/{k}"] for k in known] == pytest.approx(wanted)
            else:
                assert found[name + suffix] == pytest.approx(wanted)


def test_the_first_figures_are_those_of_a_headline():
    source, counts, *_ = case(0)
    assert list(accuracy.make(source).summarize(counts))[:3] == ["top1", "top5", "f1"]
    assert accuracy.make(source).best == "top1"


def test_a_class_without_truth_and_one_never_predicted():
    labels, predicted = [0, 0, 1, 2], [0, 1, 1, 3]  # class 2 is never predicted, 3 has no truth, 4 neither
    source = source_of(labels, 5)
    counts = {i: {"probabilities": np.eye(5, dtype=np.float32)[predicted[i]], "label": labels[i]} for i in range(4)}
    found = accuracy.make(source).summarize(counts)
    wanted = oracle.precision_recall_fscore_support(labels, predicted, labels=[0, 1, 2], zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), wanted):
        assert [found[f"{name}/c/{k}"] for k in range(5)] == pytest.approx([*values, -1, -1])
        assert found[name] == pytest.approx(values.mean())
    assert found["precision/c/2"] == 0 and found["recall/c/2"] == 0


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("images", [0, 1])
def test_few_answers_or_none(classes, images):
    source, counts, *_ = case(0, images=images, classes=classes)
    found = accuracy.make(source).summarize(counts)
    assert all(np.isfinite(value) for value in found.values())
    assert found["ece_scaled"] == -1 and (found["top1"] == -1) == (images == 0)
    json.dumps(accuracy.make(source).files(counts), allow_nan=False)


def test_top5_counts_the_true_class_among_equals_by_its_place():
    source = source_of([4, 5], 7)
    even = np.full(7, 1 / 7, np.float32)
    counts = {i: {"probabilities": even, "label": np.int32(k)} for i, k in enumerate((4, 5))}
    assert accuracy.make(source).summarize(counts)["top5"] == 0.5


def test_independent_sigmoids_are_judged_by_their_shares():
    source, counts, _, labels = case(1)
    factors = np.random.default_rng(0).uniform(0.1, 1, (len(labels), 1)).astype(np.float32)
    shrunk = {i: {**row, "probabilities": row["probabilities"] * factors[i]} for i, row in counts.items()}
    metric = accuracy.make(source)
    assert metric.summarize(shrunk) == pytest.approx(metric.summarize(counts), rel=1e-3)


def test_answers_that_are_no_numbers_do_not_stop_a_run():
    source, counts, *_ = case(2, images=6)
    counts[3] = {**counts[3], "probabilities": np.full(8, np.nan, np.float32)}
    counts[4] = {**counts[4], "probabilities": np.zeros(8, np.float32)}
    metric = accuracy.make(source)
    json.dumps([metric.summarize(counts), metric.files(counts)], allow_nan=False)
    np.testing.assert_allclose(accuracy.answers(source, counts).probabilities[3:5], 1 / 8)


def test_measure_leaves_padding_out_and_halves_merge():
    source, counts, probabilities, labels = case(3, images=11)
    metric = accuracy.make(source)

    def measured(rows, real):
        batch = {"index": np.array(rows, np.int32), "mask": np.array(real), "label": labels[rows].astype(np.int32)}
        return metric.measure({"probabilities": probabilities[rows]}, batch)

    one, other = measured([0, 1, 2, 3], [True] * 4), measured([3, 4, 5, 5], [True, True, True, False])
    merged = metric.merge(one, other)
    assert sorted(merged) == list(range(6))
    assert metric.summarize(merged) == metric.summarize({i: counts[i] for i in range(6)})
    sent = evaluate._unpack(evaluate._pack(merged))  # what processes send each other
    assert metric.summarize(sent) == metric.summarize(merged)


@pytest.mark.parametrize("classes", [3, 8])
def test_files(classes):
    source, counts, probabilities, labels = case(4, images=40, classes=classes)
    files = json.loads(json.dumps(accuracy.make(source).files(counts), allow_nan=False))
    confusion = files["confusion.json"]
    predicted = probabilities.argmax(1)
    np.testing.assert_array_equal(
        confusion["matrix"], oracle.confusion_matrix(labels, predicted, labels=np.arange(classes))
    )
    assert confusion["classes"] == list(source.classes)
    for i, row in enumerate(files["predictions.json"]):
        assert (
            row["file"] == f"{i}.png" and row["label"] == f"c/{labels[i]}" and row["predicted"] == f"c/{predicted[i]}"
        )
        assert row["probability"] == pytest.approx(probabilities[i].max(), abs=1e-5)
        order = np.argsort(-probabilities[i])[:5]
        assert [one["class"] for one in row["top"]] == [f"c/{k}" for k in order]
        assert len(row["top"]) == min(5, classes)


def test_a_part_of_a_split_is_scored_as_it_is():
    source, counts, probabilities, labels = case(5)
    part = {i: counts[i] for i in range(50, 80)}
    found = accuracy.make(source).summarize(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes that are not there
        assert found["recall"] == pytest.approx(
            oracle.balanced_accuracy_score(labels[50:80], probabilities[50:80].argmax(1))
        )
