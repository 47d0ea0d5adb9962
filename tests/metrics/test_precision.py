"""mapjax.metrics.precision against pycocotools."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mapjax.data.source import Records, Source
from mapjax.metrics import precision

CLASSES = ("cat", "dog", "cow", "emu")
CATEGORY_IDS = (7, 3, 90, 12)  # neither in order nor dense, as COCO's own


def source_of(truth, category_ids=CATEGORY_IDS):
    """A source without images: `truth` has a (boxes, classes, crowd, areas) for each image."""
    records = [
        {"id": 5000 - 3 * i, "file": f"{i}.jpg", "image": f"{i}.jpg", "size": np.array([300, 320], np.int32)}
        | {"boxes": np.asarray(boxes, np.float32).reshape(-1, 4), "classes": np.asarray(classes, np.int32)}
        | {"crowd": np.asarray(crowd, bool), "areas": np.asarray(areas, np.float32)}
        for i, (boxes, classes, crowd, areas) in enumerate(truth)
    ]
    return Source("fake", "val", CLASSES, category_ids, records, {}, "0")


def found_of(boxes, scores, classes):
    return {
        "boxes": np.asarray(boxes, np.float32).reshape(-1, 4),
        "scores": np.asarray(scores, np.float32),
        "classes": np.asarray(classes, np.int32),
    }


def random_case(seed, *, images=8, classes=3, crowd=0.15, ties=False, crowded=False):
    """Truth and detections near it, some of a wrong class or beside anything."""
    rng = np.random.default_rng(seed)
    truth, counts = [], {}
    for i in range(images):
        n = int(rng.integers(0, 7))
        corner = rng.uniform(0, 180, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(3, 140, (n, 2))], 1)
        labels = rng.integers(0, classes, n)
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * rng.uniform(0.4, 1, n)
        truth.append((boxes, labels, rng.random(n) < crowd, areas))
        repeats = rng.integers(0, 60 if crowded else 4, n)
        near = np.repeat(boxes, repeats, 0) + rng.normal(0, 6, (repeats.sum(), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        guess = np.repeat(labels, repeats)
        guess = np.where(rng.random(len(guess)) < 0.2, rng.integers(0, len(CLASSES), len(guess)), guess)
        scores = rng.random(len(near))
        counts[i] = found_of(near, np.round(scores, 1) if ties else scores, guess)
    return source_of(truth), counts


def dataset(source):
    """The truth of a source in COCO's form, written apart from coco_truth()."""
    annotations = []
    for record in source.records:
        for k in range(len(record["boxes"])):
            x1, y1, x2, y2 = map(float, record["boxes"][k])
            annotation = {"image_id": record["id"], "bbox": [x1, y1, x2 - x1, y2 - y1], "id": len(annotations) + 1}
            annotation |= {"area": float(record["areas"][k]), "iscrowd": int(record["crowd"][k])}
            annotations.append(annotation | {"category_id": source.category_ids[record["classes"][k]]})
    images = [{"id": record["id"], "height": 300, "width": 320} for record in source.records]
    categories = [{"id": number, "name": name} for number, name in zip(source.category_ids, source.classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def oracle(source, counts):
    """pycocotools on the same truth and on the results that a run would write."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset(source)
        truth.createIndex()
        results = precision.coco_results(source, counts, precision.coco_truth(source))
        evaluated = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return evaluated


def check(source, counts):
    expected = oracle(source, counts)
    scalars = precision.make(source).summarize(counts)
    np.testing.assert_allclose([scalars[name] for name in precision.NAMES], expected.stats, atol=1e-9, rtol=0)
    order = np.argsort(source.category_ids)
    for place, k in enumerate(order):
        for name, table in (("AP", expected.eval["precision"]), ("AP50", expected.eval["precision"][:1])):
            values = table[:, :, place, 0, -1]
            wanted = values[values > -1].mean() if (values > -1).any() else -1
            assert scalars[f"{name}/{source.classes[k]}"] == pytest.approx(wanted, abs=1e-9)
    return scalars


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("options", [{}, {"ties": True}, {"crowd": 0.6}, {"crowded": True, "images": 3}], ids=str)
def test_equals_pycocotools(seed, options):
    check(*random_case(seed, **options))


def test_class_without_truth_is_minus_one_and_does_not_count():
    source, counts = random_case(1, classes=2)
    assert check(source, counts)["AP/emu"] == -1


def test_no_truth_at_all():
    empty = ([], [], [], [])
    counts = {0: found_of([[0, 0, 9, 9]], [0.5], [0]), 1: found_of([], [], [])}
    assert check(source_of([empty, empty]), counts)["AP"] == -1


def test_only_crowds():
    truth = [([[10, 10, 200, 200]], [0], [True], [190.0**2])]
    counts = {0: found_of([[20, 20, 60, 60], [100, 100, 180, 190]], [0.9, 0.8], [0, 0])}
    assert check(source_of(truth), counts)["AP"] == -1


def test_crowd_absorbs_detections():
    truth = [([[0, 0, 50, 50], [60, 0, 300, 200]], [0, 0], [False, True], [2500.0, 48000.0])]
    counts = {0: found_of([[0, 0, 50, 50], [70, 10, 110, 60], [150, 20, 220, 90]], [0.5, 0.9, 0.8], [0, 0, 0])}
    assert check(source_of(truth), counts)["AP"] == pytest.approx(1)


def test_perfect_detections_reach_one():
    source, _ = random_case(2, crowd=0)
    counts = {i: found_of(r["boxes"], np.ones(len(r["boxes"])), r["classes"]) for i, r in enumerate(source.records)}
    assert check(source, counts)["AP"] == pytest.approx(1)


def test_no_detections_is_zero():
    source, counts = random_case(3)
    counts = {index: found_of([], [], []) for index in counts}
    scalars = precision.make(source).summarize(counts)  # pycocotools cannot load an empty list
    assert scalars["AP"] == scalars["AP50"] == scalars["AR100"] == 0
    assert precision.make(source).summarize({})["AP"] == -1  # nothing was measured


def test_zero_sized_and_outside_boxes():
    truth = [([[10, 10, 10, 40], [5, 5, 40, 50]], [0, 1], [False, False], [0.0, 1575.0])]
    counts = {0: found_of([[10, 10, 10, 40], [-20, -20, 35, 48], [7, 7, 7, 7]], [0.9, 0.8, 0.7], [0, 1, 1])}
    check(source_of(truth), counts)


def test_names_that_are_no_text_make_no_difference():
    source = source_of([([(0, 0, 9, 9)], [0], [0], [81])])
    named = source._replace(classes=("\udcb9", *CLASSES[1:]), records=[{**source.records[0], "file": "\udcb9.jpg"}])
    counts = {0: found_of([(0, 0, 9, 8)], [0.9], [0])}
    one, other = (precision.make(one) for one in (source, named))
    assert [*one.summarize(counts).values()] == [*other.summarize(counts).values()]
    assert "AP/\udcb9" in other.summarize(counts)
    assert other.files(counts)["truth.json"]["images"][0]["file_name"] == "\udcb9.jpg"


def test_monoid_counts_an_image_once():
    source, counts = random_case(4)
    metric = precision.make(source)
    parts = [{i: counts[i] for i in group} for group in ((0, 3, 5), (1, 2, 3), (4, 6, 7, 0))]
    left = metric.merge(metric.merge(parts[0], parts[1]), parts[2])
    right = metric.merge(parts[2], metric.merge(parts[1], parts[0]))
    assert metric.summarize(left) == metric.summarize(right) == metric.summarize(counts)
    assert metric.best == "AP"


def test_only_measured_images_count():
    source, counts = random_case(5)
    chosen = (1, 2, 6)
    part = source._replace(records=[source.records[i] for i in chosen])
    expected = precision.make(part).summarize({j: counts[i] for j, i in enumerate(chosen)})
    assert precision.make(source).summarize({i: counts[i] for i in chosen}) == pytest.approx(expected, abs=1e-12)


def test_measure_leaves_out_padding():
    result = {
        "boxes": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "scores": np.full((2, 3), 0.5, np.float32),
        "classes": np.zeros((2, 3), np.int32),
        "valid": np.array([[True, False, True], [True, True, True]]),
    }
    counts = precision.measure(result, {"index": np.array([4, 0], np.int32), "mask": np.array([True, False])})
    assert list(counts) == [4]
    np.testing.assert_array_equal(counts[4]["boxes"], result["boxes"][0, [0, 2]])


@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_curves(iou):
    source, counts = random_case(6, images=12)
    expected = oracle(source, counts)
    at = round((iou - 0.5) / 0.05)
    curves = precision.curves(source, counts, iou)
    assert tuple(curves) == source.classes
    for place, k in enumerate(np.argsort(source.category_ids)):
        curve = curves[source.classes[k]]
        np.testing.assert_allclose(curve.precision, expected.eval["precision"][at, :, place, 0, -1], atol=1e-9)
        np.testing.assert_allclose(curve.scores, expected.eval["scores"][at, :, place, 0, -1], atol=1e-9)
    assert curves["emu"].average == -1


def test_the_truth_of_a_split_is_written_once(monkeypatch):
    """Scores, files and curves of a run share it; another split, and other classes, have their own."""
    plain, counts = random_case(3)
    source = plain._replace(records=Records(len(plain.records), plain.records.__getitem__))
    written = []
    write = precision._written
    monkeypatch.setattr(precision, "_written", lambda given: written.append(given.split) or write(given))
    metric = precision.make(source)
    assert metric.summarize(counts) == precision.make(plain).summarize(counts)
    written.clear()
    assert metric.files(counts)["truth.json"] == precision.coco_truth(source) == write(source)
    assert set(precision.curves(source, counts)) == set(CLASSES)
    assert written == []
    other = source._replace(records=Records(2, plain.records.__getitem__))
    assert len(precision.coco_truth(other)["images"]) == 2 and written == ["val"]


def test_curves_of_each_size():
    source, counts = random_case(8, images=20)
    expected = oracle(source, counts)
    by_size = precision.curves_by_size(source, counts, 0.75)
    assert tuple(by_size) == precision.SIZES
    for area, size in enumerate(precision.SIZES):
        for place, k in enumerate(np.argsort(source.category_ids)):
            curve = by_size[size][source.classes[k]]
            np.testing.assert_allclose(curve.precision, expected.eval["precision"][5, :, place, area, -1], atol=1e-9)


def test_the_index_of_a_split_serves_any_part_of_it(monkeypatch):
    plain, counts = random_case(9)
    source = plain._replace(records=Records(len(plain.records), plain.records.__getitem__))
    made = []
    index = precision.indexed
    monkeypatch.setattr(precision, "indexed", lambda truth: made.append(len(truth["images"])) or index(truth))
    metric = precision.make(source)
    for part in ((0, 1, 2, 3, 4, 5, 6, 7), (1, 2, 6), (5,)):
        some = {i: counts[i] for i in part}
        assert metric.summarize(some) == precision.make(plain).summarize(some)
    assert made.count(8) == 1 + 3 and len(made) == 4  # of the plain list each time
    assert metric.summarize({})["AP"] == -1
