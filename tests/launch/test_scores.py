"""The main job to its score, by the README's command: `pytest -m slow`."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
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
