"""mapjax.metrics.detection_errors against hotcoco's TIDE, against a slow loop by the paper, and by hand."""

import copy
import functools

import hotcoco
import numpy as np
import pytest
from test_detection_matching import iou_of, plain
from test_precision import dataset, found_of, random_case, source_of

from mapjax.metrics import detection_errors, precision
from mapjax.report import mistakes

TIDE = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), detection_errors.KINDS))


@pytest.mark.parametrize("options", [{}, {"crowded": True, "images": 4}, {"images": 1}], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_equals_hotcoco(seed, options):
    source, counts = random_case(seed + 40, crowd=0, classes=4, **options)
    known = hotcoco.COCO(dataset(source))
    evaluated = hotcoco.COCOeval(
        known, known.load_res(precision.coco_results(source, counts, precision.coco_truth(source))), "bbox"
    )
    evaluated.evaluate()
    wanted, found = evaluated.tide_errors(), detection_errors.of(source, counts)
    assert found.numbers == {kind: wanted["counts"][name] for name, kind in TIDE.items()}
    present = {int(k) for record in source.records for k in record["classes"]}
    answered = {int(k) for one in counts.values() for k in one["classes"]}
    assert found.ap50 == (pytest.approx(wanted["ap_base"], abs=1e-9) if present else -1)
    if present and answered <= present:  # a class that is answered and never there is of no mean of ours
        for name, kind in TIDE.items():
            assert found.gains[kind] == pytest.approx(max(wanted["delta_ap"][name], 0), abs=1e-9), kind


def mean_ap(rows, totals, asked):
    """AP at 101 recalls of (class, score, right), mean over the classes that have truth, in plain loops."""
    values = []
    for k in totals:
        ranked = sorted((row for row in rows if row[0] == k), key=lambda row: -row[1])
        if not asked[k]:
            values += [0.0] if ranked else []
            continue
        points, hits = [], 0
        for number, row in enumerate(ranked, 1):
            hits += row[2]
            points.append((hits / asked[k], hits / number))
        reached = ([p for r, p in points if r >= recall] for recall in np.linspace(0, 1, 101))
        values.append(np.mean([max(at, default=0.0) for at in reached]))
    return float(np.mean(values)) if values else -1.0


def slow(source, counts):
    """TIDE by its paper: the cause of each detection, and AP50 with all errors of one kind mended."""
    matched, ignored = plain(source, counts)
    rows, totals = [], {}  # a row: class, score, kind, (image, truth) to mend it to
    used = {(index, at) for (index, _), at in matched.items()}
    for index in counts:
        record = source.records[index]
        for k, crowd in zip(record["classes"], record["crowd"]):
            totals[int(k)] = totals.get(int(k), 0) + (not crowd)
    totals = {k: n for k, n in totals.items() if n}
    for index, found in counts.items():
        record = source.records[index]
        singles = [at for at in range(len(record["boxes"])) if not record["crowd"][at]]
        for row, (box, score, k) in enumerate(zip(found["boxes"], found["scores"], found["classes"])):
            if (index, row) in ignored:
                continue
            iou = {at: iou_of(box.astype(float), record["boxes"][at].astype(float), False) for at in singles}
            own = max((at for at in singles if record["classes"][at] == k), key=iou.get, default=None)
            other = max((at for at in singles if record["classes"][at] != k), key=iou.get, default=None)
            near, far = iou.get(own, 0.0), iou.get(other, 0.0)
            if (index, row) in matched:
                kind, at = "right", None
            elif 0.1 <= near < 0.5:
                kind, at = "badly placed", own
            elif far >= 0.5:
                kind, at = "wrong class", other
            elif near >= 0.5:
                kind, at = "duplicate", None
            else:
                kind, at = ("both wrong" if max(near, far) >= 0.1 else "false"), None
            target = (index, at) if at is not None and (index, at) not in used else None
            rows.append((int(k), float(score), kind, target))
    explained = {row[3] for row in rows}
    missed = [
        int(source.records[index]["classes"][at])
        for index in counts
        for at in range(len(source.records[index]["boxes"]))
        if not source.records[index]["crowd"][at] and (index, at) not in used | explained
    ]
    first = {}
    for row in sorted(rows, key=lambda row: -row[1]):
        first.setdefault(row[3], row)
    as_is = [(k, score, kind == "right") for k, score, kind, _ in rows]
    base, gains = mean_ap(as_is, totals, totals), {}
    for mended in detection_errors.KINDS[:-1]:
        after = []
        for row in rows:
            k, score, kind, target = row
            if kind != mended:
                after.append((k, score, kind == "right"))
            elif target is not None and first[target] is row:
                after.append((int(source.records[target[0]]["classes"][target[1]]), score, True))
        gains[mended] = mean_ap(after, totals, totals) - base
    asked = {k: n - missed.count(k) for k, n in totals.items()}
    gains["missed"] = mean_ap(as_is, totals, asked) - base
    numbers = {kind: sum(row[2] == kind for row in rows) for kind in detection_errors.KINDS} | {"missed": len(missed)}
    return base, numbers, {kind: max(gain, 0.0) for kind, gain in gains.items()}


@pytest.mark.parametrize("options", [{}, {"crowd": 0.5}, {"classes": 2}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_paper_taken_literally(seed, options):
    source, counts = random_case(seed + 80, images=6, **options)
    base, numbers, gains = slow(source, counts)
    found = detection_errors.of(source, counts)
    assert found.ap50 == pytest.approx(base, abs=1e-9) and found.numbers == numbers
    assert found.gains == pytest.approx(gains, abs=1e-9)


def test_numbers_are_those_of_the_report():
    source, counts = random_case(90, crowd=0.2)
    kinds = [finding.kind for finding in mistakes.survey(dict(enumerate(source.records)), counts, 0.0)]
    assert detection_errors.of(source, counts).numbers == {kind: kinds.count(kind) for kind in detection_errors.KINDS}


@functools.cache
def by_hand():
    """Ten cats and ten dogs, an image each, all found at 0.9."""
    truth = [([[0, 0, 100, 100]], [k // 10], [0], [1e4]) for k in range(20)]
    return truth, {k: found_of([[0, 0, 100, 100]], [0.9], [k // 10]) for k in range(20)}


@pytest.mark.parametrize(
    ("kind", "found", "gain"),
    [
        # Of ten cats one is not found: recall stays at 0.9, whose 91 of 101 recalls have a precision of 1.
        ("missed", [], 10 / 101 / 2),
        ("wrong class", [([0, 0, 100, 100], 0.95, 1)], None),
        ("badly placed", [([0, 0, 100, 30], 0.1, 0)], 10 / 101 / 2),
        ("both wrong", [([0, 0, 100, 30], 0.95, 1)], None),
        ("false", [([200, 200, 300, 300], 0.95, 0)], None),
    ],
)
def test_one_error_by_hand(kind, found, gain):
    truth, counts = copy.deepcopy(by_hand())
    counts[0] = found_of(*([row[place] for row in found] for place in range(3)))
    errors = detection_errors.of(source_of(truth), counts)
    others = {other: number for other, number in errors.numbers.items() if other != kind}
    assert errors.numbers[kind] == 1 and sum(others.values()) == (kind in ("both wrong", "false"))  # the cat is missed
    if gain is not None:
        assert errors.gains[kind] == pytest.approx(gain) and errors.ap50 == pytest.approx(1 - gain)
    else:
        assert errors.gains[kind] > 0
    assert all(value == 0 for other, value in errors.gains.items() if other != kind and other != "missed")


def test_a_duplicate_by_hand():
    truth, counts = copy.deepcopy(by_hand())
    counts[0] = found_of([[0, 0, 100, 100], [0, 0, 100, 95]], [0.99, 0.95], [0, 0])
    errors = detection_errors.of(source_of(truth), counts)
    assert errors.numbers == {kind: int(kind == "duplicate") for kind in detection_errors.KINDS}
    # The other cats come after it: at 90 of 101 recalls precision is 10 / 11.
    assert errors.gains["duplicate"] == pytest.approx((1 - 10 / 11) * 90 / 101 / 2)


def test_without_truth_and_without_detections():
    empty = source_of([([], [], [], [])])
    found = detection_errors.of(empty, {0: found_of([[0, 0, 9, 9]], [0.5], [0])})
    assert found.ap50 == -1 and found.numbers["false"] == 1 and set(found.gains.values()) == {-1.0}
    truth, _ = by_hand()
    found = detection_errors.of(source_of(truth), {k: found_of([], [], []) for k in range(20)})
    assert found.ap50 == 0 and found.numbers["missed"] == 20


@pytest.mark.parametrize("seed", range(4))
def test_confusion_equals_hotcoco(seed):
    source, counts = random_case(seed + 20, crowd=0)
    known = hotcoco.COCO(dataset(source))
    results = precision.coco_results(source, counts, precision.coco_truth(source))
    wanted = hotcoco.COCOeval(known, known.load_res(results), "bbox").confusion_matrix(min_score=0.4)
    order = [*(wanted["cat_ids"].index(number) for number in source.category_ids), len(source.classes)]
    found = detection_errors.confusion(source, counts, np.full(len(source.classes), 0.4))
    np.testing.assert_array_equal(found, wanted["matrix"][np.ix_(order, order)])


def test_confusion_by_hand():
    truth = [
        ([[0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 90, 90]], [0, 1, 2], [0, 0, 1], [100.0, 100.0, 1600.0]),
        ([[0, 0, 10, 10]], [0], [0], [100.0]),
    ]
    boxes = [[0, 0, 10, 9], [20, 0, 30, 9], [60, 60, 70, 70], [60, 60, 70, 70], [0, 0, 10, 10]]
    counts = {0: found_of(boxes, [0.6, 0.5, 0.9, 0.8, 0.1], [0, 3, 2, 0, 1]), 1: found_of([], [], [])}
    wanted = np.zeros((5, 5), int)
    wanted[0, 0] = wanted[1, 3] = 1  # found, and found as another class
    wanted[0, 4] = 1  # missed
    wanted[4, 0] = 1  # in the crowd of another class; what is in that of its own counts nowhere
    least = np.array([0.5, 0.2, 0.5, 0.5])  # the last detection is below
    np.testing.assert_array_equal(detection_errors.confusion(source_of(truth), counts, least), wanted)
    least[3] = 0.55
    wanted[1, 3], wanted[1, 4] = 0, 1
    np.testing.assert_array_equal(detection_errors.confusion(source_of(truth), counts, least), wanted)
