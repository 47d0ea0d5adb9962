"""Published weights as a loaded run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapjax import weights
from mapjax.cli import network
from mapjax.data import labelled
from mapjax.data.source import Source, labels_of
from mapjax.errors import UserError
from mapjax.report.section import Shown
from mapjax.runs import networks, pretrained, score
from mapjax.task import Task
from mapjax.weights import class_names, recipes

SMALL = "torchvision/mobilenet_v3_small.IMAGENET1K_V1"


@pytest.fixture(scope="module")
def tensors():
    recipe = recipes.find(SMALL)
    task = networks.make_task(pretrained.config_of(recipe), pretrained.channels_of(recipe))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.uint8)
    rng = np.random.default_rng(0)
    shapes = weights.shapes(jax.eval_shape(task.init, jax.random.key(0), {"image": image}))
    return {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}


def test_a_file_by_itself_or_after_a_name(tensors, tmp_path):
    file = tmp_path / "mine.safetensors"
    weights.save(file, tensors)
    for source in (str(file), f"{SMALL}:{file}"):
        loaded = pretrained.load(source, overrides={"task.views": "flip"})
        assert loaded.classes == class_names.read("imagenet").names and loaded.config.task.views == "flip"
        found = weights.to_torchvision(loaded.variables)
        assert set(found) == set(tensors)
        for name in ("classifier.3.weight", "features.1.block.0.0.weight", "features.12.1.running_var"):
            np.testing.assert_array_equal(found[name], tensors[name].astype(np.float32))


def test_tensors_of_another_network_are_refused(tensors, tmp_path, monkeypatch):
    file = tmp_path / "mine.safetensors"
    weights.save(file, tensors | {"classifier.3.bias": np.zeros(10, np.float32)})
    with pytest.raises(UserError, match=r"mobilenet_v3_small.DEFAULT:.*mine.safetensors: tensor 'classifier.3.bias'"):
        pretrained.load(f"torchvision/mobilenet_v3_small.DEFAULT:{file}")
    with pytest.raises(UserError, match="are not those of a published network"):
        pretrained.load(str(file))
    assert (
        pretrained.is_named(str(file)) and pretrained.is_named("torchvision/alexnet:x") and pretrained.is_named("a.pth")
    )
    assert not pretrained.is_named("runs/mine")
    with pytest.raises(UserError, match="names no file after the colon; write torchvision/alexnet:FILE"):
        pretrained.load("torchvision/alexnet:")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}/x.pth: there is no such weight file"):
        pretrained.load("torchvision/alexnet:~/x.pth")
    with pytest.raises(UserError, match="there is no such weight file"):
        pretrained.load(str(tmp_path / "absent.pth"))


def test_without_the_network_it_is_said_where_the_file_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("MAPJAX_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr("mapjax.weights.names.urllib.request.urlopen", _no_network)
    with pytest.raises(UserError, match=r"by hand and put it at .*kept/torchvision/resnet18-f37072fd\.pth"):
        pretrained.load("torchvision/resnet18")


def _no_network(*_, **__):
    raise OSError("no route")


def test_channels_that_stand_for_no_class_are_left_out():
    recipe = recipes.find("torchvision/fasterrcnn_resnet50_fpn")
    channels, known = pretrained.channels_of(recipe), class_names.read("coco")
    assert len(channels) == 90 and channels[:2] == ("person", "bicycle") and channels[89] == "toothbrush"
    assert sum(name.startswith("nothing") for name in channels) == 10 and channels[11] == "nothing (12)"
    places = np.array([known.names.index(name) if name in known.names else -1 for name in channels], np.int32)
    found = {
        "classes": jnp.array([[0, 11, 12, 0]], jnp.int32),
        "valid": jnp.array([[True, True, True, False]]),
        "boxes": jnp.ones((1, 4, 4)),
        "scores": jnp.ones((1, 4)),
    }
    task = Task("boxes", _never, _never, _never, _never, lambda prediction, batch: prediction, ())
    answer = pretrained.only(task, places).decode(found, {})
    assert answer["valid"].tolist() == [[True, False, True, False]]
    assert answer["classes"].tolist() == [[0, 0, known.names.index("stop sign"), 0]]
    assert answer["scores"].tolist() == [[1, 0, 1, 0]] and answer["boxes"][0, 1].tolist() == [0] * 4


def _never(*_):
    raise AssertionError


def test_category_ids_are_cocos():
    record = {"id": 0, "file": "x", "image": "x", "boxes": np.ones((2, 4), np.float32)}
    record |= {"classes": np.array([0, 1], np.int32)}
    source = Source("coco:x", "val", ("Dog", "person"), (18, 1), [record], {}, "0")
    known = class_names.read("coco")
    with pytest.raises(UserError, match=r"coco:x: 1 of its 2 classes .*'persn' \(did you mean 'person'"):
        score.with_classes(source._replace(classes=("dog", "persn")), known.names)
    found = score.with_classes(source, known.names)
    assert found.records[0]["classes"].tolist() == [known.names.index("dog"), 0]
    assert found.category_ids == tuple(map(int, known.ids))


def test_two_classes_of_the_data_that_are_one_to_the_run_are_joined():
    truth = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    images = np.zeros((4, 2, 2, 3), np.uint8)
    source = labelled.make_source("x", "val", ("n01440764", "tench"), list("abcd"), truth, images, dropped={})
    found = score.with_classes(source, class_names.read("imagenet").names)
    expected = truth.any(1)[:, None] & (np.arange(1000) == 0)
    np.testing.assert_array_equal(labels_of(found), expected)
    np.testing.assert_array_equal([record["labels"] for record in found.records], expected)


def test_what_is_shown_of_coco_has_category_ids():
    shown = Shown({"classes": [0, 79]}, np.zeros((1, 1, 3), np.uint8), 2, "")
    both = network.with_categories(lambda result: shown, class_names.read("coco").names)
    assert both("result").values == {"classes": [0, 79], "category_ids": [1, 90]}
    assert network.with_categories(both, ("cat", "dog")) is both


def test_averaged_weights_of_a_checkpoint_answer(tensors, tmp_path):
    file = tmp_path / "checkpoint.ckpt"
    both = {"model.": tensors, "model_ema.module.": {name: one + np.float16(1) for name, one in tensors.items()}}
    weights.save(tmp_path / "w.pth", {key + name: one for key, each in both.items() for name, one in each.items()})
    (tmp_path / "w.pth").rename(file)
    found = weights.to_torchvision(pretrained.load(str(file)).variables)
    expected = both["model_ema.module."]["classifier.3.bias"].astype(np.float32)
    np.testing.assert_array_equal(found["classifier.3.bias"], expected)
