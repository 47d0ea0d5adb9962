"""How long the evaluation of a detector takes beyond its forward passes, and how much of that is hotcoco's.

    python tests/metrics/compare_evaluation.py [--images 1000] [--detections 100] [--truths 7] [--classes 80]

Truth and answers are made up. Printed are seconds, the least and the median of some rounds, of what every evaluation
does (measure, merge, summarize; the first one of a run also writes and indexes the truth) and of what is done once at
the end (errors by cause, the tables of the report). Compared is what hotcoco alone takes on the same rows.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import hotcoco
import numpy as np

from mapjax.data.source import Records, Source
from mapjax.engine.evaluate import FOLDED
from mapjax.metrics import best_f1, detection_errors, precision

BATCH = 8


def made_up(images: int, detections: int, truths: int, classes: int) -> tuple[Source, list[tuple[dict, dict]]]:
    """Make a split, and answers in batches: each truth is found once, well or badly, and the rest are false."""
    rng = np.random.default_rng(0)
    records, answers = [], []
    for index in range(images):
        boxes, found = _boxes(rng, truths), _boxes(rng, detections)
        labels, guesses = (rng.integers(0, classes, number).astype(np.int32) for number in (truths, detections))
        sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        number = min(truths, detections)
        found[:number] = (boxes + rng.normal(0, 0.1, boxes.shape) * sides)[:number]
        guesses[:number] = labels[:number]
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(np.float32)
        record = {"id": index, "file": f"{index}.jpg", "size": np.array([480, 640], np.int32), "areas": areas}
        records.append(record | {"boxes": boxes, "classes": labels, "crowd": np.zeros(truths, bool)})
        answers.append({"boxes": found, "scores": rng.random(detections, np.float32), "classes": guesses})
    batches = []
    for start in range(0, images, BATCH):
        rows = answers[start : start + BATCH]
        result = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        result["valid"] = np.ones(result["scores"].shape, bool)
        batches.append((result, {"index": np.arange(start, start + len(rows)), "mask": np.ones(len(rows), bool)}))
    names = tuple(f"class {k}" for k in range(classes))
    fetch = Records(images, records.__getitem__)
    return Source("made up", "val", names, tuple(range(1, classes + 1)), fetch, {}, "0"), batches


def _boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    corner = rng.uniform(0, 440, (number, 2))
    return np.concatenate([corner, corner + rng.uniform(10, 200, (number, 2))], axis=1).astype(np.float32)


def counted(metric: precision.Metric, batches: list[tuple[dict, dict]]) -> dict:
    """Measure all batches, and merge them as engine/evaluate.py does."""
    folded: dict = {}
    waiting: list[dict] = []
    for result, batch in batches:
        waiting.append(metric.measure(result, batch))
        if len(waiting) == FOLDED or batch is batches[-1][1]:
            for one in waiting:
                folded = metric.merge(folded, one)
            waiting = []
    return folded


def hotcoco_alone(source: Source, counts: dict) -> Callable[[], None]:
    """Make what runs hotcoco on rows that are ready, against a truth that is indexed."""
    known = precision.indexed(precision.coco_truth(source))
    rows = precision._rows(source, counts, {index: index for index in counts})

    def run() -> None:
        evaluated = hotcoco.COCOeval(known, known.load_res(rows), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summary_lines()

    return run


def timed(call: Callable[[], object], rounds: int) -> list[float]:
    """Give the seconds of some calls."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Measure, and print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in (("images", 1000), ("detections", 100), ("truths", 7), ("classes", 80), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N", help=f"({number})")
    asked = parser.parse_args()
    source, batches = made_up(asked.images, asked.detections, asked.truths, asked.classes)
    metric = precision.make(source)
    counts = counted(metric, batches)
    (first,) = timed(lambda: metric.summarize(counts), 1)
    alone = hotcoco_alone(source, counts)
    parts = {
        "measure and merge": lambda: counted(metric, batches),
        "summarize": lambda: metric.summarize(counts),
        "  of it hotcoco": alone,
        "  of it F1 and thresholds": lambda: best_f1.scalars(source, counts),
        "measure, merge, summarize": lambda: metric.summarize(counted(metric, batches)),
        "errors by cause, at the end": lambda: detection_errors.of(source, counts),
        "curves by class and size": lambda: precision.curves_by_size(source, counts),
    }
    print(f"{asked.images} images of {asked.detections} detections and {asked.truths} truths, {asked.classes} classes")
    print(f"{'seconds':30s}   least  median   (the first summarize: {first:.3f})")
    for name, call in parts.items():
        seconds = timed(call, asked.rounds)
        print(f"{name:30s}  {min(seconds):6.3f}  {statistics.median(seconds):6.3f}", flush=True)


if __name__ == "__main__":
    main()
