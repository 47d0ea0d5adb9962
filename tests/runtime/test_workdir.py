import json
import os
import pathlib
import resource

import jax
import pytest

from mapjax.data import skeletons
from mapjax.errors import UserError
from mapjax.runtime import log as logs
from mapjax.runtime import workdir
from mapjax.sharding import mesh as shard

CONFIG = {"batch": 16, "model": {"depth": 18}}


def trained(folder):
    (folder / "checkpoints" / "5").mkdir(parents=True)


def test_the_same_experiment_goes_on(tmp_path):
    folder = tmp_path / "a" / "run"
    workdir.open_for(folder, CONFIG, ("cat", "dog"))
    trained(folder)
    workdir.open_for(folder, CONFIG, ("cat", "dog"))
    assert json.loads((folder / "classes.json").read_text()) == ["cat", "dog"]


def test_what_a_run_knows_of_keypoints(tmp_path):
    known = skeletons.Points(("nose", "tail", "paw"), ((0, 1), (2, 1)))
    workdir.open_for(tmp_path, CONFIG, ("cat",), skeletons.written(known))
    assert skeletons.read(workdir.read_json(tmp_path / "keypoints.json"), "keypoints.json") == known
    for wrong in ([], {"names": ["a"], "skeleton": [[0, 1]]}, {"names": [1], "skeleton": []}, {"names": ["a"]}):
        with pytest.raises(UserError, match=r"keypoints\.json is damaged: it must hold 'names' and 'skeleton'"):
            skeletons.read(wrong, "keypoints.json")


def test_another_experiment_is_refused(tmp_path):
    workdir.open_for(tmp_path, CONFIG, ("cat",))
    trained(tmp_path)
    with pytest.raises(UserError, match=r"holds another experiment \(model.depth: 18 → 50\)"):
        workdir.open_for(tmp_path, {"batch": 16, "model": {"depth": 50}}, ("cat",))
    with pytest.raises(UserError, match="trained on other classes"):
        workdir.open_for(tmp_path, CONFIG, ("cat", "dog"))


def test_other_devices_are_no_other_experiment(tmp_path):
    placed = {"mesh": {"data": 2, "model": 2}, "rules": [], "input": {"threads": 2}, "eval_batch": 32}
    assert workdir.open_for(tmp_path, CONFIG | placed, ("cat",)) == ""
    trained(tmp_path)
    assert workdir.open_for(tmp_path, CONFIG | placed, ("cat",)) == ""
    other = {"mesh": {"data": -1, "model": 1}, "rules": [[".", []]], "input": {"threads": 8}, "eval_batch": 5}
    said = workdir.open_for(tmp_path, CONFIG | other, ("cat",))
    assert said == (
        "eval_batch: 32 → 5; input.threads: 2 → 8; mesh.data: 2 → -1; mesh.model: 2 → 1; rules: None → [['.', []]]"
    )
    workdir.move(tmp_path, CONFIG | other)
    assert workdir.read_json(tmp_path / "config.json") == CONFIG | other
    with pytest.raises(UserError, match=r"another experiment \(batch: 16 → 8\)"):
        workdir.open_for(tmp_path, CONFIG | placed | {"batch": 8}, ("cat",))
    with pytest.raises(UserError, match="trained on other classes"):
        workdir.open_for(tmp_path, CONFIG | placed, ("dog",))
    assert workdir.read_json(tmp_path / "config.json") == CONFIG | other, "a mistake changes nothing"


def test_data_at_another_place_is_no_other_experiment(tmp_path):
    """Its fingerprint tells whether it is the same."""
    (tmp_path / "new").mkdir()
    run = tmp_path / "run"
    old = CONFIG | {"data": {"name": "folder", "path": "old", "hold_out": 0.1}}
    old |= {"streams": {"more": {"data": {"name": "voc", "path": "gone"}}}}
    workdir.open_for(run, old, ("cat",))
    trained(run)
    new = {**old, "data": {**old["data"], "path": str(tmp_path / "new")}}
    new["streams"] = {"more": {"data": {"name": "voc", "path": str(tmp_path)}}}
    said = workdir.open_for(run, new, ("cat",))
    assert said == f"data.path: 'old' → '{tmp_path / 'new'}'; streams.more.data.path: 'gone' → '{tmp_path}'"
    assert workdir.read_json(run / "config.json") == old, "until the fingerprint is compared"
    for wrong in ({"path": "nowhere"}, {"hold_out": 0.2}, {"name": "table"}):
        with pytest.raises(UserError, match=f"another experiment .data.{next(iter(wrong))}"):
            workdir.open_for(run, {**old, "data": {**old["data"], **wrong}}, ("cat",))


def test_one_training_at_a_time_in_a_folder(tmp_path):
    held = rf"is being trained in by process {os.getpid()} of .*; wait for it"
    with workdir.alone(tmp_path / "run"), pytest.raises(UserError, match=held), workdir.alone(tmp_path / "run"):
        pass
    with workdir.alone(tmp_path / "run"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"), workdir.alone(tmp_path / "file"):
        pass


def test_a_mistake_may_be_mended_while_nothing_is_trained(tmp_path):
    workdir.open_for(tmp_path, CONFIG, ("cat",))
    workdir.open_for(tmp_path, {"batch": 8}, ("dog",))
    assert workdir.read_json(tmp_path / "config.json") == {"batch": 8}
    assert workdir.read_json(tmp_path / "classes.json") == ["dog"]


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        workdir.open_for(tmp_path / "file" / "run", CONFIG, ("cat",))
    with pytest.raises(UserError, match="cannot be made"):
        workdir.open_for(pathlib.Path("/proc/self"), CONFIG, ("cat",))


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"batch": 1')
    trained(tmp_path)
    with pytest.raises(UserError, match=r"config.json is damaged"):
        workdir.open_for(tmp_path, CONFIG, ("cat",))
    with pytest.raises(UserError, match=r"classes.json is missing"):
        workdir.read_json(tmp_path / "classes.json")


def test_the_environment_is_plain_json():
    mesh = shard.make_mesh({"data": -1})
    found = json.loads(json.dumps(workdir.environment(mesh)))
    assert found["versions"]["jax"] == jax.__version__
    assert found["mesh"]["data"] == jax.device_count()
    assert 10 < found["peak_rss_mb"] < 1e6


def test_the_history_survives_a_kill(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = logs.Log(tmp_path)
    for step in (10, 20, 30):
        log.record("train", step, {"loss": 1.0 / step})
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "ste')
    assert [line["step"] for line in logs.read(path)] == [10, 20, 30]
    logs.Log(tmp_path, start=20).close()  # goes on from the checkpoint of step 20
    assert [line["step"] for line in logs.read(path)] == [10, 20]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_full_disk_ends_the_log_not_the_training(tmp_path, capsys):
    log = logs.Log(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for step in range(20):
            log.record("train", step, {"loss": 0.1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.close()
    assert capsys.readouterr().out.count("metrics.jsonl cannot be written") == 1
    assert len(logs.read(tmp_path / "metrics.jsonl")) >= 1


def test_brackets_in_names_are_printed_as_they_are(capsys):
    logs.Log(None).say("runs/x[/y] data/[old]/img.jpg")
    assert capsys.readouterr().out == "runs/x[/y] data/[old]/img.jpg\n"


def test_peak_memory_of_devices(monkeypatch):
    """A CPU does not say; of several devices the fullest counts."""
    assert workdir.peak_device_mb() is None

    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    monkeypatch.setattr(workdir.jax, "local_devices", lambda: [Device(2**20), Device(3 * 2**20)])
    assert workdir.peak_device_mb() == 3.0
