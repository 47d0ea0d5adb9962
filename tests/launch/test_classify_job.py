"""Classification as a user runs it: train, resume, transfer, evaluate, predict, probe; every variant; mistakes."""

import gzip
import json
import pathlib
import pickle
import shutil
import struct
import zipfile

import cv2
import jax
import numpy as np
import pytest
from programs import program
from sklearn.datasets import load_digits

from mapjax import weights
from mapjax.config import load as configs
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.backbones import resnet
from mapjax.runs import fit, trained
from mapjax.runtime import log as logs

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
    "model.width": "4",
    "batch": "16",
    "eval_batch": "50",
    "duration": "40 steps",
    "every.log": "10 steps",
    "every.save": "25 steps",
    "sampling": "over",
    "data.tail": "10",
    "progressive_sizes": "((0, (8, 8)), (0.5, (10, 10)))",
    "eval_size": "(10, 10)",
    "task.views": "flip",
    "task.mixup": "0.2",
    "task.cutmix": "1.0",
}
PLAIN = {key: value for key, value in SMALL.items() if key != "data.tail"}


def config_of(variant="", data=None, **changes):
    return configs.load(str(ROOT / "experiments" / "classify.py") + variant, changes, data=data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A short run on a long tail, with growing images and mixed ones."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    fit.fit(config_of(**SMALL), workdir)
    return workdir


def test_the_folder_holds_what_it_should(whole):
    names = {path.name for path in whole.iterdir()}
    assert names >= {"config.json", "predictions.json", "confusion.json", "result.json", "report.html", "checkpoints"}
    result = json.loads((whole / "result.json").read_text())
    assert result["steps"] == 40
    assert {"top1", "top5", "f1", "recall/3", "ece"} <= set(result["metrics"])
    assert result["eval_images"] == len(json.loads((whole / "predictions.json").read_text()))
    assert {"loss", "train_accuracy"} <= set(logs.read(whole / "metrics.jsonl")[0])
    assert "Most confused" in (whole / "report.html").read_text()


def test_it_goes_on_to_the_same_bits(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "40")
    (tmp_path / "run" / "result.json").unlink()
    fit.fit(config_of(**SMALL), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, trained.load(tmp_path / "run").variables, trained.load(whole).variables)


def test_evaluate_predict_and_probe(whole, tmp_path, capsys):
    assert program("evaluate")(["--workdir", str(whole), "--out", str(tmp_path / "scores")]) == 0
    again = json.loads((tmp_path / "scores" / "result.json").read_text())["metrics"]
    assert again["top1"] == json.loads((whole / "result.json").read_text())["metrics"]["top1"]
    photos = tmp_path / "images"
    photos.mkdir()
    for k in range(3):
        cv2.imwrite(str(photos / f"{k}.png"), (load_digits().images[k] * 15.9).astype(np.uint8))  # pyright: ignore
    assert program("predict")(["--workdir", str(whole), "--images", str(photos), "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [pathlib.Path(row["file"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert all(row["predicted"] in "0123456789" and 0 < row["probability"] <= 1 for row in rows)
    assert program("probe")(["--workdir", str(whole), "--layer", "pixels", "--components", "20"]) == 0
    found = json.loads((whole / "probe-pixels.json").read_text())
    assert found["accuracy"]["k-NN (5)"] > 0.8 and {"layer1", "pool", "logits"} <= set(found["layers"])
    with pytest.raises(UserError, match=r"no such layer\. Did you mean 'layer1'"):
        program("probe")(["--workdir", str(whole), "--layer", "layer11"])
    assert "% of the variance" in capsys.readouterr().out


def folder_of_images(root: pathlib.Path, classes=("cat", "dog"), side=40) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                cv2.imwrite(str(root / split / name / f"{k}.jpg"), rng.integers(0, 255, (side, side + k, 3), np.uint8))
    return root


def test_transfer_from_a_run_says_what_it_did(whole, tmp_path, capsys):
    data = folder_of_images(tmp_path / "data")
    changes = {**PLAIN, "duration": "2 steps", "init_from": str(whole), "splits.eval": "test", "batch": "8"}
    fit.fit(config_of(data=f"folder:{data}", **changes), tmp_path / "run")
    said = capsys.readouterr().out
    assert "another size, reinitialised" in said and "fc.bias, fc.weight" in said
    with pytest.raises(UserError, match="none of its 22 tensors belongs in this network"):
        fit.fit(config_of(data=f"folder:{data}", **changes | {"model.name": "resnet9"}), tmp_path / "other")


def idx_folder(root: pathlib.Path) -> pathlib.Path:
    root.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 20), ("t10k", 10)):
        photos = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        with gzip.open(root / f"{name}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4B3I", 0, 0, 8, 3, *photos.shape) + photos.tobytes())
        with gzip.open(root / f"{name}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4BI", 0, 0, 8, 1, count) + labels.tobytes())
    return root


@pytest.mark.parametrize(
    "variant", ["cifar10", "fashion", "finetune", "cifar10_finetune", "imagenet", "imagenet_modern", "vit_large"]
)
def test_every_variant_runs(tmp_path, variant, monkeypatch):
    monkeypatch.setitem(resnet.STAGES, 10, (1, 1, 1, 1))  # half of ResNet-18
    common = {"duration": "2 steps", "batch": "4", "eval_batch": "4"}
    if variant == "fashion":
        config = config_of(":fashion", **common, **{"data.path": str(idx_folder(tmp_path / "idx"))})
    elif variant == "cifar10":
        data = folder_of_images(tmp_path / "data", side=32)
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for file in sorted(data.rglob("*.jpg")):
                archive.write(file, file.relative_to(data))
        config = config_of(":cifar10", data=f"folder:{tmp_path / 'images.zip'}", **common)
    else:
        data = folder_of_images(tmp_path / "data")
        small = {"input.workers": "0", "input.threads": "2", "image_size": "(32, 32)", "splits.eval": "test"}
        if variant.endswith("finetune"):
            file = tmp_path / "weights.safetensors"
            node = {"name": "efficientnet", "variant": "lite0", "width": 0.25, "depth": 0.3}
            model = parts.make("models", node, classes=7)
            shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
            filled = jax.tree.map(lambda s: np.full(s.shape, 0.01, np.float32), shapes)
            weights.save(file, weights.to_torchvision(filled))
            small |= {"init_from": str(file), "model.width": "0.25", "model.depth": "0.3"}
        elif variant == "vit_large":
            small |= {"model.depth": "2", "model.width": "32", "model.heads": "2", "model.mlp": "64"}
        else:
            small |= {"model.depth": "10", "model.width": "0.125"} | (
                {"eval_size": "(40, 40)"} if variant == "imagenet_modern" else {}
            )
        config = config_of(f":{variant}", data=f"folder:{data}", **common, **small)
    result = fit.fit(config, tmp_path / "run")
    assert result["steps"] == 2 and result["eval_images"] in (8, 10)
    assert 0 <= result["metrics"]["top1"] <= 1


def test_several_labels(tmp_path):
    data = folder_of_images(tmp_path / "data")
    lines = ["path,labels,split"]
    for k, file in enumerate(sorted(data.rglob("*.jpg"))):
        names = [name for name, yes in (("furry", k % 2), ("big", k % 3)) if yes]
        lines.append(f"{file.relative_to(tmp_path)},{';'.join(names)},{'val' if k % 4 == 0 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    changes = {"duration": "2 steps", "batch": "4", "eval_batch": "4", "task.loss": "sigmoid", "model.width": "4"}
    result = fit.fit(config_of(data=f"table:{tmp_path / 'labels.csv'}", **changes), tmp_path / "run")
    assert {"mAP", "f1_micro", "AP/furry"} <= set(result["metrics"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"progressive_sizes": "((0.5, (8, 8)),)"}, "progressive_sizes="),
        ({"sampling": "ovr"}, "Did you mean 'over'"),
        ({"task.weighting": "inverted"}, "Did you mean 'inverse'"),
        ({"init_from": "nowhere.pth"}, "nowhere.pth"),
        ({"transform.augment.erase": "2"}, "erase=2"),
        ({"model.name": "tinny", "model.width": None}, "Did you mean 'tiny'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, changes, message):
    settings = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        fit.fit(config_of(**settings), tmp_path / "run")


def spoilt(root: pathlib.Path, how: str) -> pathlib.Path:
    """A folder of images with one thing wrong."""
    data = folder_of_images(root / "data")
    if how == "one class":
        for split in ("train", "test"):
            shutil.rmtree(data / split / "dog")
    elif how == "only in validation":
        (data / "test" / "emu").mkdir()
        shutil.copy(data / "test" / "cat" / "0.jpg", data / "test" / "emu")
    elif how == "no images":
        for file in data.rglob("*.jpg"):
            file.unlink()
    return data


@pytest.mark.parametrize(
    ("how", "message"),
    [("one class", "one class"), ("only in validation", "emu"), ("no images", "no image|no image|holds no")],
)
def test_data_that_cannot_train_is_one_sentence(tmp_path, how, message):
    data = spoilt(tmp_path, how)
    split = "val" if how == "no images" else "test"
    with pytest.raises(UserError, match=message):
        fit.fit(config_of(data=f"folder:{data}", **{**PLAIN, "splits.eval": split}), tmp_path / "run")


def test_unreadable_images_and_an_empty_class_folder_are_left_out_and_told(tmp_path, capsys):
    data = folder_of_images(tmp_path / "data")
    (data / "train" / "empty").mkdir()
    for file in (data / "train" / "cat" / "3.jpg", data / "test" / "dog" / "1.jpg"):
        file.write_bytes(file.read_bytes()[:200])
    changes = {"duration": "6 steps", "batch": "8", "eval_batch": "4", "splits.eval": "test", "model.width": "4"}
    result = fit.fit(config_of(data=f"folder:{data}", **changes), tmp_path / "run")
    assert result["eval_images"] == 7
    assert any("cat/3.jpg" in file for file in result["unreadable"])
    said = capsys.readouterr().out
    assert "empty" in said and "3.jpg" in said and "were replaced by others" in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("conv1.0.weight"), "has no tensor 'conv1.0.weight'"),
        (lambda t: t.update({"conv1.0.weight": np.zeros((3, 3, 3, 3), np.float32)}), "has shape"),
        (
            lambda t: t.update({"conv9.0.weight": np.zeros((3, 3, 3, 3), np.float32)}),
            "holds the tensor 'conv9.0.weight'",
        ),
    ],
)
def test_weights_that_do_not_fit(whole, tmp_path, spoil, message):
    tensors = dict(weights.to_torchvision(trained.load(whole).variables))
    spoil(tensors)
    weights.save(tmp_path / "spoilt.safetensors", tensors)
    changes = {**SMALL, "init_from": str(tmp_path / "spoilt.safetensors"), "duration": "1 steps"}
    with pytest.raises(UserError, match=message):
        fit.fit(config_of(**changes), tmp_path / "run")


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(("kind", "message"), [("pickle", "print"), ("cut", "cut short|not a whole|damaged|truncated")])
def test_weight_files_that_cannot_be_trusted(tmp_path, capsys, kind, message):
    file = tmp_path / "weights.pth"
    weights.save(file, {"conv1.0.weight": np.zeros((4, 3, 3, 3), np.float32)})
    if kind == "pickle":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"w": Evil()}))
            archive.writestr("archive/version", "3")
    else:
        file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(UserError, match=message):
        fit.fit(config_of(**{**SMALL, "init_from": str(file)}), tmp_path / "run")
    assert "executed" not in capsys.readouterr().out
