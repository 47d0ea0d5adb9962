"""The main job as a user runs it: real processes, killed and started again, mistakes, several devices."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import jax
import numpy as np
import pytest

from mapjax.data.formats import scenes
from mapjax.data.formats import voc as voc_source
from mapjax.metrics import precision
from mapjax.runs import trained
from mapjax.runtime import log as logs

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
    "batch": "4",
    "eval_batch": "4",
    "image_size": "(64, 64)",
    "data.val_length": "6",
    "model.backbone.width": "0.125",
    "model.channels": "8",
    "model.representation": "16",
    "task.pre_nms_train": "50",
    "task.post_nms_train": "20",
    "task.samples": "16",
    "task.post_nms_test": "20",
    "duration": "40 steps",
    "every.log": "8 steps",
    "every.save": "5 steps",
}


def start(workdir, *, program="main", env=None, args=(), before=(), **changes):
    settings = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    options = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, f"launch/{program}.py", "--config", "experiments/detect.py", "--workdir", str(workdir)]
    return subprocess.Popen(
        [*before, *command, *options, *args],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def saved(workdir):
    loaded = trained.load(workdir)
    return loaded.step, loaded.variables


def wait_for_checkpoint(folder, process, seconds=120):
    limit = time.time() + seconds
    while time.time() < limit and process.poll() is None:
        if folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir()):
            return
        time.sleep(0.01)
    raise AssertionError(f"{folder} never held a checkpoint while training went on")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run never stopped."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, output = finish(start(workdir))
    assert code == 0, output
    return workdir, output


def test_the_folder_holds_what_it_should(whole):
    workdir, output = whole
    names = {path.name for path in workdir.iterdir()}
    assert names >= {
        "config.json", "classes.json", "metrics.jsonl", "tensorboard", "checkpoints", "predictions.json",
        "truth.json", "result.json", "report.html",
    }  # fmt: skip
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 40
    assert result["eval_images"] == 6
    assert {"AP", "AP50", "AP75", "AP/3", "AP50/3"} <= set(result["metrics"])
    assert result["mesh"]["data"] == 1
    assert 0 <= result["input_wait"] <= 1
    history = logs.read(workdir / "metrics.jsonl")
    assert [line["step"] for line in history if line["kind"] == "train"] == [8, 16, 24, 32, 40]
    assert {"loss", "loss_box", "learning_rate", "gradient_norm", "examples_per_s", "input_wait"} <= set(history[0])
    assert [line["step"] for line in history if line["kind"] == "eval"] == [40]
    assert "compiling the train step" in output
    assert (workdir / "report.html").stat().st_size > 10_000


def test_a_finished_run_only_evaluates(whole):
    workdir, _ = whole
    before = json.loads((workdir / "result.json").read_text())
    code, output = finish(start(workdir))
    assert code == 0
    assert "is finished (40 steps)" in output
    after = json.loads((workdir / "result.json").read_text())
    assert after["metrics"] == before["metrics"]
    assert after["wall_s"] == before["wall_s"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_started_again_it_ends_with_the_same_bits(whole, tmp_path, number):
    process = start(tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run" / "checkpoints", process)
    process.send_signal(number)
    code, output = finish(process)
    assert code == (-9 if number == signal.SIGKILL else 143), output
    if number == signal.SIGTERM:
        assert "saved at step" in output
    code, output = finish(start(tmp_path / "run"))
    assert code == 0, output
    assert "going on from step" in output
    (step, ours), (other, theirs) = saved(tmp_path / "run"), saved(whole[0])
    assert step == other == 40
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    histories = (logs.read(workdir / "metrics.jsonl") for workdir in (tmp_path / "run", whole[0]))
    ours, theirs = ([line for line in history if line["kind"] == "train"] for history in histories)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert ours[-1]["loss"] == theirs[-1]["loss"]


def test_a_checkpoint_cut_short_costs_only_the_steps_since_the_one_before(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "40" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:50])
    code, output = finish(start(tmp_path / "run"))
    assert code == 0, output
    assert "it is set aside as 40.broken and the one before it used" in output
    assert "going on from step 35 of 40" in output
    assert "Traceback" not in output
    jax.tree.map(np.testing.assert_array_equal, saved(tmp_path / "run"), saved(whole[0]))


def test_nothing_is_compiled_while_training(tmp_path):
    code, output = finish(start(tmp_path / "run", env={"JAX_LOG_COMPILES": "1"}))
    assert code == 0, output
    lines = output.splitlines()
    compiled = [number for number, line in enumerate(lines) if "Finished XLA compilation of jit(" in line]
    first, last = (next(n for n, line in enumerate(lines) if line.startswith(f"step {k}/40")) for k in (8, 40))
    assert sum("jit(step)" in lines[number] for number in compiled) == 1
    assert not [lines[number] for number in compiled if first < number < last]


@pytest.mark.slow
def test_two_devices_train_as_one_does(whole, tmp_path):
    code, output = finish(start(tmp_path / "run", env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}))
    assert code == 0, output
    lines = [logs.read(w / "metrics.jsonl") for w in (whole[0], tmp_path / "run")]
    one, two = ([line for line in some if line["kind"] == "train"] for some in lines)
    np.testing.assert_allclose(one[0]["loss"], two[0]["loss"], rtol=1e-3)
    np.testing.assert_allclose(one[0]["gradient_norm"], two[0]["gradient_norm"], rtol=1e-2)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["mesh"]["data"] == 2
    assert result["eval_images"] == 6 == len(json.loads((tmp_path / "run" / "truth.json").read_text())["images"])


@pytest.mark.parametrize(
    ("changes", "args", "message"),
    [
        ({"optimzer.learning_rate": "1"}, (), "Did you mean 'optimizer.learning_rate'"),
        ({"model.name": "faster_rcn"}, (), "Did you mean 'faster_rcnn'"),
        ({"data.val_length": None}, ("--data", "vco:data"), "Did you mean 'voc'"),
        ({"data.val_length": None}, ("--data", "voc:no/such/folder"), "no/such/folder"),
        ({"data.val_length": None}, ("--data", "tests"), "say its format before the path: voc:tests"),
        ({"mesh.data": "3"}, (), "does not fit 1 device"),
        ({"batch": "0"}, (), "batch=0 must be at least 1"),
        pytest.param(
            {"optimizer.clip": "0", "optimizer.learning_rate": "1e30", "schedule.warmup": "0 steps"},
            (),
            "not finite",
            marks=pytest.mark.slow,  # it compiles; test_fit.py has the same without a process
        ),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, changes, args, message):
    code, output = finish(start(tmp_path / "run", args=args, **changes))
    assert code == 2
    assert output.splitlines()[-1].startswith("error: ")
    assert message in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_batch_that_does_not_divide(tmp_path):
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    code, output = finish(start(tmp_path / "run", env=env, batch="3"))
    assert code == 2
    assert "batch=3 does not divide over 2 devices (mesh data×fsdp); use 2 or 4" in output


def test_a_disk_that_is_full(tmp_path):
    code, output = finish(start(tmp_path / "run", before=("sh", "-c", 'ulimit -f 500; exec "$@"', "sh")))
    assert code == 0, output
    assert "could not save a checkpoint" in output
    assert "8 checkpoints could not be saved; the last one is of step 0" in output
    assert "Traceback" not in output
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"scores.json"}  # no unfinished step
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]


def test_a_workdir_of_another_experiment(whole):
    code, output = finish(start(whole[0], seed="7"))
    assert code == 2
    assert "holds another experiment (seed: 0 → 7)" in output


def voc_folder(root: pathlib.Path) -> pathlib.Path:
    """Write scenes as a VOC folder with the splits trainval and test."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, kind, length in (("trainval", "train", 6), ("test", "val", 3)):
        source = scenes.make(split=kind, size=(64, 64), digit_size=(16.0, 24.0), train_length=length, val_length=length)
        names = []
        for record in source.records:
            name = record["file"].replace("/", "-")
            names.append(name)
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), record["image"][..., ::-1])
            objects = "".join(
                f"<object><name>d{k}</name><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax>"
                f"<ymax>{b[3]}</ymax></bndbox></object>"
                for b, k in zip(record["boxes"].tolist(), record["classes"].tolist())
            )
            xml = f"<annotation><size><width>64</width><height>64</height></size>{objects}</annotation>"
            (root / "Annotations" / f"{name}.xml").write_text(xml)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    return root


def coco_folder(root: pathlib.Path, voc: pathlib.Path) -> pathlib.Path:
    """Write the same as a COCO folder with the splits train and val."""
    (root / "annotations").mkdir(parents=True)
    shutil.copytree(voc / "JPEGImages", root / "images")
    for split, theirs in (("train", "trainval"), ("val", "test")):
        truth = precision.coco_truth(voc_source.make(path=str(voc), split=theirs))
        for image in truth["images"]:
            image["file_name"] = pathlib.Path(image["file_name"]).name
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    return root


@pytest.mark.parametrize("variant", ["bccd", "coco"])
def test_the_other_variants_run_on_real_formats(tmp_path, variant):
    data = voc = voc_folder(tmp_path / "voc")
    settings = {"task.pre_nms_train": "50", "task.post_nms_train": "20", "task.samples": "16"}
    if variant == "coco":
        data = coco_folder(tmp_path / "coco", voc)
        settings = {"model.backbone.depth": "18", "input.workers": "0", "input.threads": "2"}
    settings |= {key: value for key, value in SMALL.items() if not key.startswith(("data", "task"))}
    settings["duration"] = "2 steps"
    name = "coco" if variant == "coco" else "voc"
    command = [sys.executable, "launch/main.py", "--config", f"experiments/detect.py:{variant}"]
    options = [f"--config.{key}={value}" for key, value in settings.items()]
    command += ["--data", f"{name}:{data}", "--workdir", str(tmp_path / "run"), *options]
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # two steps do not need fast machine code
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2
    assert result["eval_images"] == 3
    command = [sys.executable, "launch/bench.py", "--config", f"experiments/detect.py:{variant}", "--rounds", "1"]
    command += ["--data", f"{name}:{data}", *options]
    timed = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    assert timed.returncode == 0, timed.stdout + timed.stderr
    assert "train step" in timed.stdout and "images/s" in timed.stdout
