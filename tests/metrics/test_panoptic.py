"""Panoptic quality, segment by segment."""

import numpy as np
import pytest

from mapjax.data import run_lengths
from mapjax.data.source import Source
from mapjax.errors import UserError
from mapjax.metrics import panoptic

SIZE = (30, 40)
CLASSES = ("cat", "dog", "sky", "sea")


def rectangle(rng):
    y, x = rng.integers(0, 22), rng.integers(0, 30)
    mask = np.zeros(SIZE, bool)
    mask[y : y + rng.integers(4, 16), x : x + rng.integers(4, 18)] = True
    return mask


def random_case(seed, stuff=True):
    rng = np.random.default_rng(seed)
    records, results = [], []
    for index in range(4):
        masks = [rectangle(rng) for _ in range(4)]
        classes = rng.integers(0, 2, 4)
        horizon = int(rng.integers(8, 20))
        label_map = np.where(np.arange(SIZE[0])[:, None] < horizon, 2, 3) * np.ones(SIZE, int)
        label_map[rng.random(SIZE) < 0.05] = 255
        records.append(
            {"id": index, "file": str(index), "size": np.array(SIZE), "boxes": np.zeros((4, 4)), "classes": classes}
            | {"crowd": rng.random(4) < 0.25, "areas": np.ones(4), "masks": masks}
            | ({"label_map": label_map.astype(np.uint8)} if stuff else {})
        )
        rows = rng.integers(0, 4, 7)
        near = [np.roll(masks[row], rng.integers(-1, 2, 2), (0, 1)) for row in rows]
        said = np.full((32, 48), 255, np.uint8)
        said[: SIZE[0], : SIZE[1]] = np.where(np.arange(SIZE[0])[:, None] < horizon + rng.integers(-5, 6), 2, 3)
        results.append(
            {"boxes": np.zeros((7, 4)), "scores": rng.random(7), "valid": rng.random(7) < 0.9}
            | {"classes": np.where(rng.random(7) < 0.85, classes[rows], 1 - classes[rows])}
            | {"masks": [{"size": list(SIZE), "counts": run_lengths.encode(mask)} for mask in near]}
            | ({"label_map": said} if stuff else {})
        )
    names = CLASSES if stuff else CLASSES[:2]
    source = Source("fake", "val", names, tuple(range(1, len(names) + 1)), records, {}, "0")
    result = {key: [one[key] for one in results] for key in results[0]}
    result |= {key: np.array(result[key]) for key in ("boxes", "scores", "valid", "classes")}
    return source, result, {"index": np.arange(4), "mask": np.ones(4, bool), "size": np.array([SIZE] * 4)}


def segments_of_truth(record, stuff):
    """(class, crowd, pixels) of each segment; the smaller masks on top."""
    free, found = set(np.ndindex(*SIZE)), []
    for row in sorted(range(4), key=lambda row: (record["masks"][row].sum(), -row)):
        pixels = free & set(zip(*map(np.ndarray.tolist, np.nonzero(record["masks"][row]))))
        free -= pixels
        found.append((int(record["classes"][row]), bool(record["crowd"][row]), pixels))
    found += [(k, False, {at for at in free if record["label_map"][at] == k}) for k in (2, 3) if stuff]
    return [one for one in found if one[2]]


def segments_of_answer(result, index, score, least, stuff):
    free, found = set(np.ndindex(*SIZE)), []
    for row in np.argsort(-result["scores"][index]):
        if result["valid"][index, row] and result["scores"][index, row] >= score:
            mask = run_lengths.decode(result["masks"][index][row]["counts"], SIZE)
            whole = set(zip(*map(np.ndarray.tolist, np.nonzero(mask))))
            if 2 * len(whole & free) >= len(whole) > 0:
                found.append((int(result["classes"][index, row]), whole & free))
                free -= whole
    rest = [(k, {at for at in free if result["label_map"][index][at] == k}) for k in (2, 3)] if stuff else []
    return [one for one in found if one[1]] + [one for one in rest if len(one[1]) >= max(least, 1)]


def brute(source, result, score, least, stuff):
    """Of each class the IoUs of found segments, and false and missed ones."""
    counts = {k: [[], 0, 0] for k in range(len(source.classes))}
    for index, record in enumerate(source.records):
        truth = segments_of_truth(record, stuff)
        answers = segments_of_answer(result, index, score, least, stuff)
        labelled = set().union(*(pixels for *_, pixels in truth))
        left = list(answers)
        for k, crowd, pixels in truth:
            hit = None
            for one in [] if crowd else answers:
                union = (pixels | one[1]) - (one[1] - labelled)
                if one[0] == k and len(pixels & one[1]) / len(union) > 0.5:
                    hit = one
                    counts[k][0].append(len(pixels & one[1]) / len(union))
                    left.remove(one)
            counts[k][2] += hit is None and not crowd
        for k, pixels in left:
            crowds = [one[2] for one in truth if one[1] and one[0] == k]
            unknown = pixels - labelled | pixels & set().union(*crowds)
            counts[k][1] += len(unknown) <= 0.5 * len(pixels)
    return counts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stuff", [False, True])
def test_panoptic_quality_segment_by_segment(seed, stuff):
    source, result, batch = random_case(seed, stuff)
    options = {"things": ("cat", "dog"), "least": 90} if stuff else {}
    metric = panoptic.make(source, score=0.3, **options)
    found = metric.summarize(metric.measure(result, batch))
    qualities = []
    for k, (ious, false, missed) in brute(source, result, 0.3, options.get("least", 0), stuff).items():
        if len(ious) + false + missed:
            qualities.append(sum(ious) / (len(ious) + false / 2 + missed / 2))
            assert found[f"PQ/{source.classes[k]}"] == pytest.approx(qualities[-1])
        else:
            assert found[f"PQ/{source.classes[k]}"] == -1
    assert found["PQ"] == pytest.approx(np.mean(qualities))
    assert 0.1 < found["PQ"] < 1


def test_true_answers_are_perfect():
    source, _, batch = random_case(5, stuff=False)
    records = [{**one, "crowd": np.zeros(4, bool)} for one in source.records]
    masks = []
    for record in records:
        laid = panoptic.truth(record, np.zeros(2, bool))
        record["classes"] = laid.classes[:1]
        record["masks"] = [laid.places == 0]
        record["crowd"] = np.zeros(1, bool)
        masks.append([{"size": list(SIZE), "counts": run_lengths.encode(laid.places == 0)}])
    metric = panoptic.make(source._replace(records=records))
    result = {"boxes": np.zeros((4, 1, 4)), "scores": np.ones((4, 1)), "valid": np.ones((4, 1), bool), "masks": masks}
    result["classes"] = np.array([one["classes"] for one in records])
    found = metric.summarize(metric.measure(result, batch))
    assert found["PQ"] == found["SQ"] == found["RQ"] == 1
    assert metric.summarize({})["PQ"] == -1


def test_things_are_told():
    source, *_ = random_case(0)
    with pytest.raises(UserError, match="say which classes are objects"):
        panoptic.make(source)
    with pytest.raises(UserError, match=r"'cats' is no class of the data.*'cat'"):
        panoptic.make(source, things=("cats",))
