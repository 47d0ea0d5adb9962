"""mapjax.report.mistakes against the six counts of TIDE that hotcoco computes, and by hand."""

import collections

import hotcoco
import numpy as np
import pytest

from mapjax.report import mistakes

TIDE = {
    "Cls": "wrong class",
    "Loc": "badly placed",
    "Both": "both wrong",
    "Dupe": "duplicate",
    "Bkg": "false",
    "Miss": "missed",
}


def record_of(boxes, classes, crowd=None):
    return {
        "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
        "classes": np.asarray(classes, np.int32),
        "crowd": np.zeros(len(classes), bool) if crowd is None else np.asarray(crowd, bool),
    }


def found_of(boxes, scores, classes):
    return record_of(boxes, classes) | {"scores": np.asarray(scores, np.float32)}


def random_images(seed, count=5):
    rng = np.random.default_rng(seed)
    records, counts = {}, {}
    for index in range(count):
        n = int(rng.integers(0, 6))
        corner = rng.uniform(0, 120, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 90, (n, 2))], 1)
        labels = rng.integers(0, 3, n)
        near = np.repeat(boxes, 3, 0) + rng.normal(0, 14, (3 * n, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        guess = np.where(rng.random(3 * n) < 0.3, rng.integers(0, 3, 3 * n), np.repeat(labels, 3))
        records[index], counts[index] = record_of(boxes, labels), found_of(near, rng.random(3 * n), guess)
    return records, counts


def tide(records, counts):
    def rows(values, **extra):
        corners = values["boxes"].astype(float)
        sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        return [{"bbox": s, "category_id": int(k) + 1} for s, k in zip(sides, values["classes"])]

    truth = [
        {**row, "image_id": i, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for i, record in records.items()
        for row in rows(record)
    ]
    truth = [{**row, "id": n} for n, row in enumerate(truth, 1)]
    found = [
        {**row, "image_id": i, "score": float(s)} for i, c in counts.items() for row, s in zip(rows(c), c["scores"])
    ]
    known = hotcoco.COCO(
        {
            "images": [{"id": i, "width": 300, "height": 300} for i in records],
            "annotations": truth,
            "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
        }
    )
    evaluated = hotcoco.COCOeval(known, known.load_res(found), "bbox")
    evaluated.evaluate()
    return evaluated.tide_errors()["counts"]


@pytest.mark.parametrize("seed", range(12))
def test_kinds_are_those_of_tide(seed):
    records, counts = random_images(seed)
    number = collections.Counter(f.kind for f in mistakes.survey(records, counts, 0.0))
    assert {name: number[kind] for name, kind in TIDE.items()} == tide(records, counts)
    assert set(number) <= set(mistakes.KINDS)


def test_each_kind_by_hand():
    record = record_of(
        [[0, 0, 10, 10], [50, 50, 70, 70], [100, 0, 120, 20], [0, 100, 99, 199]], [0, 1, 0, 2], [0, 0, 0, 1]
    )
    found = found_of(
        [
            [0, 0, 10, 10],  # correct
            [0, 0, 10, 9],  # duplicate
            [50, 50, 70, 71],  # of class 2: wrong class
            [108, 0, 128, 20],  # IoU 12 / 28: badly placed
            [60, 60, 80, 80],  # IoU 1 / 7 with class 1: both wrong
            [200, 200, 230, 230],  # false
            [10, 110, 40, 140],  # in the crowd of class 2: ignored
            [0, 0, 10, 10],  # below the threshold
        ],
        [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.2],
        [0, 0, 2, 0, 2, 1, 2, 0],
    )
    findings = mistakes.classify(7, record, found, 0.5)
    kinds = ["correct", "duplicate", "wrong class", "badly placed", "both wrong", "false", "ignored"]
    assert [f.kind for f in findings] == kinds
    assert findings[3].iou == pytest.approx(12 / 28)
    assert [f.truth for f in findings] == [0, 0, 1, 2, 1, -1, 3]
    assert all(f.index == 7 for f in findings)


def test_a_threshold_turns_found_into_missed():
    record, found = record_of([[0, 0, 10, 10]], [0]), found_of([[0, 0, 10, 10]], [0.4], [0])
    assert [f.kind for f in mistakes.classify(0, record, found, 0.3)] == ["correct"]
    assert [f.kind for f in mistakes.classify(0, record, found, 0.5)] == ["missed"]


def test_worst_comes_first():
    records = {0: record_of([[0, 0, 5, 5], [20, 20, 60, 60]], [0, 0])}
    found = {0: found_of([[80, 80, 90, 90], [100, 100, 110, 110]], [0.6, 0.9], [0, 0])}
    findings = mistakes.survey(records, found)
    assert [f.score for f in mistakes.worst(findings, "false")] == pytest.approx([0.9, 0.6])
    assert [f.truth for f in mistakes.worst(findings, "missed")] == [1, 0]


def test_nothing_at_all():
    empty = found_of([], [], [])
    assert mistakes.survey({0: record_of([], [])}, {0: empty}) == []
    assert mistakes.overlaps(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)) == [[0]]
