import json

import jax
import pytest

from mapjax import log as logs
from mapjax import shard, workdir
from mapjax.errors import UserError

CONFIG = {"batch": 16, "model": {"depth": 18}}


def test_the_same_experiment_goes_on(tmp_path):
    folder = tmp_path / "a" / "run"
    assert not workdir.open_for(folder, CONFIG, ("cat", "dog"))
    assert workdir.open_for(folder, CONFIG, ("cat", "dog"))
    assert json.loads((folder / "classes.json").read_text()) == ["cat", "dog"]


def test_another_experiment_is_refused(tmp_path):
    workdir.open_for(tmp_path, CONFIG, ("cat",))
    with pytest.raises(UserError, match=r"holds another experiment \(model.depth: 18 → 50\)"):
        workdir.open_for(tmp_path, {"batch": 16, "model": {"depth": 50}}, ("cat",))
    with pytest.raises(UserError, match="trained on other classes"):
        workdir.open_for(tmp_path, CONFIG, ("cat", "dog"))


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        workdir.open_for(tmp_path / "file" / "run", CONFIG, ("cat",))


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"batch": 1')
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
