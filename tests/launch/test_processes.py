"""Training as several processes on this machine, against one process: the same numbers, deaths, mistakes."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from programs import program

from mapjax import weights
from mapjax.config import parts
from mapjax.runs import trained
from mapjax.runtime import distributed
from mapjax.runtime import log as logs

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {  # a low learning rate, at which training does not blow up the rounding of sums in another order
    "model.width": "4",
    "batch": "16",
    "eval_batch": "50",
    "duration": "150 steps",
    "optimizer": "{'name': 'sgd', 'learning_rate': 0.002, 'weight_decay': 0.0, 'decay': 'kernel$', 'clip': 10.0, "
    "'lr_multipliers': (), 'freeze': ()}",
    "every.log": "1 steps",
    "every.save": "10 steps",
}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(
    count, workdir, *, program="main", experiment="classify", own=None, numbers=None, args=(), env=None, roots=None,
    **changes,
):  # fmt: skip
    """Start `count` processes (or only those in `numbers`); `own` gives one more option to a process by its number.

    `roots` gives the folder of the code that a process runs, where it is not this one. A change to None leaves a value
    of SMALL out.
    """
    port = free_port()
    options = [f"--config.{key}={value}" for key, value in {**SMALL, **changes}.items() if value is not None]
    if program == "main":
        options = ["--config", f"experiments/{experiment}.py", *options]
    started = []
    for number in range(count) if numbers is None else numbers:
        root = (roots or {}).get(number, ROOT)
        path = {"PYTHONPATH": str(root)} if root != ROOT else {}
        flags = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process", str(number)]
        command = [sys.executable, f"launch/{program}.py", "--workdir", str(workdir)]
        command += [*(options if program == "main" else ()), *args, *(own or {}).get(number, ())]
        started.append(
            subprocess.Popen(
                command + (flags if count > 1 else []),
                cwd=root,
                env={**os.environ, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **(env or {}), **path},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    return started


def alone(workdir, **changes):
    """Train within this process."""
    options = [f"--config.{key}={value}" for key, value in {**SMALL, **changes}.items()]
    command = ["--config", str(ROOT / "experiments" / "classify.py"), "--workdir", str(workdir), *options]
    assert program("main")(command) == 0


def finish(processes, seconds=400) -> list[tuple[int, str]]:
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs)]


def last_step(workdir) -> int:
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)


def wait_for_step(workdir, step, processes, seconds=300):
    limit = time.time() + seconds
    while time.time() < limit and all(process.poll() is None for process in processes):
        if last_step(workdir) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of step {step}: {finish(processes, 1)}")


def wait_for_line(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was not printed: {finish([process], 1)}")


def losses(workdir) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in logs.read(workdir / "metrics.jsonl") if line["kind"] == "train"}


def close(workdir, other):
    """Losses of every step, parameters and scores equal to rounding."""
    ours, theirs = losses(workdir), losses(other)
    assert list(ours) == list(theirs) == list(range(1, 151))
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        trained.load(workdir).variables,
        trained.load(other).variables,
    )
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (workdir, other))
    assert ours["eval_images"] == theirs["eval_images"] == 359
    for name, value in theirs["metrics"].items():
        assert abs(ours["metrics"][name] - value) < 1e-3, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One process, this one, never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    alone(workdir)
    return workdir


def test_two_processes_train_as_one_does(whole, tmp_path):
    (code, output), (other_code, other) = finish(start(2, tmp_path / "run"))
    assert code == other_code == 0, output + other
    close(tmp_path / "run", whole)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == 2
    assert "step 150/150" in output and "report.html" in output
    assert [line for line in other.splitlines() if not line.startswith("[Gloo]")] == []
    # And score as one does.
    (code, output), (other_code, other) = finish(start(2, tmp_path / "run", program="evaluate"))
    assert code == other_code == 0, output + other
    again = json.loads((tmp_path / "run" / "evaluation-val" / "result.json").read_text())
    assert again["eval_images"] == 359
    assert again["metrics"] == json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert [line for line in other.splitlines() if not line.startswith("[Gloo]")] == []


@pytest.mark.slow
def test_killed_and_gone_on_with_by_two_then_four_then_one(whole, tmp_path):
    workdir = tmp_path / "run"
    two = start(2, workdir)
    wait_for_step(workdir, 10, two)
    two[1].kill()
    began = time.time()
    (code, output), (other, _) = finish(two)
    assert time.time() - began < 60
    assert (code, other) == (distributed.LOST, -signal.SIGKILL), output
    assert "error: process 0: process 1 of 2 has died; start all again with the same command" in output
    assert "Traceback" not in output

    first = last_step(workdir)
    four = start(4, workdir)
    wait_for_step(workdir, first + 10, four)
    four[2].kill()
    began = time.time()
    finished = finish(four)
    assert time.time() - began < 60
    assert [code for code, _ in finished] == [distributed.LOST] * 2 + [-signal.SIGKILL, distributed.LOST], finished
    for number in (0, 1, 3):
        assert f"error: process {number}: process 2 of 4 has died; start all again" in finished[number][1]
    assert f"going on from step {first} of 150" in finished[0][1]
    second = last_step(workdir)

    four = start(4, workdir)
    wait_for_step(workdir, second + 10, four)
    four[3].send_signal(signal.SIGTERM)  # one is asked, all stop after the same step
    finished = finish(four)
    assert [code for code, _ in finished] == [143] * 4, finished
    assert f"going on from step {second} of 150" in finished[0][1]
    third = last_step(workdir)
    assert f"saved at step {third}" in finished[0][1]
    assert first < second < third < 150

    [(code, output)] = finish(start(1, workdir))
    assert code == 0, output
    assert f"going on from step {third} of 150" in output
    close(workdir, whole)


@pytest.mark.slow
def test_two_processes_segment_as_one_does(tmp_path):
    """Seven scenes are scored, which do not divide by two: none is counted twice."""
    changes = {"batch": "4", "eval_batch": "2", "duration": "4 steps", "data.val_length": "7"}
    runs = {}
    for count in (1, 2):
        finished = finish(start(count, tmp_path / str(count), experiment="segment", image_size="(64, 64)", **changes))
        assert [code for code, _ in finished] == [0] * count, finished
        runs[count] = tmp_path / str(count)
    one, two = (list(losses(runs[count]).values()) for count in runs)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    ours, theirs = (np.array(json.loads((runs[n] / "confusion.json").read_text())["matrix"]) for n in (2, 1))
    assert ours.sum() == theirs.sum() == 7 * 128 * 128
    assert np.abs(ours - theirs).sum() <= 20  # pixels whose two best classes are equal to rounding
    ours, theirs = (json.loads((runs[n] / "result.json").read_text()) for n in (2, 1))
    assert ours["eval_images"] == theirs["eval_images"] == 7 and ours["processes"] == 2
    for name, value in theirs["metrics"].items():
        assert abs(ours["metrics"][name] - value) < 5e-3, name


@pytest.mark.slow
def test_two_processes_detect_as_one_does(tmp_path):
    """Four steps, and the detections of seven scenes, which do not divide by two."""
    changes = {"batch": "4", "eval_batch": "2", "duration": "4 steps", "data.val_length": "7", "model.channels": "16"}
    changes |= {"model.backbone.width": "0.25", "image_size": "(64, 64)", "task.pre_nms_train": "64"}
    changes |= {"model.width": None}
    runs = {}
    for count in (1, 2):
        finished = finish(start(count, tmp_path / str(count), experiment="detect", **changes))
        assert [code for code, _ in finished] == [0] * count, finished
        runs[count] = tmp_path / str(count)
    one, two = (list(losses(runs[count]).values()) for count in runs)
    np.testing.assert_allclose(two, one, rtol=1e-3)
    ours, theirs = (json.loads((runs[n] / "result.json").read_text()) for n in (2, 1))
    assert ours["eval_images"] == theirs["eval_images"] == 7 and ours["processes"] == 2


@pytest.mark.slow
def test_parameters_in_parts_go_on_in_one_process_and_back(whole, tmp_path):
    """fsdp over two processes, then over two devices of one, then over two processes again; SIGTERM each time."""
    workdir, parts = tmp_path / "run", {"mesh.data": "1", "mesh.fsdp": "2"}
    two = start(2, workdir, **parts)
    wait_for_step(workdir, 10, two)
    two[1].send_signal(signal.SIGTERM)
    finished = finish(two)
    assert [code for code, _ in finished] == [143] * 2, finished
    first = last_step(workdir)
    assert f"saved at step {first}" in finished[0][1]

    env = {"XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"}
    one = start(1, workdir, env=env, **parts)
    wait_for_step(workdir, first + 10, one)
    one[0].send_signal(signal.SIGTERM)
    [(code, output)] = finish(one)
    assert code == 143, output
    second = last_step(workdir)
    assert f"going on from step {first} of 150" in output and f"saved at step {second}" in output

    # A notice that comes before training goes on is not forgotten.
    two = start(2, workdir, **parts)
    wait_for_line(two[0], "starting JAX")
    two[0].send_signal(signal.SIGTERM)
    finished = finish(two)
    assert [code for code, _ in finished] == [143] * 2, finished
    third = last_step(workdir)
    assert f"saved at step {third}" in finished[0][1] and third == second + 1

    (code, output), (other_code, other) = finish(start(2, workdir, **parts))
    assert code == other_code == 0, output + other
    assert f"going on from step {third} of 150" in output
    close(workdir, whole)
    assert json.loads((workdir / "result.json").read_text())["mesh"]["fsdp"] == 2


def test_the_death_of_the_first_process_ends_the_others(tmp_path):
    processes = start(2, tmp_path / "run")
    wait_for_step(tmp_path / "run", 10, processes)
    processes[0].kill()
    began = time.time()
    _, (code, output) = finish(processes)
    assert time.time() - began < 60
    assert code == distributed.LOST, output
    assert "error: process 1: process 0 of 2 has died; start all again with the same command" in output


@pytest.mark.usefixtures("hangups_heard")
def test_a_hangup_before_training_lets_the_others_start_again(tmp_path):
    processes = start(2, tmp_path / "run")
    wait_for_line(processes[0], "starting JAX")
    processes[1].send_signal(signal.SIGHUP)
    (code, output), (other_code, other) = finish(processes)
    if other_code == 143:  # a library has swallowed the exception, and the loop heard of it
        assert code == 143 and "saved at step" in output, output
    else:
        assert (code, other_code) == (distributed.LOST, 129), output + other
        assert "error: process 0: process 1 has stopped: asked to leave (129)" in output, output


def test_other_configs_are_refused(tmp_path):
    own = {1: ["--config.batch=32"], 2: ["--config.seed=5"]}
    finished = finish(start(3, tmp_path / "run", own=own))
    for number, (code, output) in enumerate(finished):
        assert code == 2, output
        assert f"error: process {number}: process 1 differs from process 0 in config.batch: 32, not 16" in output
        assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


def test_other_code_is_refused(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for name in ("mapjax", "launch", "experiments"):
        shutil.copytree(ROOT / name, first / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(first, second)
    with (second / "mapjax" / "engine" / "step.py").open("a") as file:
        file.write("# another word\n")
    for number, (code, output) in enumerate(finish(start(2, tmp_path / "run", roots={0: first, 1: second}))):
        assert code == 2, output
        assert f"error: process {number}: process 1 differs from process 0 in mapjax/engine/step.py: " in output
    assert not (tmp_path / "run").exists()


def test_the_mistake_of_one_process_ends_the_others(tmp_path):
    (tmp_path / "run" / "checkpoints" / "10").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"seed": 3}')
    (code, output), (other_code, other) = finish(start(2, tmp_path / "run"))
    assert code == other_code == 2, output + other
    assert "error: process 0: --workdir" in output and "holds another experiment" in output
    assert "error: process 1: process 0 has stopped: --workdir" in other and "holds another experiment" in other


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1], "could not be reached within 3 s; is process 0 running there, and the port open?"),
        ([0], "not all 2 processes came to the coordinator 127.0.0.1:"),
    ],
)
def test_a_process_that_does_not_come(tmp_path, numbers, message):
    [(code, output)] = finish(start(2, tmp_path / "run", numbers=numbers, args=("--wait", "3")))
    assert code == 2, output
    assert message in output
    assert output.splitlines()[-1].startswith(f"error: process {numbers[0]}: ")
    assert "Traceback" not in output


def test_given_weights_are_split_over_processes(tmp_path):
    """With `fsdp` no process can hold the whole of an array, and each takes its part of what was loaded."""
    model = parts.make("models", {"name": "tiny", "width": 16}, classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.uniform(0.1, 0.3, s.shape).astype(np.float32), shapes)
    weights.save(tmp_path / "given.safetensors", weights.to_torchvision(variables))
    changes = {"model.width": "16", "duration": "2 steps", "init_from": str(tmp_path / "given.safetensors")}
    alone(tmp_path / "one", **changes)
    split = {"mesh.data": "1", "mesh.fsdp": "2"}
    (code, output), (other_code, other) = finish(start(2, tmp_path / "two", **changes, **split))
    assert code == other_code == 0, output + other
    assert "weights from" in output and "weights from" not in other
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-5)
    found_params = trained.load(tmp_path / "two").variables["params"]
    for found, given in zip(*map(jax.tree.leaves, (found_params, variables["params"]))):
        np.testing.assert_allclose(found, given, atol=0.05)  # two small steps from what was loaded
