"""PCK, keypoint by keypoint."""

import numpy as np
import pytest

from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.metrics import pck

NAMES = ("nose", "paw", "tail")


def iou(one, other):
    wide, high = (min(one[2 + k], other[2 + k]) - max(one[k], other[k]) for k in (0, 1))
    inside = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return inside / (sum(areas) - inside)


def random_case(seed):
    rng = np.random.default_rng(seed)
    records, results = [], []
    for index in range(5):
        corner = rng.uniform(0, 60, (4, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 40, (4, 2))], axis=1).astype(np.float32)
        seen = rng.integers(0, 3, (4, 3))
        points = np.dstack([rng.uniform(0, 90, (4, 3, 2)), seen]).astype(np.float32) * (seen > 0)[..., None]
        classes = rng.integers(0, 2, 4)
        records.append(
            {"id": index, "file": f"{index}", "size": np.array([100, 100]), "boxes": boxes, "classes": classes}
            | {"crowd": rng.random(4) < 0.2, "areas": np.ones(4), "keypoints": points, "mirrored": np.arange(3)}
        )
        rows = rng.integers(0, 4, 9)
        near = points[rows] + rng.normal(0, 2.5, (9, 3, 3))
        results.append(
            {"boxes": boxes[rows] + rng.normal(0, 4, (9, 4)), "scores": rng.random(9), "valid": rng.random(9) < 0.8}
            | {"classes": np.where(rng.random(9) < 0.8, classes[rows], 1 - classes[rows]), "keypoints": near}
        )
    source = Source("fake", "val", ("cat", "dog"), (1, 2), records, {}, "0", keypoints=NAMES)
    result = {key: np.stack([one[key] for one in results]) for key in results[0]}
    return source, result, {"index": np.arange(5), "mask": np.arange(5) < 4}


def brute(source, result, share):
    """The counts of the first four images, one object and keypoint after the other."""
    counts = np.zeros((3, 2), int)
    for index in range(4):
        record, free = source.records[index], set(range(4))
        answers = {}
        for row in sorted(range(9), key=lambda row: -result["scores"][index, row]):
            able = [t for t in free if record["classes"][t] == result["classes"][index, row] and not record["crowd"][t]]
            overlaps = {t: iou(result["boxes"][index, row], record["boxes"][t]) for t in able}
            best = max(overlaps, key=overlaps.get, default=None)
            if result["valid"][index, row] and best is not None and overlaps[best] >= 0.5:
                free.remove(best)
                answers[best] = result["keypoints"][index, row]
        for t, (x1, y1, x2, y2) in enumerate(record["boxes"].astype(float)):
            for k, (x, y, visible) in enumerate(record["keypoints"][t].astype(float)):
                if visible and not record["crowd"][t]:
                    counts[k, 1] += 1
                    if t in answers:
                        apart = ((answers[t][k][0] - x) ** 2 + (answers[t][k][1] - y) ** 2) ** 0.5
                        counts[k, 0] += apart <= share * ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_pck_keypoint_by_keypoint(seed):
    source, result, batch = random_case(seed)
    metric = pck.make(source, share=0.06)
    found = metric.summarize(metric.measure(result, batch))
    counts = brute(source, result, 0.06)
    assert found["PCK"] == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    assert 0.1 < found["PCK"] < 0.95
    for name, (correct, labelled) in zip(NAMES, counts):
        assert found[f"PCK/{name}"] == pytest.approx(correct / labelled)


def test_counts_merge_and_nothing_is_minus_one():
    source, result, batch = random_case(1)
    metric = pck.make(source)
    whole = metric.measure(result, batch)
    halves = [metric.measure(result, {**batch, "mask": batch["mask"] & (np.arange(5) % 2 == part)}) for part in (0, 1)]
    assert metric.summarize(metric.merge(*halves)) == metric.summarize(whole)
    assert metric.summarize({})["PCK"] == -1


@pytest.mark.parametrize("share", [0, 1.5, -1])
def test_a_share_that_is_none_is_told(share):
    with pytest.raises(UserError, match="above 0 and up to 1"):
        pck.make(random_case(0)[0], share=share)
