"""mapjax.report.classifications and .multilabels: whole pages of ordinary and degenerate runs; answers to show."""

import re

import numpy as np
import pytest
from test_page import Reader

from mapjax.data.source import Source
from mapjax.metrics import accuracy, multilabel
from mapjax.report import captions, classifications, page, thumbnails


def run_of(images=30, classes=10, size=(8, 8), seed=0, several=False, right=False):
    """A source of noise and answers that are right about half of the time."""
    rng = np.random.default_rng(seed)
    names = tuple(f"class <{k}>" for k in range(classes))
    labels = rng.random((images, classes)) < 0.4 if several else rng.integers(0, classes, images)
    probabilities = rng.dirichlet(np.ones(classes), images).astype(np.float32)
    if several:
        probabilities = labels if right else rng.random((images, classes))
    elif right:
        probabilities = np.eye(classes)[labels]
    else:
        probabilities[np.arange(images), labels] += 0.3
    key = "labels" if several else "label"
    records = [
        {"id": i, "file": f"<{i}>.png", "image": rng.integers(0, 255, (*size, 3), np.uint8)} for i in range(images)
    ]
    records = [{**record, key: labels[i]} for i, record in enumerate(records)]
    source = Source("folder:<x>", "val", names, tuple(range(1, classes + 1)), records, {}, "0")
    counts = {i: {"probabilities": np.float32(probabilities[i]), key: labels[i]} for i in range(images)}
    return source, counts


def write(path, source, counts, several=False):
    metrics = (multilabel if several else accuracy).make(source).summarize(counts)
    page.write(
        path, title="a <run>", result={"metrics": metrics}, config={}, history=[], source=source, counts=counts,
        sections=classifications.sections,
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    return text, Reader(text)


def section(text, title):
    anchor = title.lower().replace(" ", "-")
    return text.partition(f'<section id="{anchor}">')[2].partition("</section>")[0]


def photos(text):
    return set(re.findall(r'src="([^"]+)"', text))


def test_whole_page(tmp_path):
    text, read = write(tmp_path / "report.html", *run_of())
    for title in ("Classes", "Most confused", "Images", "Mistakes", "Labels in doubt", "Calibration"):
        assert title in read.text
    assert {"top1", "top5", "f1"} <= set(read.text) and "class <3>" in read.text
    assert "<3>" not in text.replace("&lt;3&gt;", "") and not re.search(r"(src|href)=.https?:", text)
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", text), re.IGNORECASE)
    assert len(photos(section(text, "Images"))) == classifications.IMAGES


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        {"images": 0},
        {"images": 1},
        {"images": 1, "classes": 1},
        {"images": 5, "classes": 2},
        {"images": 5, "classes": 31},
        {"right": True},
        {"images": 3, "size": (2, 700)},
        {"images": 3, "size": (700, 2)},
        {"images": 2, "size": (1, 1)},
    ],
    ids=str,
)
def test_degenerate_runs(tmp_path, case, several):
    text, read = write(tmp_path / "report.html", *run_of(**case, several=several), several)
    assert "Calibration" in read.text and "Mistakes" in read.text
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"base64,[^\"]*", "", text), re.IGNORECASE)


def test_small_images_are_kept_to_the_pixel(tmp_path):
    text, _ = write(tmp_path / "small.html", *run_of(size=(32, 20)))
    assert "pixelated" in section(text, "Images") and "data:image/png" in text and "data:image/jpeg" not in text
    text, _ = write(tmp_path / "large.html", *run_of(size=(65, 20)))
    assert "pixelated" not in section(text, "Images") and "data:image/png" not in text


@pytest.mark.parametrize("several", [False, True])
def test_unreadable_images_are_counted(tmp_path, several):
    source, counts = run_of(images=16, several=several)
    source.records[1]["image"] = str(tmp_path / "missing.jpg")
    source.records[2]["image"] = b"no image"
    text, _ = write(tmp_path / "report.html", source, counts, several)
    shown = section(text, "Images")
    assert "2 could not be read." in shown and len(photos(shown)) == 14


def test_a_heat_map_of_few_classes_only(tmp_path):
    for classes, there in ((30, True), (31, False)):
        text, read = write(tmp_path / "report.html", *run_of(images=60, classes=classes))
        assert ("confusion" in section(text, "Classes")) == there and "Most confused" in read.text


@pytest.mark.parametrize(("images", "classes", "size"), [(1200, 1000, (40, 40)), (120, 30, (300, 400))])
def test_size_is_bounded(tmp_path, images, classes, size):
    source, counts = run_of(images, classes, size)  # noise, which no JPEG can compress
    text, _ = write(tmp_path / "report.html", source, counts)
    assert len(text) < 4_000_000


def test_mistakes_are_the_surest_first(tmp_path):
    source, counts = run_of(images=80)
    text, _ = write(tmp_path / "report.html", source, counts)
    shown = section(text, "Mistakes")
    found = accuracy.answers(source, counts)
    best, predicted = found.probabilities.max(1), found.probabilities.argmax(1)
    wanted = sorted((i for i in range(80) if predicted[i] != found.labels[i]), key=lambda i: -best[i])
    files = [int(number) for number in re.findall(r'title="&lt;(\d+)&gt;\.png"', shown)]
    assert files == wanted[: classifications.MISTAKES]
    first = wanted[0]
    names = [f"class &lt;{k}&gt;" for k in (found.labels[first], predicted[first])]
    assert f"{names[0]} → {names[1]} · {best[first]:.2f}" in shown


def test_wrong_labels_are_in_doubt(tmp_path):
    source, counts = run_of(images=50, right=True)
    planted = [7, 21, 33]
    for number, i in enumerate(planted):
        truth = int(counts[i]["label"])
        shares = np.full(10, 0.001 * 2**number, np.float32)
        shares[truth] = 1
        counts[i] = {"probabilities": shares, "label": np.int32((truth + 1) % 10)}
    text, _ = write(tmp_path / "report.html", source, counts)
    shown = section(text, "Labels in doubt")
    assert re.findall(r">&lt;(\d+)&gt;\.png<", shown) == [str(i) for i in planted]
    assert "3 labels have a probability below 0.5" in shown


def test_mistakes_of_several_labels(tmp_path):
    source, counts = run_of(images=12, classes=3, several=True)
    text, _ = write(tmp_path / "report.html", source, counts, several=True)
    found = multilabel.answers(source, counts)
    taken = found.probabilities >= 0.5
    assert f"Predicted, but not in the truth: {(taken & ~found.labels).sum()}<" in text
    assert f"In the truth, but not predicted: {(~taken & found.labels).sum()}<" in text
    missed = np.where(~taken & found.labels, found.probabilities, 2).min()
    assert f"· {missed:.2f}</figcaption>" in text.partition("but not predicted")[2][:8000]


def test_bars_mark_the_truth():
    bars = thumbnails.bars(["a", "b<", "c", "d"], np.array([0.1, 0.5, 0.15, 0.25], np.float32), [3])
    assert re.findall(r"<span>(.*?)</span><b>(.*?)</b>", bars) == [("b&lt;", "0.50"), ("d", "0.25"), ("c", "0.15")]
    assert re.findall(r'class="(\w+)" style="width:([\d.]+)%', bars) == [
        ("mute", "50.0"), ("good", "25.0"), ("mute", "15.0")
    ]  # fmt: skip


@pytest.mark.parametrize("number", [0, 1, 5, 100])
def test_evenly(number):
    found = thumbnails.evenly(number, 16)
    assert len(found) == min(number, 16) == len(set(found))
    assert not found or (found[0] == 0 and found[-1] == max(number - 1, 0))


@pytest.mark.parametrize("classes", [1, 2, 8])
def test_show(classes):
    probabilities = np.linspace(0.2, 0.9, classes, dtype=np.float32)
    names = [f"c{k}" for k in range(classes)]
    image = np.zeros((20, 30, 3), np.uint8)
    shown = classifications.show({"probabilities": probabilities}, image, classes=names, score=0.5, enlarge=True)
    best = names[int(probabilities.argmax())]
    assert shown.values["predicted"] == best
    assert shown.values["probability"] == pytest.approx(float(probabilities.max()), abs=1e-4)
    assert set(shown.values["found"]) == {name for name, p in zip(names, probabilities) if p >= 0.5}
    assert shown.findings == len(shown.values["found"])
    assert [row["class"] for row in shown.values["top"]] == names[::-1][:5]


def test_show_without_a_number():
    shown = classifications.show(
        {"probabilities": np.full(3, np.nan, np.float32)}, np.zeros((9, 9, 3), np.uint8),
        classes=["a", "b", "c"], score=0.5, enlarge=False,
    )  # fmt: skip
    assert shown.findings == 0 and shown.values["probability"] == 0


def test_captions_keep_the_image_and_draw_bars_by_probability():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    lines = [("a name that is much too long to fit into a line of this width", 0.5), ("b", 0.25)]
    plain, large = captions.below(image, lines), captions.below(image, lines, enlarge=True)
    left = (captions.WIDTH - 30) // 2
    np.testing.assert_array_equal(plain[:20, left : left + 30], image)
    np.testing.assert_array_equal(large[:160, :240], image.repeat(8, 0).repeat(8, 1))
    row = (len(plain) - 20) // 2
    for number, (_, probability) in enumerate(lines):
        line = plain[20 + number * row + 1]
        assert (line == captions._BAR).all(1).sum() == pytest.approx(probability * captions.WIDTH, abs=1.5)
    wide = captions.below(np.zeros((10, 900, 3), np.uint8), lines, enlarge=True)
    assert wide.shape[1] == 900 and wide.shape[0] > 10
