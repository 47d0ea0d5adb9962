import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
from programs import program

from mapjax.errors import UserError
from mapjax.plan import gpus

ROOT = pathlib.Path(__file__).parents[2]


def plan(*arguments, devices=8, timeout=600):
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "launch/plan.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "experiments/classify.py", "--topology", "v5e:3x3"], "no slice '3x3'"),
        (
            ["--config", "experiments/classify.py", "--mesh", f"data={3 * jax.device_count()}"],
            r"mesh \(data=.* does not fit",
        ),
        (["--config", "experiments/classify.py", "--batch", "auto", "--mesh", "auto"], "choose one"),
        (["--config", "experiments/classify.py", "--topologie", "v5e:2x2"], "Did you mean '--topology'"),
    ],
)
def test_mistakes_are_one_sentence(arguments, says):
    with pytest.raises(UserError, match=says) as raised:
        program("plan")([str(ROOT / word) if word.startswith("experiments/") else word for word in arguments])
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.process
def test_a_mistake_ends_the_program_with_code_2():
    done = plan("--config", "experiments/classify.py", "--batch", "60")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert re.search("batch=60 does not divide over 8 devices.*56 or 64", done.stderr)


@pytest.mark.process
def test_devices_sum_their_gradients(tmp_path):
    # So few images that no convolution goes by Winograd tiles, whose gradients are summed before they are folded.
    arguments = ["--config", "experiments/classify.py", "--batch", "4", "--json", str(tmp_path / "plan.json")]
    done = plan(*arguments, devices=4)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "plan.json").read_text())
    assert (values["devices"], values["mesh"]["data"], values["batch"]) == (4, 4, 4)
    assert values["memory"]["parameters"] == 4 * values["parameters"]  # copied, not split
    (summed,) = values["collectives"]
    assert (summed["kind"], summed["axes"], summed["size"]) == ("all-reduce", ["data"], 4)
    # Every gradient once, and the sums of batch norm beside them.
    assert 4 * values["parameters"] < summed["bytes"] < 1.1 * 4 * values["parameters"]
    assert "collectives of a step" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ, reason="needs libtpu"
)
def test_a_tpu_slice_that_is_not_here(tmp_path):
    out = tmp_path / "plan.json"
    done = plan("--config", "experiments/classify.py", "--topology", "v5e:2x4", "--json", str(out))
    assert done.returncode == 0, done.stderr
    values = json.loads(out.read_text())
    assert (values["place"], values["devices"], values["memory"]["fits"]) == ("v5e:2x4", 8, True)
    assert values["collectives"][0]["kind"] == "all-reduce"
    assert 0 < values["seconds"]["step"] <= values["seconds"]["estimate"] < 1e-3


@pytest.mark.slow
@pytest.mark.skipif(gpus._plugin() is None, reason="needs XLA's compiler for GPUs")
def test_a_node_of_gpus_that_is_not_here(tmp_path):
    out = tmp_path / "plan.json"
    done = plan("--config", "experiments/classify.py", "--topology", "h100:8", "--json", str(out))
    assert done.returncode == 0, done.stderr
    values = json.loads(out.read_text())
    assert (values["place"], values["devices"], values["memory"]["fits"]) == ("h100:8", 8, True)
    assert {one["kind"] for one in values["collectives"]} == {"all-reduce"}
    assert 0 < values["seconds"]["step"] <= values["seconds"]["estimate"] < 1e-3
    # By hand, of 8 images: a 3×3 window meets 22² places of 8×8 pixels and 10² of 4×4; every kernel and every map but
    # the image has a gradient; three products of the classes.
    first, *others = [22**2 * 3 * 24, 22**2 * 24 * 24, 10**2 * 24 * 48, 10**2 * 48 * 48]
    assert values["flops"] == 2 * 8 * (2 * first + 3 * sum(others) + 3 * 48 * 10)


VIT = "{'name': 'vit', 'width': 32, 'depth': 2, 'heads': 4, 'mlp': 64, 'patch': 2, 'stacked': True}"


@pytest.mark.process
def test_meshes_are_ranked_with_the_bubble_of_a_pipeline(tmp_path):
    out = tmp_path / "plan.json"
    arguments = ["--config", "experiments/classify.py", f"--config.model={VIT}", "--batch", "8", "--mesh", "auto"]
    done = plan(*arguments, "--json", str(out), devices=4)
    assert done.returncode == 0, done.stderr
    axes = ("data", "fsdp", "model", "pipe")
    ranked = {tuple(one["mesh"][axis] for axis in axes): one for one in json.loads(out.read_text())}
    assert set(ranked) == {
        (4, 1, 1, 1), (1, 4, 1, 1), (2, 1, 2, 1), (1, 2, 2, 1), (1, 1, 4, 1), (2, 1, 1, 2), (1, 1, 2, 2),
    }  # fmt: skip
    assert "pipe=4: mesh.pipe=4 splits no parameter" in done.stdout  # 2 blocks
    # Of 4 micro-batches over 2 stages there are 5 turns in the figures. By hand: the patches' products, forward and of
    # the kernel, and the classes', forward and twice backward, are not in the stack: each stage does them all.
    ends = 8 * (2 * 2 * 16 * 12 * 32 + 3 * 2 * 32 * 10)
    alone = 4 * ranked[4, 1, 1, 1]["flops"] - ends
    assert ranked[2, 1, 1, 2]["flops"] == pytest.approx(5 / 4 * alone / 4 + ends / 2, rel=0.01)
    assert ranked[2, 1, 1, 2]["bubble"] == pytest.approx(1 / 5)
    assert "20.0 %" in done.stdout


def with_memory(memory, name, *arguments, devices=2):
    """Run a program of launch/ on devices that have so many bytes together."""
    code = (
        "import runpy, sys; from mapjax.plan import topology; topology._memory = lambda: "
        f"{memory}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", code, f"launch/{name}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_largest_batch_is_planned_and_trained_with(tmp_path):
    """On 2 devices of 6 MB each. The batch is the same in both programs, and so is its peak."""
    memory, limit = 12_000_000, 0.85 * 6_000_000
    common = ["--config", "experiments/classify.py", "--batch", "auto"]
    done = with_memory(memory, "plan", *common, "--json", str(tmp_path / "plan.json"))
    assert done.returncode == 0, done.stderr
    planned = json.loads((tmp_path / "plan.json").read_text())
    assert planned["devices"] == 2 and planned["batch"] % 2 == 0 and planned["batch"] > 2
    assert 0.8 * limit < planned["memory"]["peak"] <= limit
    assert "too much" in done.stdout
    run = ["--workdir", str(tmp_path / "run"), "--config.duration=2 steps", "--config.eval_batch=400"]
    done = with_memory(memory, "main", *common, *run)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["batch"], result["examples"]) == (planned["batch"], 2 * planned["batch"])
    assert result["mesh"]["data"] == 2
    assert config["eval_batch"] < 400 and result["eval_images"] == 359  # a fifth of 1,797
