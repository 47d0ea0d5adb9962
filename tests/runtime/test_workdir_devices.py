"""A run that began on a mesh of eight devices goes on, and is scored, on the one that is here."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from mapjax.config import load as configs
from mapjax.runs import fit, trained
from mapjax.runtime import log as logs
from mapjax.runtime import workdir

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENT = "experiments/classify.py"
OPTIONS = {
    "model": "{'name': 'vit', 'patch': 4, 'width': 16, 'depth': 2, 'heads': 2, 'mlp': 32, 'stacked': True}",
    # At a low rate, and with no division by small numbers, the sums of another order stay close.
    "optimizer": "{'name': 'sgd', 'learning_rate': 0.01, 'weight_decay': 0.0, 'decay': 'kernel$', 'clip': 10.0, "
    "'lr_multipliers': (), 'freeze': ()}",
    "batch": "16",
    "duration": "20 steps",
    "every.log": "1 steps",
    "every.save": "10 steps",
}
EIGHT = OPTIONS | {"mesh": "{'data': 2, 'fsdp': 1, 'pipe': 2, 'model': 2}", "eval_batch": "64", "input.threads": "2"}
ONE = OPTIONS | {"mesh": "{'data': -1, 'fsdp': 1, 'pipe': 1, 'model': 1}", "input.threads": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All 20 steps, on eight devices."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    command = [sys.executable, "launch/main.py", "--config", EXPERIMENT, "--workdir", str(folder)]
    command += [f"--config.{key}={value}" for key, value in EIGHT.items()]
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_run_goes_on_with_other_devices(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    (tmp_path / "run" / "result.json").unlink()
    result = fit.fit(configs.load(str(ROOT / EXPERIMENT), ONE), tmp_path / "run")
    said = " ".join(capsys.readouterr().out.split())
    assert "the same experiment, placed otherwise: eval_batch: 64 → 200; input.threads: 2 → 1; " in said
    assert "mesh.data: 2 → -1; mesh.model: 2 → 1; mesh.pipe: 2 → 1" in said
    assert "going on from step 10 of 20" in said
    assert result["mesh"]["data"] == jax.device_count() and result["steps"] == 20
    before, after = (
        {line["step"]: line["loss"] for line in logs.read(folder / "metrics.jsonl") if line["kind"] == "train"}
        for folder in (whole, tmp_path / "run")
    )
    assert list(before) == list(after) == list(range(1, 21))
    np.testing.assert_allclose(list(after.values()), list(before.values()), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        trained.load(tmp_path / "run").variables,
        trained.load(whole).variables,
    )
    assert workdir.read_json(tmp_path / "run" / "config.json")["mesh"]["model"] == 1


def test_it_is_scored_with_other_devices(whole, tmp_path):
    command = [sys.executable, "launch/evaluate.py", "--workdir", str(whole), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"does not fit the devices here; scoring with mesh.data={jax.device_count()}" in done.stdout
    there, here = (json.loads((folder / "result.json").read_text()) for folder in (whole, tmp_path / "out"))
    assert here["mesh"] == {"data": jax.device_count(), "fsdp": 1, "pipe": 1, "model": 1}
    assert here["eval_images"] == there["eval_images"] == 359
    assert here["metrics"] == pytest.approx(there["metrics"], abs=1e-3)
