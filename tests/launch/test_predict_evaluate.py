"""launch/predict.py and launch/evaluate.py on a fake run that finds white rectangles."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from fakes import CONFIG
from programs import program

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.runs import trained
from mapjax.task import Task

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"


def whole_image(prediction, batch):
    """One detection of class 1 an image: all of it, in original pixels."""
    height, width = batch["size"][:, 0], batch["size"][:, 1]
    box = jnp.stack([0 * width, 0 * width, width, height], 1)[:, None].astype(jnp.float32)
    ones = jnp.ones(box.shape[:2])
    return {"boxes": box, "scores": 0.75 * ones, "classes": ones.astype(jnp.int32), "valid": ones > 0}


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A run's folder whose task is fake."""

    def load(folder, *, which, overrides=None, trusted=False):
        assert not overrides
        task = Task("boxes", None, None, None, lambda *_: {}, whole_image, ("precision",))  # type: ignore[arg-type]
        return trained.Loaded(configs.from_dict(CONFIG), tuple("0123456789"), task, {"params": {}, "stats": {}}, 7)

    monkeypatch.setattr(trained, "load", load)
    return tmp_path / "run"


def test_predict(workdir, tmp_path, capsys):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for n, name in enumerate(("a.png", "a.bmp", "sub/b.png")):
        PIL.Image.fromarray(np.zeros((30 + n, 50, 3), np.uint8)).save(images / name)
    (images / "broken.jpg").write_bytes(b"\xff\xd8 no")
    out = images / "out"
    for _ in range(2):  # the drawings of the first time are no input of the second
        arguments = ["--workdir", str(workdir), "--images", str(images), "--out", str(out), "--score", "0.7"]
        assert program("predict")(arguments) == 0
    said = capsys.readouterr()
    assert (
        f"3 image(s) answered in {out}, 3 finding(s) from a score of 0.7 on" in said.out
        and "a.png: 1\n" in said.out
        and "broken.jpg" in said.err
    )
    rows = json.loads((out / "predictions.json").read_text())
    assert [row["drawing"] for row in rows] == ["a.jpg", "a-2.jpg", "sub/b.jpg"]
    assert [row["boxes"] for row in rows] == [[[0, 0, 50, row["height"]]] for row in rows]
    assert rows[0]["names"] == ["1"] and (out / "sub" / "b.jpg").exists()


def test_answers_as_labels(workdir, tmp_path):
    PIL.Image.new("RGB", (50, 30)).save(tmp_path / "a.png")
    for form, name in (("yolo", "labels/a.txt"), ("coco", "coco.json"), ("voc", "Annotations/a.xml")):
        out = tmp_path / form
        arguments = [
            "--workdir",
            str(workdir),
            "--images",
            str(tmp_path / "a.png"),
            "--out",
            str(out),
            "--format",
            form,
        ]
        assert program("predict")(arguments) == 0
        assert (out / name).exists() and (out / "predictions.json").exists()
    assert (tmp_path / "yolo/labels/a.txt").read_text() == "1 0.5 0.5 1 1\n"
    with pytest.raises(UserError, match="--format 'csv' is not written"):
        program("predict")([*arguments[:-1], "csv"])


def test_predict_without_any_image(workdir, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no")
    arguments = ["--workdir", str(workdir), "--images", str(tmp_path / "broken.jpg"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"none of the 1 image\(s\) can be read"):
        program("predict")(arguments)


def test_evaluate(workdir, capsys):
    assert program("evaluate")(["--workdir", str(workdir)]) == 0
    out = workdir / "evaluation-val"
    result = json.loads((out / "result.json").read_text())
    assert result["eval_images"] == 3 and result["checkpoint"] == 7 and "AP50/1" in result["metrics"]
    assert len(json.loads((out / "predictions.json").read_text())) == 3
    assert (out / "report.html").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "AP50" in said and "threshold" in said and "AP50, if mended" in said and "badly placed" in said
    errors = json.loads((out / "errors.json").read_text())
    assert errors["numbers"].keys() == errors["gains"].keys() and "missed" in errors["numbers"]


def test_predict_takes_the_thresholds_that_the_run_has_found(workdir, tmp_path, capsys):
    PIL.Image.new("RGB", (50, 30)).save(tmp_path / "a.png")
    ask = ["--workdir", str(workdir), "--images", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert program("predict")(ask) == 0
    said = capsys.readouterr().out
    assert f"{workdir} has no score thresholds for the checkpoint of step 7" in said
    assert "1 finding(s) from a score of 0.5 on" in said
    for least, found in ((0.8, 0), (0.7, 1)):  # what is found has a score of 0.75
        scores = {f"threshold/{name}": -1.0 for name in "0123456789"} | {"threshold/1": least}
        workdir.mkdir(exist_ok=True)
        (workdir / "metrics.jsonl").write_text(json.dumps({"kind": "eval", "step": 7, **scores}) + "\n")
        assert program("predict")(ask) == program("predict")([*ask, "--score", "f1"]) == 0
        said = capsys.readouterr().out
        assert (
            said.count(f"{found} finding(s) from the score that is best for F1 of each class (0.50 to {least:.2f})")
            == 2
        )
    with pytest.raises(UserError, match=r"--score 1\.5 must be from 0 to 1"):
        program("predict")([*ask, "--score", "1.5"])
    with pytest.raises(UserError, match="--score 'best' is no threshold"):
        program("predict")([*ask, "--score", "best"])


def test_evaluate_where_the_mesh_of_the_run_does_not_fit(workdir, monkeypatch, capsys):
    monkeypatch.setitem(CONFIG, "mesh", {"data": 2, "fsdp": 1, "model": 8, "pipe": 1})
    assert program("evaluate")(["--workdir", str(workdir)]) == 0
    result = json.loads((workdir / "evaluation-val" / "result.json").read_text())
    assert result["mesh"] == {"data": jax.device_count(), "fsdp": 1, "model": 1, "pipe": 1}
    assert result["eval_images"] == 3
    assert "scoring with mesh.data=" in capsys.readouterr().out


def test_evaluate_on_what_is_not_there(workdir):
    with pytest.raises(UserError, match="split"):
        program("evaluate")(["--workdir", str(workdir), "--split", "none"])
    with pytest.raises(UserError, match="unknown argument '--splits'"):
        program("evaluate")(["--workdir", str(workdir), "--splits", "none"])
