"""mapjax.metrics.best_f1 against every threshold tried, one after the other."""

import numpy as np
import pytest
from test_detection_matching import plain
from test_precision import CLASSES, found_of, random_case, source_of

from mapjax.metrics import best_f1, precision


def f1_at(source, counts, k, threshold):
    """F1, precision and recall of class k of what has this score or a higher one, matched anew."""
    kept = {}
    for index, found in counts.items():
        rows = (found["scores"] >= threshold) & (found["classes"] == k)
        kept[index] = {name: values[rows] for name, values in found.items()}
    matched, ignored = plain(source, kept)
    number = sum(len(found["scores"]) for found in kept.values()) - len(ignored)
    total = sum(int(((r["classes"] == k) & ~r["crowd"]).sum()) for r in (source.records[i] for i in counts))
    return (
        2 * len(matched) / max(number + total, 1),
        len(matched) / max(number, 1),
        len(matched) / max(total, 1),
    )


@pytest.mark.parametrize("options", [{}, {"ties": True}, {"crowd": 0.5}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_is_better(seed, options):
    source, counts = random_case(seed, images=5, **options)
    found = best_f1.of(source, counts)
    for k in range(len(CLASSES)):
        own = [np.zeros(0), *(one["scores"][one["classes"] == k] for one in counts.values())]
        scores = np.unique(np.concatenate(own))
        tried = [f1_at(source, counts, k, threshold)[0] for threshold in scores]
        if not any(((r["classes"] == k) & ~r["crowd"]).any() for r in source.records):
            assert found.threshold[k] == found.f1[k] == found.precision[k] == -1
        elif max(tried, default=0) == 0:
            assert found.threshold[k] == -1 and found.f1[k] == 0
        else:
            assert found.f1[k] == pytest.approx(max(tried), abs=1e-12)
            figures = found.f1[k], found.precision[k], found.recall[k]
            assert figures == pytest.approx(f1_at(source, counts, k, found.threshold[k]), abs=1e-12)
            higher = [value for value, at in zip(tried, scores) if at > found.threshold[k]]
            if "crowd" not in options:  # what lies in a crowd makes no difference
                assert np.sum(np.isclose(higher, max(tried), atol=1e-12)) <= 1  # of equals the highest


def test_by_hand():
    truth = [([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0], [0, 0], [100.0, 100.0]), ([[0, 0, 10, 10]], [1], [0], [100.0])]
    counts = {
        0: found_of([[0, 0, 10, 9], [50, 50, 60, 60], [20, 0, 30, 9]], [0.9, 0.5, 0.25], [0, 0, 0]),
        1: found_of([[0, 0, 10, 10], [40, 40, 50, 50]], [0.5, 0.5], [1, 2]),
    }
    scalars = precision.make(source_of(truth)).summarize(counts)
    # Two right of three from 0.25 on: 4 / 5; of the first alone 2 / 3.
    assert scalars["F1/cat"] == pytest.approx(0.8) and scalars["threshold/cat"] == pytest.approx(0.25)
    assert scalars["F1/dog"] == 1 and scalars["threshold/dog"] == 0.5
    assert scalars["F1/cow"] == scalars["threshold/cow"] == -1
    assert scalars["F1"] == pytest.approx(0.9)


def test_what_is_never_right_has_no_threshold():
    source = source_of([([[0, 0, 10, 10]], [0], [0], [100.0])])
    for counts in ({0: found_of([[50, 50, 60, 60]], [0.9], [0])}, {0: found_of([], [], [])}):
        scalars = best_f1.scalars(source, counts)
        assert (scalars["F1"], scalars["F1/cat"], scalars["threshold/cat"]) == (0, 0, -1)
    assert best_f1.scalars(source, {})["F1"] == -1
