"""The default runs to their scores, by the README's commands: `pytest -m slow`."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("full_compiler")]
ROOT = pathlib.Path(__file__).parents[2]


def test_the_default_run_reaches_its_score(tmp_path):
    command = [
        sys.executable,
        "launch/main.py",
        "--config",
        "experiments/detect.py",
        "--workdir",
        str(tmp_path / "run"),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["eval_images"] == 500
    assert result["metrics"]["AP50"] >= 0.90
    assert result["metrics"]["AP"] >= 0.60
    assert result["peak_rss_mb"] <= 6000
    assert result["input_wait"] <= 0.10


def test_segmentation_of_scenes_reaches_its_score_in_time(tmp_path):
    began = time.perf_counter()
    command = [
        sys.executable,
        "launch/main.py",
        "--config",
        "experiments/segment.py",
        "--workdir",
        str(tmp_path / "run"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cold")})
    assert time.perf_counter() - began <= 360
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["eval_images"] == 500
    assert result["metrics"]["mIoU"] >= 0.80


def test_digits_reach_their_score_in_time(tmp_path):
    scores = []
    for seed in range(3):
        began = time.perf_counter()
        command = [sys.executable, "launch/main.py", "--config", "experiments/classify.py"]
        command += [f"--config.seed={seed}", "--workdir", str(tmp_path / str(seed))]
        subprocess.run(
            command, cwd=ROOT, check=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / f"cold{seed}")}
        )
        assert time.perf_counter() - began <= 90
        scores.append(json.loads((tmp_path / str(seed) / "result.json").read_text())["metrics"]["top1"])
    assert sum(scores) / 3 >= 0.99
