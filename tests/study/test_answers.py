"""Figures of images drawn again equal those that the metrics give of such a data set."""

import json

import hotcoco
import numpy as np
import pytest

from mapjax.data.source import Records, Source
from mapjax.metrics import iou
from mapjax.study import answers

CLASSES = ("a", "b", "c")


def written(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def coco(images: int):
    """Objects of three classes, some of them crowds, and boxes that hit and miss; scores are often equal."""
    rng = np.random.default_rng(3)
    truth = {"images": [], "annotations": [], "categories": [{"id": 5 + k, "name": n} for k, n in enumerate(CLASSES)]}
    found = []
    for image in range(images):
        truth["images"].append({"id": 100 - image, "file_name": f"{image}.jpg", "width": 200, "height": 200})
        for _ in range(rng.integers(0, 5)):
            box = np.concatenate([rng.uniform(0, 120, 2), rng.uniform(10, 70, 2)])
            kind, crowd = int(rng.integers(5, 8)), int(rng.random() < 0.1)
            number = len(truth["annotations"]) + 1
            truth["annotations"].append(
                {"id": number, "image_id": 100 - image, "category_id": kind, "bbox": box.tolist(), "iscrowd": crowd}
                | {"area": float(box[2] * box[3])}
            )
            for _ in range(rng.integers(0, 3)):
                moved = np.maximum(box + rng.normal(0, 4, 4), 1).tolist()
                kind = kind if rng.random() < 0.8 else int(rng.integers(5, 8))
                score = round(float(rng.random()), 1)
                found.append({"image_id": 100 - image, "category_id": kind, "bbox": moved, "score": score})
    return truth, found


def repeated(truth, found, times):
    """The data set in which each image is there so many times."""
    again, more = {**truth, "images": [], "annotations": []}, []
    for image, count in sorted(zip(truth["images"], times), key=lambda pair: pair[0]["id"]):
        for _ in range(count):
            number = len(again["images"]) + 1
            again["images"].append({**image, "id": number})
            again["annotations"] += [
                {**one, "image_id": number} for one in truth["annotations"] if one["image_id"] == image["id"]
            ]
            more += [{**one, "image_id": number} for one in found if one["image_id"] == image["id"]]
    again["annotations"] = [{**one, "id": k} for k, one in enumerate(again["annotations"], 1)]
    return again, more


@pytest.mark.parametrize("drawn", [False, True])
def test_average_precision_is_cocos(tmp_path, drawn):
    truth, found = coco(30)
    times = np.random.default_rng(1).integers(0, 4, 30) if drawn else np.ones(30, np.int64)
    again, more = repeated(truth, found, times)
    known = hotcoco.COCO(again)
    evaluated = hotcoco.COCOeval(known, known.load_res(more), "bbox")
    evaluated.evaluate()
    evaluated.accumulate()
    evaluated.summary_lines()
    folder = written(tmp_path, truth=truth, predictions=found)
    for metric, expected in zip(("AP", "AP50"), evaluated.stats):
        read = answers.read(folder, metric)
        assert read.names == tuple(f"{k}.jpg" for k in range(30))
        assert read.figure(times) == pytest.approx(expected, abs=1e-9)
        assert expected > 0.1


def test_a_detector_that_finds_nothing(tmp_path):
    truth, _ = coco(5)
    read = answers.read(written(tmp_path, truth=truth, predictions=[]), "AP")
    assert read.figure(np.ones(5, np.int64)) == 0


def test_accuracy(tmp_path):
    rows = [{"file": f"{k}.png", "label": "a", "predicted": "ab"[k % 2]} for k in range(5)]
    read = answers.read(written(tmp_path, predictions=rows), "top1")
    assert read.figure(np.ones(5, np.int64)) == pytest.approx(0.6)
    assert read.figure(np.array([1, 3, 0, 0, 0])) == pytest.approx(0.25)


def test_mean_iou_is_the_metrics(tmp_path):
    """A class that no pixel has is left out."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (6, 8, 9))
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 3, truth.shape))
    tables = np.stack(
        [np.bincount(3 * t.ravel() + p.ravel(), minlength=9).reshape(3, 3) for t, p in zip(truth, predicted)]
    )
    source = Source("x", "val", CLASSES, (1, 2, 3), Records(6, lambda k: {"file": f"{k}"}), {}, "x")
    metric = iou.make(source)
    images = {k: np.stack([t.diagonal(), t.sum(1), t.sum(0)]) for k, t in enumerate(tables)}
    counts = {"confusion": tables.sum(0), "contours": np.zeros((3, 4), int), "images": images, "maps": {}}
    folder = written(tmp_path, predictions=metric.files(counts)["predictions.json"], classes=list(CLASSES))
    read = answers.read(folder, "mIoU")
    assert read.figure(np.ones(6, np.int64)) == pytest.approx(metric.summarize(counts)["mIoU"])
    times = np.array([2, 0, 1, 0, 3, 0])
    weighted = {**counts, "confusion": np.tensordot(times, tables, 1)}
    assert read.figure(times) == pytest.approx(metric.summarize(weighted)["mIoU"])


def test_other_metrics_have_no_answers(tmp_path):
    assert answers.read(tmp_path, "ece") is None
