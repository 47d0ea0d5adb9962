"""AP of masks, of their boundaries and of keypoints, against pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mapjax.data import run_lengths
from mapjax.data.source import Source
from mapjax.engine import evaluate
from mapjax.errors import UserError
from mapjax.metrics import boundary_precision, combine, keypoint_precision, mask_precision, precision, ranking

SIZE = (90, 120)
CLASSES, CATEGORY_IDS = ("cat", "dog", "cow"), (7, 3, 90)
SIGMAS = (0.03, 0.08, 0.12, 0.05)


def ellipse(tilt, center, reach):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    u, v = (x - center[0]), (y - center[1])
    a, b = u * np.cos(tilt) + v * np.sin(tilt), v * np.cos(tilt) - u * np.sin(tilt)
    return (a / reach[0]) ** 2 + (b / reach[1]) ** 2 <= 1


def bounds(mask):
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def random_case(seed, images=6, crowd=0.15):
    """Objects with masks and keypoints, and answers near them, some of another class."""
    rng = np.random.default_rng(seed)
    records, results = [], []
    for i in range(images):
        masks, points, classes, found = [], [], [], []
        for _ in range(rng.integers(0, 6)):
            center, reach, tilt = rng.uniform(5, 85, 2), rng.uniform(2, 45, 2), rng.uniform(0, np.pi)
            k = int(rng.integers(0, 3))
            mask = ellipse(tilt, center, reach)
            masks.append(mask)
            classes.append(k)
            seen = rng.integers(0, 3, 4) if rng.random() < 0.9 else np.zeros(4)
            places = center + rng.normal(0, 20, (4, 2))
            points.append(np.where(seen[:, None] > 0, np.column_stack([places, seen]), 0))
            for _ in range(rng.integers(0, 4)):
                near = ellipse(
                    tilt + rng.normal(0, 0.05), center + rng.normal(0, 2, 2), reach * rng.uniform(0.8, 1.2, 2)
                )
                near_points = np.column_stack([places + rng.normal(0, 3, (4, 2)), rng.random(4)])
                if near.any():
                    found.append(
                        (near, near_points, k if rng.random() < 0.8 else int(rng.integers(0, 3)), rng.random())
                    )
        records.append(
            {"id": 500 - 3 * i, "file": f"{i}.jpg", "image": f"{i}.jpg", "size": np.array(SIZE, np.int32)}
            | {"boxes": np.array([bounds(mask) for mask in masks], np.float32).reshape(-1, 4)}
            | {"classes": np.array(classes, np.int32), "crowd": rng.random(len(masks)) < crowd}
            | {"areas": np.array([mask.sum() for mask in masks], np.float32)}
            | {"masks": [mask if rng.random() < 0.5 else run_lengths.encode(mask) for mask in masks]}
            | {"keypoints": np.array(points, np.float32).reshape(-1, 4, 3), "mirrored": np.arange(4, dtype=np.int32)}
        )
        results.append(found)
    source = Source("fake", "val", CLASSES, CATEGORY_IDS, records, {}, "0", keypoints=tuple("abcd"), sigmas=SIGMAS)
    return source, results


def batch_of(source, results):
    """A decoded result as a task gives it, padded to one length, and its batch."""
    most = max(map(len, results))
    nothing = (np.ones(SIZE, bool), np.zeros((4, 3)), 0, 0.99)
    rows = [[*found, *[nothing] * (most - len(found))] for found in results]
    encoded = [[coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask, *_ in one] for one in rows]
    result = {
        "boxes": np.array([[bounds(mask) for mask, *_ in one] for one in rows], np.float32),
        "scores": np.array([[score for *_, score in one] for one in rows], np.float32),
        "classes": np.array([[k for *_, k, _ in one] for one in rows], np.int32),
        "valid": np.arange(most) < np.array([len(one) for one in results])[:, None],
        "masks": encoded,
        "keypoints": np.array([[points for _, points, *_ in one] for one in rows], np.float32),
    }
    sizes = np.array([record["size"] for record in source.records])
    return result, {"index": np.arange(len(rows)), "mask": np.ones(len(rows), bool), "size": sizes}


def truth_of(source):
    """The truth in COCO's form, written apart from the package's."""
    images = [{"id": record["id"], "height": SIZE[0], "width": SIZE[1]} for record in source.records]
    annotations = []
    for record in source.records:
        for k in range(len(record["boxes"])):
            mask = record["masks"][k]
            bits = run_lengths.decode(mask, SIZE) if isinstance(mask, bytes) else mask
            x1, y1, x2, y2 = map(float, record["boxes"][k])
            points = record["keypoints"][k]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": record["id"], "bbox": [x1, y1, x2 - x1, y2 - y1]}
                | {"category_id": CATEGORY_IDS[record["classes"][k]], "iscrowd": int(record["crowd"][k])}
                | {"segmentation": coco_mask.encode(np.asfortranarray(bits.astype(np.uint8)))}
                | {"area": float(record["areas"][k]), "keypoints": points.ravel().astype(float).tolist()}
                | {"num_keypoints": int((points[:, 2] > 0).sum())}
            )
    categories = [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def oracle(source, counts, kind, evaluator=COCOeval):
    """pycocotools on that truth, and on the results that a run would write."""
    results = precision.files(source, counts)["predictions.json"]
    key = {"segm": "segmentation", "keypoints": "keypoints"}[kind]  # COCO's own results have no box beside it
    results = [{name: one[name] for name in ("image_id", "category_id", "score", key)} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = truth_of(source)
        truth.createIndex()
        evaluated = evaluator(truth, truth.loadRes(results), kind)
        if kind == "keypoints":
            evaluated.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return evaluated


def agree(source, counts, metric, evaluated, names, prefix):
    scalars = metric.summarize(counts)
    np.testing.assert_allclose([scalars[prefix + name] for name in names], evaluated.stats, atol=1e-9, rtol=0)
    for place, k in enumerate(np.argsort(CATEGORY_IDS)):
        values = evaluated.eval["precision"][:, :, place, 0, -1]
        wanted = values[values > -1].mean() if (values > -1).any() else -1
        assert scalars[f"{prefix}AP/{CLASSES[k]}"] == pytest.approx(wanted, abs=1e-9)
    return scalars


@pytest.mark.parametrize("seed", range(4))
def test_masks_and_keypoints_equal_pycocotools(seed):
    source, results = random_case(seed)
    result, batch = batch_of(source, results)
    for metric, kind, names, prefix in (
        (mask_precision.make(source), "segm", precision.NAMES, "mask_"),
        (keypoint_precision.make(source), "keypoints", keypoint_precision.NAMES, "keypoint_"),
    ):
        counts = metric.measure(result, batch)
        scalars = agree(source, counts, metric, oracle(source, counts, kind), names, prefix)
        assert 0.05 < scalars[metric.best] < 0.95


def eroded(mask, distance):
    """The mask without its boundary: pixel by pixel, what has nothing but mask around it."""
    around = np.pad(mask, distance)
    side = 2 * distance + 1
    return np.lib.stride_tricks.sliding_window_view(around, (side, side)).all(axis=(2, 3))


class BoundaryEval(COCOeval):
    """pycocotools, with the lesser of the IoU of masks and of boundaries in place of IoU."""

    def computeIoU(self, image, category):
        found, truth = ([*one[image, category]] for one in (self._dts, self._gts))
        if not found and not truth:
            return []
        found = [found[k] for k in np.argsort([-one["score"] for one in found], kind="mergesort")][:100]
        distance = max(1, round(0.02 * (SIZE[0] ** 2 + SIZE[1] ** 2) ** 0.5))
        overlaps = np.zeros((len(found), len(truth)))
        for d, one in enumerate(found):
            for g, other in enumerate(truth):
                masks = [
                    run_lengths.from_counts(run_lengths.decompress(each["segmentation"]["counts"]), SIZE)
                    for each in (one, other)
                ]
                values = []
                for a, b in (masks, [mask & ~eroded(mask, distance) for mask in masks]):
                    union = a.sum() if other["iscrowd"] else (a | b).sum()
                    values.append((a & b).sum() / union if union else 0)
                overlaps[d, g] = min(values)
        return overlaps


@pytest.mark.parametrize("seed", range(3))
def test_boundaries_equal_pycocotools_with_another_overlap(seed):
    source, results = random_case(seed, images=5, crowd=0.3)
    metric = boundary_precision.make(source)
    counts = metric.measure(*batch_of(source, results))
    evaluated = oracle(source, counts, "segm", BoundaryEval)
    scalars = metric.summarize(counts)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    np.testing.assert_allclose([scalars[f"boundary_{name}"] for name in names], evaluated.stats[:6], atol=1e-9, rtol=0)
    assert 0 < scalars["boundary_AP"] < mask_precision.make(source).summarize(counts)["mask_AP"]


@pytest.mark.parametrize("seed", range(4))
def test_ranking_equals_pycocotools_where_the_overlap_is_iou(seed):
    """Many answers of equal scores and overlaps, and crowds."""
    rng = np.random.default_rng(seed)
    counts, truth = {}, {}
    for index in range(6):
        corner = np.round(rng.uniform(0, 60, (5, 2)) / 15) * 15
        boxes = np.concatenate([corner, corner + rng.integers(1, 8, (5, 2)) * 10], axis=1)
        near = np.repeat(boxes, rng.integers(0, 30, 5), axis=0)
        near = near + np.round(rng.normal(0, 4, near.shape))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        scores, classes = np.round(rng.random(len(near)), 1), rng.integers(0, 2, len(near))
        counts[index] = {"boxes": near.astype(np.float32), "scores": scores, "classes": classes}
        truth[index] = {
            "boxes": boxes.astype(np.float32),
            "classes": rng.integers(0, 2, 5),
            "crowd": rng.random(5) < 0.3,
        }
    records = [
        {
            "id": index + 1,
            "file": "",
            "size": np.array(SIZE),
            "areas": np.prod(one["boxes"][:, 2:] - one["boxes"][:, :2], 1),
        }
        | one
        for index, one in truth.items()
    ]
    source = Source("fake", "val", CLASSES[:2], (1, 2), records, {}, "0")
    expected = precision.make(source).summarize(counts)
    by_class = {name: [] for name in source.classes}
    for index, record in enumerate(records):
        found = counts[index]
        sides = [
            np.hstack([one[:, :2], one[:, 2:] - one[:, :2]]).astype(float) for one in (found["boxes"], record["boxes"])
        ]

        def overlap(rows, others, sides=sides, crowd=record["crowd"]):
            return coco_mask.iou(sides[0][rows], sides[1][others], crowd[others])

        answered = found["classes"], found["scores"], np.prod(sides[0][:, 2:], axis=1)
        known = record["classes"], record["areas"], record["crowd"]
        for k, name in enumerate(source.classes):
            by_class[name].append(ranking.pair_up(overlap, answered, known, k))
    for name, value in ranking.figures(by_class).items():
        assert value == pytest.approx(expected[name], abs=1e-9), name


def test_a_mask_of_another_size_than_its_image_is_told():
    source, results = random_case(1)
    result, batch = batch_of(source, results)
    with pytest.raises(ValueError, match=r"a mask of \(90, 120\) answers an image of \(90, 121\) pixels"):
        precision.measure(result, {**batch, "size": batch["size"] + [0, 1]})


def test_what_a_metric_needs_is_told():
    source, _ = random_case(1)
    plain = source._replace(
        records=[{k: v for k, v in one.items() if k not in ("masks", "keypoints")} for one in source.records]
    )
    for module, kind in ((mask_precision, "masks"), (boundary_precision, "masks"), (keypoint_precision, "keypoints")):
        with pytest.raises(UserError, match=f"has no {kind}, which the metric"):
            module.make(plain)
        with pytest.raises(KeyError):  # of a task that answers otherwise
            module.make(source).measure({"boxes": np.zeros((1, 0, 4))}, {})
    with pytest.raises(UserError, match="must be 4 numbers above 0"):
        keypoint_precision.make(source, sigmas=(0.1, 0.2))
    with pytest.raises(UserError, match="above 0 and below 1"):
        boundary_precision.make(source, width=2)


def test_two_metrics_write_one_file():
    source, results = random_case(2)
    metric = combine.named(("precision", "mask_precision", "keypoint_precision"), source)
    result, batch = batch_of(source, results)
    counts = metric.measure(metric.score(result, batch), batch)
    files = metric.files(counts)
    assert set(files["predictions.json"][0]) == {
        "image_id",
        "category_id",
        "bbox",
        "score",
        "segmentation",
        "keypoints",
    }
    json.dumps(files)
    assert {"AP", "mask_AP", "keypoint_AP"} <= metric.summarize(counts).keys()


def test_counts_go_through_other_processes():
    source, results = random_case(3)
    metric = mask_precision.make(source)
    counts = metric.measure(*batch_of(source, results))
    halves = [{k: v for k, v in counts.items() if k % 2 == part} for part in (0, 1)]
    sent = [evaluate._unpack(evaluate._pack(half)) for half in halves]
    assert metric.summarize(metric.merge(*sent)) == metric.summarize(counts)
