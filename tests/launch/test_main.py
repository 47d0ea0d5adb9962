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
from programs import program

from mapjax.data.formats import scenes
from mapjax.data.formats import voc as voc_source
from mapjax.errors import UserError
from mapjax.metrics import precision
from mapjax.models.backbones import resnet
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
    "duration": "20 steps",
    "every.log": "4 steps",
    "every.save": "5 steps",
}
DIGITS = {  # long enough to be killed
    "model.width": "4",
    "batch": "16",
    "eval_batch": "50",
    "duration": "300 steps",
    "every.log": "10 steps",
    "every.save": "20 steps",
}
TWO_DEVICES = {"XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"}


def arguments(workdir, args=(), experiment="detect", **changes) -> list[str]:
    small = {"detect": SMALL, "classify": DIGITS}[experiment]
    settings = {key: value for key, value in {**small, **changes}.items() if value is not None}
    options = [f"--config.{key}={value}" for key, value in settings.items()]
    return ["--config", str(ROOT / "experiments" / f"{experiment}.py"), "--workdir", str(workdir), *options, *args]


def start(workdir, *, env=None, before=(), **options):
    """Start the program as a process of its own."""
    return subprocess.Popen(
        [*before, sys.executable, "launch/main.py", *arguments(workdir, **options)],
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
    """A run never stopped, and what it said; JAX tells what it compiles."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    code, output = finish(start(workdir, env={"JAX_LOG_COMPILES": "1"}))
    assert code == 0, output
    return workdir, output


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The same of digits, within this process."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    assert program("main")(arguments(workdir, experiment="classify")) == 0
    return workdir


def test_the_folder_holds_what_it_should(whole):
    workdir, output = whole
    names = {path.name for path in workdir.iterdir()}
    assert names >= {
        "config.json", "classes.json", "metrics.jsonl", "tensorboard", "checkpoints", "predictions.json",
        "truth.json", "result.json", "report.html",
    }  # fmt: skip
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 20
    assert result["eval_images"] == 6
    assert {"AP", "AP50", "AP75", "AP/3", "AP50/3"} <= set(result["metrics"])
    assert result["mesh"]["data"] == 1
    assert 0 <= result["input_wait"] <= 1
    history = logs.read(workdir / "metrics.jsonl")
    assert [line["step"] for line in history if line["kind"] == "train"] == [4, 8, 12, 16, 20]
    assert {"loss", "loss_box", "learning_rate", "gradient_norm", "examples_per_s", "input_wait"} <= set(history[0])
    assert [line["step"] for line in history if line["kind"] == "eval"] == [20]
    assert "compiling the train step" in output
    assert (workdir / "report.html").stat().st_size > 10_000


def test_nothing_is_compiled_while_training(whole):
    lines = whole[1].splitlines()
    compiled = [number for number, line in enumerate(lines) if "Finished XLA compilation of jit(" in line]
    first, last = (next(n for n, line in enumerate(lines) if line.startswith(f"step {k}/20")) for k in (4, 20))
    assert sum("jit(step)" in lines[number] for number in compiled) == 1
    assert not [lines[number] for number in compiled if first < number < last]


def test_a_finished_run_only_evaluates(whole, capsys):
    workdir, _ = whole
    before = json.loads((workdir / "result.json").read_text())
    assert program("main")(arguments(workdir)) == 0
    assert "is finished (20 steps)" in capsys.readouterr().out
    after = json.loads((workdir / "result.json").read_text())
    assert after["metrics"] == before["metrics"]
    assert after["wall_s"] == before["wall_s"]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),  # test_kills.py has many more of them
    ],
)
def test_killed_and_started_again_it_ends_with_the_same_bits(digits, tmp_path, number):
    process = start(tmp_path / "run", experiment="classify")
    wait_for_checkpoint(tmp_path / "run" / "checkpoints", process)
    process.send_signal(number)
    code, output = finish(process)
    assert code == (-9 if number == signal.SIGKILL else 143), output
    if number == signal.SIGTERM:
        assert "saved at step" in output
    code, output = finish(start(tmp_path / "run", experiment="classify"))
    assert code == 0, output
    assert "going on from step" in output
    (step, ours), (other, theirs) = saved(tmp_path / "run"), saved(digits)
    assert step == other == 300
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    histories = (logs.read(workdir / "metrics.jsonl") for workdir in (tmp_path / "run", digits))
    ours, theirs = ([line for line in history if line["kind"] == "train"] for history in histories)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert ours[-1]["loss"] == theirs[-1]["loss"]


def test_a_checkpoint_cut_short_costs_only_the_steps_since_the_one_before(whole, tmp_path, capsys, caplog):
    """And a detector, too, goes on to the same bits."""
    shutil.copytree(whole[0], tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "20" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:50])
    assert program("main")(arguments(tmp_path / "run")) == 0
    assert "it is set aside as 20.broken and the one before it used" in caplog.text
    output = "".join(capsys.readouterr())
    assert "going on from step 15 of 20" in output
    assert "Traceback" not in output
    jax.tree.map(np.testing.assert_array_equal, saved(tmp_path / "run"), saved(whole[0]))


@pytest.mark.slow
def test_two_devices_train_as_one_does(whole, tmp_path):
    code, output = finish(start(tmp_path / "run", env=TWO_DEVICES))
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
        ({"data.val_length": None}, ("--data", str(ROOT / "tests")), "say its format before the path: voc:"),
        ({"mesh.data": "3"}, (), f"does not fit {jax.device_count()} device"),
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
    with pytest.raises(UserError) as raised:
        program("main")(arguments(tmp_path / "run", args, **changes))
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        ({}, {"optimzer.learning_rate": "1"}, "Did you mean 'optimizer.learning_rate'"),
        (
            TWO_DEVICES,
            {"batch": "3"},
            "batch=3 does not divide over 2 devices (mesh data×fsdp); use 2 or 4",
        ),
    ],
)
def test_a_mistake_ends_the_program_with_code_2(tmp_path, env, changes, message):
    code, output = finish(start(tmp_path / "run", env=env, **changes))
    assert code == 2
    assert output.splitlines()[-1].startswith("error: ")
    assert message in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_disk_that_is_full(tmp_path):
    # How Orbax joins arrays into files depends on time, so one array alone has to be above the limit of 256 kB.
    changes = {"experiment": "classify", "duration": "40 steps", "every.save": "5 steps", "model.width": "64"}
    code, output = finish(start(tmp_path / "run", before=("sh", "-c", 'ulimit -f 500; exec "$@"', "sh"), **changes))
    assert code == 0, output
    assert "could not save a checkpoint" in output
    assert "8 checkpoints could not be saved; the last one is of step 0" in output
    assert "Traceback" not in output
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"scores.json"}  # no unfinished step
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]


def test_a_workdir_of_another_experiment(whole):
    with pytest.raises(UserError, match=r"holds another experiment \(seed: 0 → 7\)"):
        program("main")(arguments(whole[0], seed="7"))


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
def test_the_other_variants_run_on_real_formats(tmp_path, variant, capsys, monkeypatch):
    monkeypatch.setitem(resnet.STAGES, 10, (1, 1, 1, 1))  # half of ResNet-18
    data = voc = voc_folder(tmp_path / "voc")
    settings = {"task.pre_nms_train": "50", "task.post_nms_train": "20", "task.samples": "16"}
    if variant == "coco":
        data = coco_folder(tmp_path / "coco", voc)
        settings = {"init_from": "", "input.workers": "0", "input.threads": "2"}
    settings |= {key: value for key, value in SMALL.items() if not key.startswith(("data", "task"))}
    settings["model.backbone.depth"] = "10"
    settings["duration"] = "2 steps"
    name = "coco" if variant == "coco" else "voc"
    command = ["--config", str(ROOT / f"experiments/detect.py:{variant}"), "--data", f"{name}:{data}"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    assert program("main")([*command, "--workdir", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 2
    assert result["eval_images"] == 3
    if variant == "bccd":
        capsys.readouterr()
        assert program("bench")([*command, "--rounds", "1"]) == 0
        timed = capsys.readouterr().out
        assert "train step" in timed and "images/s" in timed
