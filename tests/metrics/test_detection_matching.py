"""mapjax.metrics.matching against a plain loop over images, classes and detections, as pycocotools has it."""

import numpy as np
import pytest
from test_precision import found_of, random_case

from mapjax.data.source import Records
from mapjax.metrics import matching


def iou_of(box, truth, crowd):
    inter = 1.0
    for low, high in ((0, 2), (1, 3)):
        inter *= max(min(box[high], truth[high]) - max(box[low], truth[low]), 0)
    area, other = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, truth))
    union = area if crowd else area + other - inter
    return inter / union if union > 0 else 0.0


def plain(source, counts, same_class=True):
    """(index, row of the detection) → the row of its truth in the record; and which are ignored."""
    matched, ignored = {}, set()
    for index, found in counts.items():
        record, taken = source.records[index], set()
        crowd = record["crowd"]
        for row in np.argsort(-found["scores"], kind="stable"):
            ious = [
                iou_of(found["boxes"][row].astype(float), box.astype(float), c)
                if not same_class or k == found["classes"][row]
                else 0.0
                for box, c, k in zip(record["boxes"], crowd, record["classes"])
            ]
            free = [at for at in range(len(ious)) if ious[at] >= 0.5 and not crowd[at] and at not in taken]
            if free:
                matched[index, int(row)] = max(free, key=lambda at: ious[at])
                taken.add(matched[index, int(row)])
            elif any(iou >= 0.5 and c for iou, c in zip(ious, crowd)):
                ignored.add((index, int(row)))
    return matched, ignored


def named(source, counts, pairs, matched, ignored):
    """What `matching` says, by image and row."""
    starts, objects = {}, matching.objects(source).starts
    total = place = 0
    rows = {}
    for index in sorted(counts):
        starts[index] = total
        total += objects[index + 1] - objects[index]
        for row in range(len(counts[index]["scores"])):
            rows[place] = (index, row)
            place += 1
    found = {rows[at]: int(matched[at]) - int(starts[rows[at][0]]) for at in np.flatnonzero(matched >= 0)}
    return found, {rows[at] for at in np.flatnonzero(ignored)}


@pytest.mark.parametrize("most", [2**20, 7])  # pairs at once
@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("options", [{}, {"ties": True}, {"crowd": 0.6}, {"crowded": True}], ids=str)
def test_equals_a_plain_loop(monkeypatch, options, same_class, most):
    monkeypatch.setattr(matching, "_MOST", most)
    source, counts = random_case(11, **options)
    counts.pop(2)  # not every image is measured
    pairs = matching.overlaps(source, counts, same_class=same_class)
    matched = matching.match(pairs, same_class=same_class)
    wanted, passed = plain(source, counts, same_class)
    ignored = matching.ignored(pairs, matched)
    assert named(source, counts, pairs, matched, ignored if same_class else [])[0] == wanted and wanted
    if same_class:
        assert named(source, counts, pairs, matched, ignored)[1] == passed


def test_pairs_are_all_that_overlap_enough():
    source, counts = random_case(12)
    pairs = matching.overlaps(source, counts, least=0.1, same_class=False)
    wanted = sorted(
        iou
        for index, found in counts.items()
        for box in found["boxes"]
        for truth, crowd in zip(source.records[index]["boxes"], source.records[index]["crowd"])
        if (iou := iou_of(box.astype(float), truth.astype(float), crowd)) >= 0.1
    )
    np.testing.assert_allclose(np.sort(pairs.iou), wanted, atol=1e-9)
    scores = pairs.scores[pairs.detection]
    assert (np.diff(scores) <= 0).all() and len(pairs.classes) == sum(len(r["classes"]) for r in source.records)


def test_nothing_at_all():
    source, _ = random_case(13, images=2)
    for counts in ({}, {0: found_of([], [], [])}):
        pairs = matching.overlaps(source, counts)
        assert len(pairs.iou) == len(matching.match(pairs)) == 0


def test_the_objects_of_a_split_are_gathered_once():
    plain, counts = random_case(14)
    asked = []
    records = Records(len(plain.records), lambda index: asked.append(index) or plain.records[index])
    source = plain._replace(records=records)
    one, other = (matching.overlaps(source, counts) for _ in range(2))
    assert asked == list(range(len(records)))
    np.testing.assert_array_equal(one.iou, other.iou)
