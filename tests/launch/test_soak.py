"""The soak and memory programs: their judgement, and (slow) a short run of each."""

import json
import pathlib
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest
from programs import module

from mapjax.data import images
from mapjax.data.formats import folder
from mapjax.errors import UserError
from mapjax.runtime import log as logs

ROOT = pathlib.Path(__file__).parents[2]


soak, memory = module("soak"), module("memory")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, text=True, capture_output=True, timeout=1500)


def test_the_memory_of_the_last_fifth_is_held_against_that_of_the_second():
    flat = [(step, 50.0 if step < 100 else 400.0) for step in range(0, 1001, 10)]
    assert memory.growth(flat) == {"early_mb": 400.0, "late_mb": 400.0, "growth": 0.0}
    leaking = [(step, 400.0 + step / 10) for step in range(0, 1001, 10)]
    found = memory.growth(leaking)
    assert found["early_mb"] == pytest.approx(430, abs=1) and found["late_mb"] == pytest.approx(490, abs=1)
    assert found["growth"] > memory.GROWTH
    assert "<svg" in memory.drawn(leaking)


def test_the_memory_of_a_process_is_what_the_kernel_says():
    hold = "x = bytearray(80 << 20); x[::4096] = b'1' * len(x[::4096]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert 80 < memory.resident_mb(process.pid) < 120
        process.communicate(b"\n")
    assert memory.resident_mb(2**22 + 1) == 0.0


def test_the_last_step_of_a_log_that_is_being_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert logs.last_step(path) == 0
    path.write_text("".join(json.dumps({"kind": "train", "step": step}) + "\n" for step in range(0, 50_000, 10)))
    with path.open("a") as file:
        file.write('{"kind": "tra')
    assert logs.last_step(path) == 49_990


def test_a_corrupt_image_keeps_its_size_and_the_data_its_fingerprint(tmp_path):
    for number in range(6):
        path = tmp_path / "train" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), 40 * number, np.uint8))
    before = folder.make(split="train", path=str(tmp_path))
    found = soak.inject("corrupt image", object.__new__(soak.Job), tmp_path, 1.0, random.Random(0))
    path = tmp_path / found["file"]
    with pytest.raises(UserError, match="read"):
        images.read(path)
    assert folder.make(split="train", path=str(tmp_path)).fingerprint == before.fingerprint


def test_one_wrong_run_of_many_makes_the_verdict_wrong():
    right = {"steps": 300, "same_bits": True, "lost_accuracy": 0.0, "unreadable_are_corrupt": True}
    right["faults"] = [{"kind": "SIGTERM", "ended_s": 2.0}]
    names = ("same data", "lost data", "same data 2", "lost data 2")
    assert all(soak.verdict(dict.fromkeys(names, right), 300).values())
    for wrong, where, check in [
        ({"steps": 299}, "lost data 2", "finished"),
        ({"same_bits": False}, "same data 2", "same data: same bits"),
        ({"lost_accuracy": 0.1}, "lost data 2", "lost data: as accurate"),
        ({"unreadable_are_corrupt": False}, "lost data", "lost data: what could not be read is told"),
        ({"faults": [{"kind": "SIGTERM", "ended_s": 31.0}]}, "same data 2", "SIGTERM: saved in time"),
    ]:
        found = soak.verdict({name: right | wrong if name == where else right for name in names}, 300)
        assert [name for name, good in found.items() if not good] == [check]
    found = soak.verdict({name: right | {"same_bits": "same" in name} for name in names}, 300)
    assert all(found.values())  # runs that lost data may end with other bits


@pytest.mark.parametrize("name", ["soak", "memory"])
def test_a_folder_that_is_there_is_not_written_into(tmp_path, name):
    with pytest.raises(UserError, match="name a new folder"):
        module(name).main(["--workdir", str(tmp_path)])


@pytest.mark.process
@pytest.mark.slow
def test_a_short_soak(tmp_path):
    done = run("launch/soak.py", "--minutes", "2", "--every", "15", "--workdir", str(tmp_path / "soak"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert len(found["runs"]["same data"]["faults"]) >= 1
    assert all(found["checks"].values())


@pytest.mark.process
@pytest.mark.slow
def test_the_memory_is_flat(tmp_path):
    done = run("launch/memory.py", "--workdir", str(tmp_path / "memory"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "memory" / "memory.json").read_text())
    assert found["samples"][-1][0] > 9000
