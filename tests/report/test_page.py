"""mapjax.report.page and .detections: a whole page of ordinary and of degenerate runs."""

import html
import html.parser
import json
import re

import numpy as np
import pytest

from mapjax.data.source import Source
from mapjax.metrics import detection_errors, precision
from mapjax.report import detection_images, detections, page
from mapjax.report.section import Section


class Reader(html.parser.HTMLParser):
    """Checks that tags nest; collects ids, links and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "input"):
            self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def run_of(images=6, classes=3, size=(60, 80), seed=0, empty=False):
    rng = np.random.default_rng(seed)
    names = tuple(f"class <{k}>" for k in range(classes))
    records, counts = [], {}
    for i in range(images):
        n = 0 if empty else 4
        corner = rng.uniform(0, 40, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 30, (n, 2))], 1).astype(np.float32)
        labels = rng.integers(0, classes, n).astype(np.int32)
        records.append(
            {"id": i, "file": f"<{i}>.jpg", "image": rng.integers(0, 255, (*size, 3), np.uint8)}
            | {"size": np.array(size, np.int32), "boxes": boxes, "classes": labels}
            | {"crowd": rng.random(n) < 0.2, "areas": np.prod(boxes[:, 2:] - boxes[:, :2], 1)}
        )
        moved = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        counts[i] = {"boxes": moved, "scores": rng.random(n).astype(np.float32), "classes": labels[::-1].copy()}
    source = Source("voc:<x>", "val", names, tuple(range(1, classes + 1)), records, {}, "0")
    return source, counts


HISTORY = [
    {"kind": "train", "step": s, "epoch": 0.1, "loss": 1 / s, "loss_box": 0.5 / s, "learning_rate": 1e-3}
    | {"gradient_norm": float("nan") if s == 3 else 1.0, "examples_per_s": 30.0}
    for s in range(1, 9)
] + [{"kind": "eval", "step": s, "epoch": 0.1, "AP": s / 9, "AP50": -1.0, "AP/x": 0.1} for s in (4, 8)]


def write(path, source, counts, history=HISTORY):
    metrics = precision.make(source).summarize(counts)
    result = {"metrics": metrics, "steps": 8, "wall_s": 65.0, "peak_rss_mb": 512.0, "input_wait": 0.01}
    result |= {"device": "cpu <&>", "versions": {"jax": "0.10"}, "revision": None}
    config = {"model": {"name": "</pre><script>"}, "image_size": (64, 64)}
    page.write(
        path, title="a <run>", result=result, config=config, history=history, source=source, counts=counts,
        sections=detections.sections,
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    return text, Reader(text)


def test_whole_page(tmp_path):
    text, read = write(tmp_path / "report.html", *run_of())
    assert len(read.ids) == len(set(read.ids))
    for link in read.links:
        assert link.startswith("data:image/jpeg;base64,") or link[1:] in read.ids
    for title in (
        "Training",
        "Classes",
        "Sizes of objects",
        "Confusion",
        "Images",
        "Mistakes",
        "Scores and sizes",
        "All figures",
        "Configuration",
    ):
        assert title in read.text
    assert "class <1>" in read.text and "<3>.jpg" in read.text and "1 min 05 s" in read.text
    assert read.tags.count("script") == 1
    assert not re.search(r"(src|href)=.https?:", text)
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", text), re.IGNORECASE)


@pytest.mark.parametrize(
    "case",
    [
        {"empty": True},
        {"images": 1, "classes": 1},
        {"images": 0},
        {"classes": 80, "images": 3},
        {"images": 2, "size": (2, 700)},
        {"images": 2, "size": (700, 2)},
        {"images": 1, "size": (1, 1)},
    ],
    ids=str,
)
def test_degenerate_runs(tmp_path, case):
    _, read = write(tmp_path / "report.html", *run_of(**case), history=[])
    assert "Training" not in read.text and "Mistakes" in read.text


def test_thresholds_sizes_confusion_and_gains_are_shown(tmp_path):
    source, counts = run_of(images=12)
    text, read = write(tmp_path / "report.html", source, counts)
    metrics = precision.make(source).summarize(counts)
    known = [metrics[f"threshold/{name}"] for name in source.classes if metrics[f"threshold/{name}"] >= 0]
    assert known and all(f"<td>{value:.3f}</td>" in text for value in known)
    assert "F1" in read.text and "threshold" in read.text and "small" in read.text and "medium" in read.text
    assert f"{metrics['APs']:.3f}" in read.text and f"{metrics['ARs']:.3f}" in read.text
    least = np.array([metrics[f"threshold/{name}"] for name in source.classes])
    matrix = detection_errors.confusion(source, counts, np.where(least < 0, 0.5, least))
    for k, name in enumerate(source.classes):
        if matrix[k, -1]:
            assert f"{name} → background: {matrix[k, -1]:,} (" in html.unescape(text)
    gains = detection_errors.of(source, counts).gains
    assert "AP50, if mended" in read.text and f"+{gains['badly placed']:.3f}" in read.text


def test_of_many_classes_the_pairs_are_listed(tmp_path):
    source, counts = run_of(images=8, classes=40)
    _, read = write(tmp_path / "report.html", source, counts)
    assert "found as" in read.text and "background" in read.text


def test_no_detections(tmp_path):
    source, counts = run_of()
    none = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0, np.float32), "classes": np.zeros(0, np.int32)}
    _, read = write(tmp_path / "report.html", source, dict.fromkeys(counts, none))
    assert "Missed" in read.text and "False" not in read.text


def test_unreadable_images_are_counted(tmp_path):
    source, counts = run_of(images=4)
    source.records[1]["image"] = str(tmp_path / "missing.jpg")
    source.records[2]["image"] = b"no image"
    text, read = write(tmp_path / "report.html", source, counts)
    assert "2 could not be read." in " ".join(read.text)
    assert text.count('id="image-') == 2


def test_size_is_bounded(tmp_path):
    source, counts = run_of(images=40, size=(480, 640))  # noise, which no JPEG can compress
    text, _ = write(tmp_path / "report.html", source, counts)
    assert text.count('id="image-') == detections.IMAGES
    assert len(text) < 5_000_000


def test_sections_of_another_task(tmp_path):
    source, counts = run_of(images=1)
    page.write(
        tmp_path / "r.html",
        title="t",
        result={"metrics": {"top1": 0.75}},
        config={},
        history=(),
        source=source,
        counts=counts,
        sections=lambda source, counts, metrics: [Section("Confusion", "<p>mine</p>", json.dumps(metrics))],
    )
    read = Reader((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "mine" in read.text and "0.750" in read.text and "Mistakes" not in read.text


def test_window_holds_the_box_and_stays_inside_where_it_can():
    for box in ([5, 5, 20, 30], [90, 70, 99, 79], [0, 0, 100, 80], [40, 40, 41, 41]):
        x1, y1, x2, y2 = detection_images.window([np.array(box, np.float32)], 80, 100)
        assert x1 <= box[0] and y1 <= box[1] and x2 >= box[2] and y2 >= box[3]
        assert x2 - x1 == y2 - y1
        if x2 - x1 <= 80:
            assert x1 >= 0 and y1 >= 0 and x2 <= 100 and y2 <= 80
