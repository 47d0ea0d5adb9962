"""mapjax.metrics.iou against scikit-learn; and that any division of the images gives the same figures."""

import functools
import itertools

import numpy as np
import pytest
from sklearn import metrics as oracle

from mapjax.data.source import Source
from mapjax.engine import evaluate
from mapjax.metrics import iou
from mapjax.stages import VOID

CLASSES = ("sky", "road/dirt", "car", "never")


def source_of(number):
    records = [{"id": i, "file": f"{i}.png", "size": np.array([4, 5])} for i in range(number)]
    return Source("fake", "val", CLASSES, (0, 1, 2, 3), records, {}, "0")


def answers(number, seed=0):
    """Truths, predictions and the result of a batch of them all."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (number, 4, 5)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = VOID
    tables = np.stack(
        [oracle.confusion_matrix(t[t != VOID], p[t != VOID], labels=range(4)) for t, p in zip(truth, predicted)]
    )
    contours = rng.integers(0, 9, (number, 4, 2)).repeat(2, -1)
    contours[..., 1] //= 2
    return truth, predicted, {"label_map": predicted, "confusion": tables.astype(np.int32), "contours": contours}


def batch(indexes):
    return {"index": np.array(indexes), "mask": np.ones(len(indexes), bool), "size": np.array([[4, 5]] * len(indexes))}


def test_figures_are_scikit_learns():
    truth, predicted, result = answers(9)
    metric = iou.make(source_of(9))
    found = metric.summarize(metric.measure(result, batch(range(9))))
    keep = truth != VOID
    t, p = truth[keep], predicted[keep]
    jaccard = oracle.jaccard_score(t, p, labels=[0, 1, 2], average=None)
    assert [found[f"IoU/{name}"] for name in CLASSES] == pytest.approx([*jaccard, -1])
    assert found["mIoU"] == pytest.approx(jaccard.mean())
    assert found["pixel_accuracy"] == pytest.approx(oracle.accuracy_score(t, p))
    recall = oracle.recall_score(t, p, labels=[0, 1, 2], average=None)
    assert [found[f"accuracy/{name}"] for name in CLASSES[:3]] == pytest.approx(list(recall))
    assert found["class_accuracy"] == pytest.approx(recall.mean())
    assert found["fwIoU"] == pytest.approx(oracle.jaccard_score(t, p, labels=[0, 1, 2], average="weighted"))
    assert found["dice"] == pytest.approx(oracle.f1_score(t, p, labels=[0, 1, 2], average="macro"))
    assert next(iter(found)) == metric.best


def test_boundary_f1_is_the_harmonic_mean_over_all_images():
    contours = np.array([[10, 5, 8, 6], [0, 0, 4, 0], [3, 0, 0, 0]])
    precision, recall = 5 / 10, 6 / 8
    assert iou.boundary_f1(contours) == pytest.approx([2 * precision * recall / (precision + recall), 0, 0])
    found = iou.scalars(np.eye(3, dtype=np.int64), contours, ("a", "b", "c"))
    assert found["boundary_f1/c"] == -1
    assert found["boundary_f1"] == pytest.approx(iou.boundary_f1(contours)[:2].mean())


@pytest.mark.parametrize("cuts", [(3, 9), (1, 2, 30), (17,)])
def test_any_division_gives_the_same(cuts):
    number = 40
    _, predicted, result = answers(number)
    metric = iou.make(source_of(number))
    whole = metric.measure(result, batch(range(number)))
    edges = [0, *cuts, number]
    parts = [
        metric.measure({k: v[a:b] for k, v in result.items()}, batch(range(a, b))) for a, b in itertools.pairwise(edges)
    ]
    merged = functools.reduce(metric.merge, [{}, *parts, {}])
    assert metric.summarize(merged) == metric.summarize(whole)
    assert metric.files(merged) == metric.files(whole)
    for found in (merged, whole):
        evenly = np.linspace(0, number - 1, iou.SHOWN).astype(int).tolist()
        worst = sorted(whole["images"], key=lambda i: (iou.image_iou(whole["images"][i]), i))[: iou.WORST]
        assert set(evenly) | set(worst) <= set(found["maps"])
        for index, kept in found["maps"].items():
            np.testing.assert_array_equal(kept, predicted[index])


def test_padding_does_not_count_and_maps_have_their_images_size():
    _, predicted, result = answers(3)
    rows = batch([0, 1, 2]) | {"mask": np.array([True, False, True]), "size": np.array([[2, 3], [4, 5], [4, 5]])}
    counts = iou.make(source_of(3)).measure(result, rows)
    np.testing.assert_array_equal(counts["confusion"], result["confusion"][[0, 2]].sum(0))
    assert sorted(counts["images"]) == [0, 2]
    np.testing.assert_array_equal(counts["maps"][0], predicted[0, :2, :3])


def test_files_say_what_each_image_holds():
    _, _, result = answers(2)
    metric = iou.make(source_of(2))
    files = metric.files(metric.measure(result, batch([0, 1])))
    first = files["predictions.json"][0]
    assert first["file"] == "0.png"
    table = result["confusion"][0]
    for k, name in enumerate(CLASSES):
        if table[k].sum() or table[:, k].sum():
            assert first["pixels"][name] == {
                "both": table[k, k],
                "truth": table[k].sum(),
                "predicted": table[:, k].sum(),
            }
    assert np.array(files["confusion.json"]["matrix"]).sum() == result["confusion"].sum()


def test_nothing_to_measure_is_minus_one():
    nothing = iou.scalars(np.zeros((2, 2), np.int64), np.zeros((2, 4), np.int64), ("a", "b"))
    assert set(nothing.values()) == {-1.0}


def test_counts_of_a_process_without_a_image_come_through_the_post():
    _, _, result = answers(3)
    metric = iou.make(source_of(3))
    rows = batch([0, 1, 2])
    nothing = metric.measure(result, rows | {"mask": np.zeros(3, bool)})
    posted = [evaluate._unpack(evaluate._pack(counts)) for counts in (nothing, metric.measure(result, rows))]
    merged = functools.reduce(metric.merge, posted)
    assert metric.summarize(merged) == metric.summarize(metric.measure(result, rows))
