"""import mapjax: load, fit, predict and evaluate, as a script or a notebook calls them."""

import base64
import dataclasses
import inspect
import json
import re
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import CONFIG

import mapjax
from mapjax.config import load as configs
from mapjax.data.formats import digits
from mapjax.report import overlay
from mapjax.runs import api, trained
from mapjax.task import Task

SMALL = {"duration": "4 steps", "batch": 16, "eval_batch": 180, "model.width": 4, "every.log": "2 steps"}
PHOTO = np.full((24, 48, 3), 90, np.uint8)


def whole_image(prediction, batch):
    """Two detections an image: all of it as class 1, and at 0.6 its left half as class 2."""
    height, width = batch["size"][:, 0], batch["size"][:, 1]
    boxes = jnp.stack([jnp.stack([0 * width, 0 * width, part, height], 1) for part in (width / 2, width)], 1)
    scores = jnp.tile(jnp.array([0.6, 0.75]), (len(height), 1))
    classes = jnp.tile(jnp.array([2, 1], jnp.int32), (len(height), 1))
    return {"boxes": boxes.astype(jnp.float32), "scores": scores, "classes": classes, "valid": scores > 0}


def left_and_right(prediction, batch):
    """The left half of the frame is class 0, the right one class 1."""
    right = jnp.broadcast_to(jnp.arange(32) >= 16, (len(batch["size"]), 32, 32))
    logits = jnp.stack([1.0 - right, 1.0 * right], -1)
    return {"map_logits": logits, "matrix": batch["matrix"]}


def fake(monkeypatch, decode, metrics=("precision",)):
    """A run whose network is fake: it answers by `decode` alone."""

    def load(folder, *, which, overrides=None, trusted=False):
        assert (which, overrides) == ("best", {})
        task = Task("boxes", None, None, None, lambda variables, batch, key: {}, decode, metrics)  # type: ignore
        return trained.Loaded(configs.from_dict(CONFIG), tuple("0123456789"), task, {"params": {}, "stats": {}}, 7)

    monkeypatch.setattr(trained, "load", load)
    return mapjax.load("runs/fake")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four steps on the embedded digits, by the quick compiler."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield mapjax.fit("classify", workdir=tmp_path_factory.mktemp("api") / "run", **SMALL)
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_detector_finds_boxes_in_pixels_of_the_image(monkeypatch, tmp_path):
    found = fake(monkeypatch, whole_image).predict(PHOTO)
    assert found.names == ["1", "2"] and found.classes.tolist() == [1, 2]
    assert found.boxes.tolist() == [[0, 0, 48, 24], [0, 0, 24, 24]]
    assert found.scores == pytest.approx([0.75, 0.6])
    assert found.label is found.label_map is found.probabilities is None
    assert found.drawing.shape == PHOTO.shape and (found.drawing != PHOTO).any()
    assert repr(found) == "Found(array, 48×24: 1, 2)"


def test_images_are_paths_folders_arrays_and_lists_of_them(monkeypatch, tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), PHOTO)
    run = fake(monkeypatch, whole_image)
    one = run.predict(tmp_path / "a.png", score=0.7, enlarge=True)
    assert one.names == ["1"] and one.drawing.shape == (96, 192, 3) and one.image.shape == PHOTO.shape
    files = [found.file for found in run.predict([str(tmp_path / "b.png"), PHOTO, tmp_path])]
    assert files == [str(tmp_path / "b.png"), "array", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert [found.file for found in mapjax.predict("runs/fake", str(tmp_path))] == files[2:]
    with pytest.raises(mapjax.UserError, match=r"nowhere\.png: there is no such image"):
        run.predict([PHOTO, "nowhere.png"])
    (tmp_path / "c.png").write_bytes(b"no")
    with pytest.raises(mapjax.UserError, match=r"c\.png"):
        run.predict(tmp_path)
    with pytest.raises(mapjax.UserError, match=r"score=2.0 must be from 0 to 1"):
        run.predict(PHOTO, score=2.0)


def test_a_run_answers_by_its_own_thresholds(monkeypatch, tmp_path):
    run = dataclasses.replace(fake(monkeypatch, whole_image), folder=tmp_path)
    assert run.thresholds == {} and run.predict(PHOTO).names == ["1", "2"]
    scores = {f"threshold/{name}": 0.65 if name == "2" else -1.0 for name in run.classes}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "eval", "step": 7, **scores}) + "\n")
    assert run.thresholds["2"] == 0.65 and list(run.thresholds) == list(run.classes)
    assert run.predict(PHOTO).names == mapjax.predict(run, PHOTO, score="f1").names == ["1"]
    assert run.predict(PHOTO, score=0.5).names == ["1", "2"]
    with pytest.raises(mapjax.UserError, match="other classes than the run"):
        dataclasses.replace(run, classes=("a", *run.classes[1:])).predict(PHOTO)


def test_a_notebook_shows_the_drawing(monkeypatch):
    found = fake(monkeypatch, whole_image).predict(PHOTO)._replace(said="2 <b>")
    shown = cv2.imdecode(np.frombuffer(found._repr_png_(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(shown, found.drawing)
    page = found._repr_html_()
    assert base64.b64encode(found._repr_png_()).decode() in page
    assert "array, 48×24: 2 &lt;b&gt;" in page and "<b>" not in page


def test_a_segmenter_gives_the_class_of_every_pixel(monkeypatch):
    found = fake(monkeypatch, left_and_right, metrics=("iou",)).predict(PHOTO)
    np.testing.assert_array_equal(found.label_map, np.tile(np.arange(48) >= 24, (24, 1)))
    assert found.names == ["0", "1"] and found.boxes is None
    start = (found.drawing.shape[1] - 48) // 2  # the drawing is wide enough for names below it
    np.testing.assert_array_equal(found.drawing[:24, start : start + 48], overlay.over(PHOTO, found.label_map))


def test_scores_of_a_run(monkeypatch):
    metrics = fake(monkeypatch, whole_image).evaluate()
    assert {"AP", "AP50", "AP/1"} <= set(metrics) and all(-1 <= value <= 1 for value in metrics.values())
    with pytest.raises(mapjax.UserError, match="split"):
        mapjax.evaluate("runs/fake", split="none")


def test_a_classifier_is_trained_loaded_and_asked(run):
    assert run.step == 4 and run.classes == tuple("0123456789")
    assert run.config.batch == 16 and run.config.duration == "4 steps"
    record = digits.make(split="val").records[3]
    found = run.predict(record["image"], score=0.0)
    assert found.probabilities.shape == (10,) and found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert found.label == run.classes[found.probabilities.argmax()] == found.names[0]
    assert sorted(found.names) == list("0123456789")
    assert re.fullmatch(r"Trained\(folder=.*, step=4, classes=\('0', .*'9'\)\)", repr(run))


def test_a_run_is_scored_as_it_was_at_its_end(run):
    written = trained.workdir.read_json(run.folder / "result.json")["metrics"]
    metrics = mapjax.evaluate(run)
    assert metrics == pytest.approx(written, abs=1e-6)
    again = mapjax.load(run.folder, checkpoint=4, **{"task.views": "flip"})
    assert again.config.task.views == "flip" and again.evaluate().keys() == metrics.keys()


def test_a_finished_run_is_not_trained_again(run):
    config = mapjax.load(run.folder).config
    before = (run.folder / "metrics.jsonl").read_text()
    assert mapjax.fit(config, workdir=run.folder).step == 4
    after = (run.folder / "metrics.jsonl").read_text()
    assert after.startswith(before) and after.count('"kind": "train"') == before.count('"kind": "train"')
    with pytest.raises(mapjax.UserError, match=r"holds another experiment.*batch: 16 → 8"):
        mapjax.fit(config, workdir=run.folder, batch=8)


def test_mistakes_are_sentences(tmp_path, run):
    with pytest.raises(mapjax.UserError, match=r"Did you mean 'classify'"):
        mapjax.fit("clasify", workdir=tmp_path)
    with pytest.raises(mapjax.UserError, match=r"Did you mean 'optimizer.learning_rate'"):
        mapjax.fit("classify", workdir=tmp_path, learning_rat=1)
    with pytest.raises(mapjax.UserError, match=r"is it|is missing"):
        mapjax.load(tmp_path / "nowhere")
    with pytest.raises(mapjax.UserError, match=r"holds 4; or say last or best"):
        mapjax.load(run.folder, checkpoint=3)


def test_what_is_no_run_image_or_config_is_told(run, tmp_path):
    # As they are called without the checks of types that tests have.
    load, fit, predict = (inspect.unwrap(one) for one in (api.load, api.fit, api.Trained.predict))
    wrong = [
        (lambda: load(5), "5 is no run; name its folder"),
        (lambda: mapjax.load(run.folder, checkpoint="²"), "holds 4; or say last or best"),
        (lambda: predict(run, None), "None is no image"),
        (lambda: predict(run, [[PHOTO]]), "is no image; give a path, an array"),
        (lambda: predict(run, PHOTO, score="x"), "score='x' is no threshold; give a number from 0 to 1, f1"),
        (lambda: fit(5), "config=5 must be the name of one"),
        (lambda: mapjax.fit({"modle": {}}), "there is no key 'modle'. Did you mean 'model'"),
        (lambda: mapjax.fit({"batch": np.int64(4)}), "the config names no data"),
        (lambda: mapjax.fit("classify", init_from=tmp_path / "no.npz"), r"/no\.npz: there is no such weight file"),
    ]
    for call, message in wrong:
        with pytest.raises(mapjax.UserError, match=message):
            call()
    text = api._as_text({"ema": np.float64(0.5), "eval_size": (np.int64(8), 8), "data.path": tmp_path})
    assert text == {"ema": "0.5", "eval_size": "(8, 8)", "data.path": str(tmp_path)}


def test_another_network_than_was_trained_is_told(run, tmp_path):
    for overrides in ({"model.width": 5}, {"model": "{'name': 'resnet', 'depth': 18}"}):
        with pytest.raises(mapjax.UserError, match=r"params/.* in the checkpoint, and by the config and classes\.json"):
            mapjax.load(run.folder, **overrides)
    for key, value in (("eval_batch", 0), ("dtype", "float99"), ("input.threads", -2), ("eval_size", (8,))):
        with pytest.raises(mapjax.UserError, match=f"--config.{key}=.* must be"):
            mapjax.load(run.folder, **{key: value})
    shutil.copytree(run.folder, tmp_path / "copy")
    for classes, message in (
        ('["a", "b"]', r"\(10,\) in the checkpoint, and by the config .* shape \(2,\)"),
        ('"x"', "is damaged"),
    ):
        (tmp_path / "copy" / "classes.json").write_text(classes)
        with pytest.raises(mapjax.UserError, match=message):
            mapjax.load(tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text('"x"')
    with pytest.raises(mapjax.UserError, match=r"config\.json is no config of a run"):
        mapjax.load(tmp_path / "copy")


@pytest.mark.parametrize("metric", ["iou", "precision"])
def test_the_metric_of_another_task_is_told(run, metric):
    with pytest.raises(mapjax.UserError, match=r"model='tiny' and task='classify', metrics=.* do not go together"):
        mapjax.load(run.folder, metrics=(metric,)).evaluate()


def test_what_the_package_exports():
    assert set(mapjax.__all__) <= set(dir(mapjax))
    for name in mapjax.__all__:
        found = getattr(mapjax, name)
        assert callable(found) and found.__name__ == name
        if found.__module__ == "mapjax.runs.api" and name not in ("Found", "Trained"):
            assert "Example:" in found.__doc__
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        mapjax.fitt  # noqa: B018
