"""Speeds, their tables and their history."""

import json

import numpy as np
import pytest
from rich.console import Console

from mapjax.check import feed, history, judge, speed, steps, tables
from mapjax.cli import bench, bench_check
from mapjax.errors import UserError

WORK = speed.Workload("digits", "classify", {"batch": "8"})


def test_a_step_is_timed_with_its_slowest_parts():
    [found] = speed.speeds([WORK], rounds=2)
    assert found.images == pytest.approx(8 / found.seconds) and found.peak is None and found.torch is None
    assert 0 < found.predicted_mb < 100
    assert found.slowest and 0 < found.slowest[0][1] <= 1


def test_on_an_accelerator_the_sizes_are_of_those():
    names = [one.name for one in speed.ACCELERATOR]
    assert names[0].startswith("ResNet-50, bfloat16, 256") and any("ViT-B/16" in name for name in names)
    assert speed.workloads() == speed.CPU


def found(**changes):
    right = judge.Verdict("RoIAlign", "float32", 1e-7, 2e-7, 4e-3, True)
    step = steps.Verdict("detect", 1e-5, 2e-3, True, True)
    fast = speed.Speed("ResNet-50", 0.1, 2560.0, 0.5, 0.8, 900.0, 950.0, 0.15, (("ops/nms: sort", 0.25),))
    fast = fast._replace(goals=speed.goals(speed.ACCELERATOR[0], fast))
    feeds = [feed.Feed("memory", 5120.0), feed.Feed("JPEGs", 1280.0)]
    return tables.Found("H200", [right._replace(**changes)], [step], [fast], feeds, {"revision": "abc"})


def test_goals_are_met_or_missed_by_what_was_measured():
    [fast] = found().speeds
    assert [(goal.measure, goal.met) for goal in fast.goals] == [("images/s", False), ("share of the roofline", True)]
    detector = speed.goals(speed.ACCELERATOR[2], fast._replace(seconds=0.25, torch=0.5))
    assert detector[0] == speed.Goal("times as fast as torch.compile", 1.5, 2.0) and detector[0].met
    alone = speed.goals(speed.ACCELERATOR[2], fast._replace(torch=None))
    assert alone[0].found is None and not alone[0].met
    assert all(set(one.goals) <= set(speed.GOALS) for one in speed.ACCELERATOR)


@pytest.mark.parametrize(("used", "wrong"), [(None, []), (1000.0, []), (1100.0, ["memory of ResNet-50"])])
def test_memory_is_held_against_its_prediction(used, wrong):
    made = found()
    assert made._replace(speeds=[made.speeds[0]._replace(used_mb=used)]).wrong == wrong


def test_input_is_timed_from_memory_and_from_files(monkeypatch):
    """JPEGs are decoded: every file is read, and memory is the faster."""
    read, decode = [], feed.cv2.imwrite
    monkeypatch.setattr(feed.cv2, "imwrite", lambda file, image: read.append(file) or decode(file, image))
    memory, files = feed.rates(large=False, seconds=0.2)
    assert (memory.place, files.place) == ("memory", "JPEGs") and len(set(read)) == 16
    assert memory.images > 0 and files.images > 0


def test_batches_are_crops_of_arrays_and_of_files(tmp_path):
    image = np.full((40, 60, 3), 128, np.uint8)
    feed.cv2.imwrite(str(tmp_path / "a.jpg"), image)
    with feed.batches([image, str(tmp_path / "a.jpg")], batch=2, side=16, threads=1) as stream:
        batch = next(stream)
    assert batch["image"].shape == (2, 16, 16, 3)
    assert np.abs(np.asarray(batch["image"]).astype(int) - 128).max() <= 2


def test_the_tables_say_what_is_wrong():
    assert found().wrong == found().restless == []
    bad = found(forward=0.1, repeats=False)
    assert bad.wrong == bad.restless == ["RoIAlign in float32"]
    text = Console(width=150, record=True)
    text.print(tables.table(bad))
    shown = text.export_text()
    assert "WRONG: RoIAlign in float32" in shown and "2,560.0" in shown and "1.50" in shown and "25.0 %" in shown
    assert "MISSED" in shown and "3,500" in shown, "2,560 of 3,500 images/s"
    assert "× what ResNet-50 takes" in shown and "2.00" in shown and "0.50" in shown
    page = tables.page(bad)
    assert page.count('class="number bad">WRONG<') == 1 and page.count('class="number good">right<') == 1
    assert "<h2>Kernels</h2>" in page and "WRONG" in page and "src=" not in page
    values = json.loads(json.dumps(tables.as_json(bad), allow_nan=False))
    assert values["wrong"] == ["RoIAlign in float32"] and values["speeds"][0]["torch"] == 0.15


@pytest.mark.parametrize(("wrong", "code"), [(False, 0), (True, 1)])
def test_the_program_leaves_a_page_and_an_exit_code(wrong, code, tmp_path, monkeypatch, capsys):
    made = found(forward=0.1) if wrong else found()
    monkeypatch.setattr(judge, "verdicts", lambda large: iter(made.kernels))
    monkeypatch.setattr(steps, "verdicts", lambda: iter(made.steps))
    monkeypatch.setattr(feed, "rates", lambda large, seconds: iter(made.feeds))
    monkeypatch.setattr(speed, "speeds", lambda chosen, peer, rounds: iter(made.speeds))
    out, lines = tmp_path / "out", tmp_path / "speeds.jsonl"
    assert bench.main(["--check", "--out", str(out), "--history", str(lines)]) == code
    assert {file.name for file in out.iterdir()} == {"check.html", "check.json"}
    assert history.read(lines)[0]["figures"] == {
        "ResNet-50, images/s": 2560.0, "input from memory, images/s": 5120.0, "input from JPEGs, images/s": 1280.0,
    }  # fmt: skip
    assert ("Everything is within its tolerance" in capsys.readouterr().out) == (not wrong)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .* cannot be written"):
        bench_check.check(tmp_path / "file" / "out", 1)


def test_a_history_grows_and_tells_what_was_lost(tmp_path, capsys):
    path = tmp_path / "deep" / "speeds.jsonl"
    for value in (100.0, 120.0, 99.0):
        bench_check.keep(path, {"step, images/s": value, "ratio": 1.5})
    assert "step, images/s: 99, 18 % less than the best before on this device, 120" in capsys.readouterr().out
    assert [line["figures"]["ratio"] for line in history.read(path)] == [1.5, 1.5, 1.5]
    drawn = path.with_suffix(".html").read_text()
    assert drawn.count("<svg") >= 2 and "3 measurements" in drawn
    other = [{**line, "device": "another"} for line in history.read(path)[:2]]
    assert history.lost([*other, history.read(path)[2]]) == [], "another device is not compared with"


@pytest.mark.parametrize("text", ["no json", "[1]", '{"figures": {"a": "b"}}', "[" * 100_000])
def test_a_file_of_something_else_is_no_history(text, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"--history .*x\.jsonl"):
        history.append(path, "cpu", None, {})
    assert path.read_text() == text
