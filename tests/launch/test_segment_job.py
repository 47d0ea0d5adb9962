"""Semantic segmentation as a user runs it: train, resume, evaluate, predict; every variant; mistakes."""

import json
import pathlib
import shutil

import cv2
import jax
import numpy as np
import PIL.Image
import pytest
from programs import program

from mapjax import weights
from mapjax.config import load as configs
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.models.backbones import resnet
from mapjax.report import overlay
from mapjax.runs import fit, trained
from mapjax.runtime import log as logs
from mapjax.stages import VOID

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parents[2]
TINY = {
    "model": "{'name': 'unet', 'width': 4, 'depth': 2}",
    "image_size": "(24, 32)",
    "batch": "4",
    "eval_batch": "3",
    "duration": "60 steps",
    "every.log": "20 steps",
    "every.save": "30 steps",
}


def config_of(variant="", data=None, **changes):
    return configs.load(str(ROOT / "experiments" / "segment.py") + variant, changes, data=data)


def folder_of_masks(root: pathlib.Path, size=(36, 50), counts=(8, 5)) -> pathlib.Path:
    """Images whose halves are dark and bright, with their masks; id 2 is not listed."""
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "val"), counts):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for k in range(count):
            labels = np.zeros(size, np.uint8)
            labels[:, rng.integers(15, 35) :] = 1
            image = np.clip(60 + 130 * labels[..., None] + rng.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)
            labels[:3] = 2
            cv2.imwrite(str(root / "images" / split / f"{k}.jpg"), image)
            cv2.imwrite(str(root / "masks" / split / f"{k}.png"), labels)
    (root / "classes.txt").write_text("dark\nbright\n")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of_masks(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    fit.fit(config_of(":camvid", f"masks:{data}", **TINY), workdir)
    return workdir


def test_the_folder_holds_what_it_should(whole):
    result = json.loads((whole / "result.json").read_text())
    assert {"mIoU", "pixel_accuracy", "boundary_f1", "IoU/dark", "dice/bright"} <= set(result["metrics"])
    assert result["metrics"]["mIoU"] > 0.6
    assert result["eval_images"] == 5
    rows = json.loads((whole / "predictions.json").read_text())
    assert [row["file"] for row in rows] == [f"images/val/{k}.jpg" for k in range(5)]
    matrix = np.array(json.loads((whole / "confusion.json").read_text())["matrix"])
    assert matrix.sum() == 5 * 33 * 50  # every original pixel with a class, once
    page = (whole / "report.html").read_text()
    assert "Worst images" in page and page.count('title="errors"') >= 5


def test_it_goes_on_to_the_same_bits(whole, data, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "60")
    (tmp_path / "run" / "result.json").unlink()
    fit.fit(config_of(":camvid", f"masks:{data}", **TINY), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, trained.load(tmp_path / "run").variables, trained.load(whole).variables)


def test_evaluate_gives_the_same_and_predict_writes_masks(whole, data, tmp_path):
    assert program("evaluate")(["--workdir", str(whole), "--out", str(tmp_path / "scores")]) == 0
    again = json.loads((tmp_path / "scores" / "result.json").read_text())["metrics"]
    assert again == json.loads((whole / "result.json").read_text())["metrics"]
    photos = str(data / "images" / "val")
    assert program("predict")(["--workdir", str(whole), "--images", photos, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(rows) == 5
    right = total = 0
    for row in rows:
        mask = PIL.Image.open(tmp_path / "out" / row["mask"])
        assert mask.mode == "P" and mask.size == (row["width"], row["height"]) == (50, 36)
        found = np.asarray(mask)
        drawing = cv2.imread(str(tmp_path / "out" / row["drawing"]))[:36, :, ::-1].astype(int)
        left = (drawing.shape[1] - 50) // 2  # a small image is in the middle above its shares
        drawing = drawing[:, left : left + 50]
        photo = cv2.imread(str(data / "images" / "val" / row["file"].rpartition("/")[2]))[..., ::-1]
        painted = overlay.over(np.ascontiguousarray(photo), found)
        assert np.abs(drawing - painted).mean() < 12 < np.abs(drawing - photo).mean()  # but for JPEG's losses
        truth = cv2.imread(str(data / "masks" / "val" / f"{pathlib.Path(row['file']).stem}.png"), cv2.IMREAD_UNCHANGED)
        right, total = right + (found == truth)[truth < 2].sum(), total + (truth < 2).sum()
        assert row["shares"] == pytest.approx(
            {n: (found == k).mean() for k, n in enumerate(("dark", "bright"))}, abs=1e-5
        )
    assert right / total == pytest.approx(again["pixel_accuracy"], abs=0.005)


def test_evaluate_with_other_values_of_the_config(whole, tmp_path):
    command = ["--workdir", str(whole), "--out", str(tmp_path / "scores"), "--config.task.scales=(0.75, 1.0)"]
    assert program("evaluate")(command) == 0
    found, own = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "scores", whole))
    assert 0 < abs(found["metrics"]["mIoU"] - own["metrics"]["mIoU"]) < 0.2
    with pytest.raises(UserError, match=r"--config\.task\.scale: there is no such key\. Did you mean"):
        program("evaluate")(["--workdir", str(whole), "--config.task.scale=(1.0,)"])


def test_predict_with_other_values_of_the_config(whole, data, tmp_path):
    """Windows at the images' own size, where the run saw them smaller."""
    command = ["--workdir", str(whole), "--images", str(data / "images" / "val"), "--out"]
    assert program("predict")([*command, str(tmp_path / "one")]) == 0
    changes = ["--config.eval_size=(36, 50)", "--config.task.window=(24, 32)", "--config.eval_batch=2"]
    assert program("predict")([*command, str(tmp_path / "other"), *changes]) == 0
    one, other = (json.loads((tmp_path / out / "predictions.json").read_text()) for out in ("one", "other"))
    differences = [abs(a["shares"]["dark"] - b["shares"]["dark"]) for a, b in zip(one, other)]
    assert 0 < max(differences) < 0.3
    with pytest.raises(UserError, match=r"--config\.task\.windw: there is no such key\. Did you mean"):
        program("predict")([*command, str(tmp_path / "none"), "--config.task.windw=(24, 32)"])


def small_lite0(file: pathlib.Path) -> pathlib.Path:
    model = parts.make("models", {"name": "efficientnet", "variant": "lite0", "width": 0.25, "depth": 0.3}, classes=7)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    weights.save(file, weights.to_torchvision(jax.tree.map(lambda s: np.full(s.shape, 0.01, np.float32), shapes)))
    return file


def folder_of_voc(root: pathlib.Path) -> pathlib.Path:
    """Two images a split with masks in VOC's own colours: half of them aeroplane, void between."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        names = [f"{split}{k}" for k in range(2)]
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
            labels = np.zeros((40, 60), np.uint8)
            labels[:, 30:], labels[:, 28:32] = 1, 255
            mask = PIL.Image.fromarray(labels)
            mask.putpalette([0, 0, 0, 128, 0, 0] + [0] * 759 + [224, 224, 192])
            mask.save(root / "SegmentationClass" / f"{name}.png")
    return root


def folder_of_panoptic(root: pathlib.Path) -> pathlib.Path:
    """Two images a split, each of two segments, as COCO has them."""
    rng = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        for folder in (split, f"annotations/panoptic_{split}"):
            (root / folder).mkdir(parents=True)
        images, annotations = [], []
        for k in range(2):
            cv2.imwrite(str(root / split / f"{k}.jpg"), rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
            ids = np.zeros((40, 60, 3), np.uint8)
            ids[:, :25, 2], ids[:, 25:, 2] = 7, 9  # R + 256 G + 65536 B; OpenCV writes BGR
            cv2.imwrite(str(root / "annotations" / f"panoptic_{split}" / f"{k}.png"), ids)
            images.append({"id": k + 1, "file_name": f"{k}.jpg", "height": 40, "width": 60})
            segments = [
                {"id": i, "category_id": c, "iscrowd": 0, "bbox": [0, 0, 9, 9], "area": 9}
                for i, c in ((7, 1), (9, 184))
            ]
            annotations.append({"image_id": k + 1, "file_name": f"{k}.png", "segments_info": segments})
        categories = [{"id": 1, "name": "person", "isthing": 1}, {"id": 184, "name": "tree", "isthing": 0}]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(whole))
    return root


@pytest.mark.parametrize(("format", "write", "counted"), [
    ("voc", folder_of_voc, 2 * 40 * 56), ("coco", folder_of_panoptic, 2 * 40 * 60),
])  # fmt: skip
def test_data_of_voc_and_coco(tmp_path, format, write, counted):
    """Every pixel with a class is counted once, in the original images."""
    changes = {**TINY, "eval_size": "(32, 32)", "duration": "2 steps", "batch": "2", "eval_batch": "2"}
    changes |= {"input.workers": "0", "input.threads": "2", "splits.eval": "val"}
    result = fit.fit(config_of(":camvid", f"{format}:{write(tmp_path / 'data')}", **changes), tmp_path / "run")
    assert result["steps"] == 2 and result["eval_images"] == 2
    confusion = json.loads((tmp_path / "run" / "confusion.json").read_text())
    assert np.array(confusion["matrix"]).sum() == counted
    assert {"voc": "aeroplane", "coco": "tree"}[format] in confusion["classes"]


@pytest.mark.parametrize("variant", ["", ":camvid_segnet", ":camvid_crf", ":finetune", ":voc"])
def test_every_variant_runs(tmp_path, data, whole, variant, capsys, monkeypatch):
    monkeypatch.setitem(resnet.STAGES, 10, (1, 1, 1, 1))  # half of ResNet-18
    changes = {"duration": "2 steps", "batch": "4", "eval_batch": "4", "image_size": "(24, 32)"}
    if variant == "":
        changes |= {"data.train_length": "40", "data.val_length": "6", "model.width": "4"}
        changes |= {"image_size": "(64, 64)", "model.backbone.depth": "10", "model.backbone.width": "0.125"}
    elif variant == ":camvid_segnet":
        changes |= {"model.width": "0.0625"}
    elif variant == ":camvid_crf":
        changes |= {"model.unary": TINY["model"], "init_from": str(whole)}
    elif variant == ":finetune":
        changes |= {"model.backbone.width": "0.25", "model.backbone.depth": "0.3", "data.void": "2"}
        changes |= {"init_from": str(small_lite0(tmp_path / "lite0.safetensors"))}
    else:
        changes |= {"input.workers": "0", "input.threads": "2", "eval_size": "(32, 32)", "init_from": ""}
        changes |= {"model.backbone.depth": "10", "model.backbone.width": "0.125", "data.void": "unlisted"}
    kind = {"": None, ":voc": f"masks:{data}"}.get(variant, f"masks:{data}")
    result = fit.fit(config_of(variant, kind, **changes), tmp_path / "run")
    assert result["steps"] == 2
    assert 0 <= result["metrics"]["mIoU"] <= 1
    if variant == ":camvid_crf":
        assert "unary.backbone" in capsys.readouterr().out


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Windows, mirrored and of several sizes, in evaluation, all losses in training; of four classes one never is."""
    data = folder_of_masks(tmp_path_factory.mktemp("views") / "data")
    (data / "classes.txt").write_text("dark\nbright\nsky\nsea\n")
    changes = {**TINY, "task.flip": "True", "task.scales": "(0.75, 1.0)", "task.window": "(16, 16)"}
    changes |= {"duration": "2 steps", "every.log": "1 steps", "eval_size": "(36, 50)"}
    changes |= {"task.losses.lovasz": "0.5", "task.losses.ohem": "0.5", "task.losses.focal": "1"}
    fit.fit(config_of(":camvid", f"masks:{data}", **changes), data.parent / "run")
    return data.parent / "run"


def test_views_in_evaluation(views):
    """They see every pixel of the images, once; the losses are told one by one."""
    result = json.loads((views / "result.json").read_text())
    assert 0 < result["metrics"]["mIoU"] < 1
    assert np.array(json.loads((views / "confusion.json").read_text())["matrix"]).sum() == 5 * 36 * 50
    logged = logs.read(views / "metrics.jsonl")[0]
    assert all(np.isfinite(logged[f"loss_{name}"]) for name in ("lovasz", "ohem", "focal"))


def test_a_class_that_never_occurs_is_left_out_of_the_mean_and_told(views):
    metrics = json.loads((views / "result.json").read_text())["metrics"]
    assert metrics["IoU/sea"] == -1
    assert metrics["mIoU"] == pytest.approx(np.mean([metrics[f"IoU/{name}"] for name in ("dark", "bright", "sky")]))
    assert "No pixel here has the class sea" in (views / "report.html").read_text()


def spoilt(root: pathlib.Path, how: str) -> pathlib.Path:
    data = folder_of_masks(root / "data")
    mask = data / "masks" / "train" / "0.png"
    if how == "size":
        cv2.imwrite(str(mask), np.zeros((36, 49), np.uint8))
    elif how == "missing":
        mask.unlink()
    elif how == "id":
        cv2.imwrite(str(mask), np.full((36, 50), 7, np.uint8))
    elif how == "split":
        shutil.rmtree(data / "masks" / "val")
    elif how == "void":
        for file in (data / "masks" / "train").iterdir():
            cv2.imwrite(str(file), np.full((36, 50), VOID, np.uint8))
    elif how == "colour":
        (data / "palette.txt").write_text("dark 10 10 10\nbright 200 200 200\n")
        for file in data.glob("masks/*/*.png"):
            cv2.imwrite(str(file), np.full((36, 50, 3), (1, 2, 3), np.uint8))
    return data


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("split", r"masks/val has no \.png files"),
        ("void", "not one pixel|no pixel"),
        ("colour", r"which .*palette\.txt does not have"),
    ],
)
def test_data_that_cannot_train_is_one_sentence(tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        fit.fit(config_of(":camvid", f"masks:{spoilt(tmp_path, how)}", **TINY), tmp_path / "run")


@pytest.mark.parametrize(
    ("how", "message"), [("size", "36×50"), ("missing", "without a mask|missing mask"), ("id", "id 7")]
)
def test_a_bad_mask_is_left_out_and_told(tmp_path, how, message, capsys):
    """With the program of the run above."""
    changes = dict(TINY)
    if how == "id":
        changes["data.void"] = "2"
    result = fit.fit(config_of(":camvid", f"masks:{spoilt(tmp_path, how)}", **changes), tmp_path / "run")
    assert result["steps"] == 60
    told = capsys.readouterr().out + json.dumps(result["unreadable"])
    assert any(part in told for part in message.split("|"))
