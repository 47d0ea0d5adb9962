"""launch/prepare.py as a user runs it: write, stop and go on, verify, train; mistakes."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from programs import program

from mapjax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
SCENES = "scenes:train_length=60,val_length=6"


def contents(out):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())}


@pytest.fixture
def images(tmp_path):
    for number in range(4):
        file = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((6, 5, 3), 60 * number, np.uint8)).save(file)
    (tmp_path / "data" / "a" / "notes.txt").touch()
    return f"folder:{tmp_path / 'data'}"


def test_it_writes_the_files_of_another_format(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--data", SCENES, "--out", str(out), "--format", "yolo", "--splits", "val"]
    assert program("prepare")(command) == 0
    assert f"read it with --data yolo:{out}" in capsys.readouterr().out
    assert len(list((out / "labels/val").iterdir())) == len(list((out / "images/val").iterdir())) == 6
    for more, words in ((["--shards", "3"], "are of shards"), ([], "holds files already")):
        with pytest.raises(UserError, match=words):
            program("prepare")([*command, *more])


def test_it_writes_tells_and_verifies(images, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--data", images, "--out", str(out), "--workers", "1", "--needs", "label"]
    assert program("prepare")(command) == 0
    told = capsys.readouterr().out
    assert "4 records of train, val → 2 shards" in told and "1 × not an image file" in told
    assert "2 shards written" in told and f"--data array_record:{out}" in told
    assert program("prepare")(command) == 0 and "nothing to do" in capsys.readouterr().out
    assert program("prepare")(["--out", str(out), "--verify"]) == 0
    assert "all checksums are right" in capsys.readouterr().out
    shard = out / "train-00000-of-00001.array_record"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match=r"train-00000-of-00001.* is damaged: its checksum is wrong; run the command"):
        program("prepare")(["--out", str(out), "--verify"])
    assert program("prepare")([*command, "--verify"]) == 0 and "1 shards written" in capsys.readouterr().out
    assert shard.read_bytes() == whole


def test_images_in_two_splits_are_told(tmp_path, capsys):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    for name in "abc":
        text = f"<annotation><object><name>cat</name>{box}</object></annotation>"
        (tmp_path / "voc" / "Annotations" / f"{name}.xml").write_text(text)
        PIL.Image.new("RGB", (5, 6)).save(tmp_path / "voc" / "JPEGImages" / f"{name}.png")
    for split, names in {"train": "a\nb", "val": "b\nc", "trainval": "a\nb\nc"}.items():
        (tmp_path / "voc" / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    program("prepare")(["--data", f"voc:{tmp_path / 'voc'}", "--out", str(tmp_path / "out"), "--workers", "1"])
    told = capsys.readouterr().out
    assert "warning: 1 of the 2 images of 'val' are in 'train' too" in told
    assert "trainval is left out" in told and "--splits trainval,test keeps it" in told


def test_mistakes_of_the_command(images, tmp_path):
    for words, message in {
        (): "--data FORMAT:PATH is missing",
        ("--verify",): r"has no index\.json",
        ("--data", "voc"): "say where the data is: voc:PATH",
        ("--data", "nothing:x"): "no format 'nothing'",
        ("--data", images, "--splits", "train,tst"): "no split 'tst'; there is: train",
        ("--data", images, "--shard", "2"): "unknown argument '--shard'",
    }.items():
        with pytest.raises(UserError, match=message):
            program("prepare")(["--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(tmp_path):
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), "--data", SCENES, "--shards", "6", "--shuffle", "1"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--out", str(whole), "--workers", "1"], check=True, env=environment, timeout=120)
    killed = subprocess.Popen([*command, "--out", str(out), "--workers", "2"], env=environment)
    deadline = time.monotonic() + 120
    while not list(out.glob("*.array_record")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(2)  # its workers notice and end
    left = contents(out)
    shards = [name for name in left if not name.endswith(".tmp")]
    assert shards and "index.json" not in left and all(left[name] == contents(whole)[name] for name in shards)
    time.sleep(1)
    assert contents(out) == left, "a worker outlived its parent"
    subprocess.run([*command, "--out", str(out), "--workers", "2"], check=True, env=environment, timeout=120)
    assert contents(out) == contents(whole)
