"""What concerns a run as a whole: its splits, and values that cannot be."""

import pathlib

import cv2
import jax
import numpy as np
import pytest

from mapjax.config import load as configs
from mapjax.errors import UserError
from mapjax.plan import step
from mapjax.runs import networks, setup, sources
from mapjax.sharding import mesh

EXPERIMENT = "experiments/detect.py"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"eval_batch": -1}, "eval_batch=-1"),
        ({"accumulate": 3}, "batch=8 does not divide by accumulate=3"),
        ({"image_size": (100,)}, "must be height and width"),
        ({"image_size": (0, 64)}, "must be height and width"),
        ({"seed": -1}, "seed=-1"),
        ({"task": {"name": ""}}, "names no task"),
    ],
)
def test_values_that_cannot_be(overrides, message):
    """A program may have set them since the config was read."""
    config = configs.load(EXPERIMENT)
    config.update(overrides)
    with pytest.raises(UserError, match=message):
        setup.require_sound(config, mesh.make_mesh({"data": -1}))


def voc(root: pathlib.Path, splits: dict[str, list[str]]) -> str:
    """A VOC folder of twelve 1×1 images with one box each."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(12):
        cv2.imwrite(str(root / "JPEGImages" / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
        xml = f"<annotation><object><name>cat</name>{box}</object></annotation>"
        (root / "Annotations" / f"{number}.xml").write_text(xml)
    for name, stems in splits.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems))
    return f"voc:{root}"


FIRST, SECOND, THIRD = ([str(n) for n in range(4 * k, 4 * k + 4)] for k in range(3))


@pytest.mark.parametrize(
    ("splits", "names", "lengths"),
    [
        ({"trainval": FIRST + SECOND, "train": FIRST, "val": SECOND, "test": THIRD}, ("trainval", "test"), (8, 4)),
        ({"trainval": FIRST + SECOND, "train": FIRST, "val": SECOND}, ("train", "val"), (4, 4)),
        ({"train": FIRST + SECOND, "test": THIRD}, ("train", "val"), (7, 1)),
        ({}, ("train", "val"), (11, 1)),
    ],
)
def test_the_first_pair_of_splits_that_is_there(tmp_path, splits, names, lengths):
    config = configs.load(EXPERIMENT + ":bccd", data=voc(tmp_path / "data", splits))
    config, seen, held_out = sources.open_sources(config)
    assert (config.splits.train, config.splits.eval) == names == (seen.split, held_out.split)
    assert (len(seen.records), len(held_out.records)) == lengths
    assert not {r["file"] for r in seen.records} & {r["file"] for r in held_out.records}


def test_splits_by_name(tmp_path):
    data = voc(tmp_path / "data", {"a": FIRST, "b": SECOND})
    overrides = {"splits.train": "a", "splits.eval": "b"}
    _, seen, held_out = sources.open_sources(configs.load(EXPERIMENT + ":bccd", overrides, data=data))
    assert (seen.split, held_out.split) == ("a", "b")
    with pytest.raises(UserError, match="no split 'c'; there is: a, b"):
        sources.open_sources(configs.load(EXPERIMENT, {"splits.eval": "c"}, data=data))


def test_data_without_what_the_task_learns_from():
    for name, needs in (("detect", "boxes"), ("segment", "label_map")):
        with pytest.raises(UserError, match=f"digits: its images have label, and task '.*' learns from {needs}"):
            sources.open_sources(configs.load(name, data="digits"))


TASK = """
from mapjax.tasks import classify

def make(*, model, classes, image_size, class_counts, weights):
    if len(weights) != len(classes):
        raise ValueError("a weight for each class")
    return classify.make(model=model, classes=classes, image_size=image_size, class_counts=class_counts)
"""


def test_what_a_task_needs_is_asked_before_its_classes_are_known(tmp_path, monkeypatch):
    package = tmp_path / "own_needs"
    package.mkdir()
    (package / "asked.py").write_text(TASK)
    (package / "told.py").write_text(TASK + "NEEDS = 'label'")
    monkeypatch.syspath_prepend(str(tmp_path))

    def asked(name, weights):
        node = {"name": f"own_needs.{name}", "weights": weights}
        return networks.needs(configs.from_dict(configs.to_dict(configs.load("classify")) | {"task": node}))

    assert asked("asked", (1, 2)) == asked("told", (1, 2, 3)) == "label"
    with pytest.raises(UserError, match=r"known yet \(a weight for each class\); write .* NEEDS = 'label'"):
        asked("asked", (1, 2, 3))


@pytest.mark.parametrize(("kind", "shown"), [("uniform", 6), ("over", 8), ("under", 4)])
def test_epochs_are_counted_once(tmp_path, kind, shown):
    """An epoch is what the sampler shows, for training and for a plan; 0.1's plan took the images there are."""
    for name, count in (("cat", 4), ("dog", 2)):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                cv2.imwrite(str(tmp_path / split / name / f"{k}.png"), np.full((8, 8, 3), 40 * k, np.uint8))
    overrides = {"sampling": kind, "batch": "2", "eval_batch": "2", "duration": "3 epochs", "model.width": "2"}
    config = configs.load("experiments/classify.py", overrides, data=f"folder:{tmp_path}")
    made = setup.build(config, mesh=mesh.make_mesh({"data": 1}, jax.devices()[:1]))
    assert (made.sampler.length, made.clock.examples, made.clock.total) == (shown, shown, 3 * shown // 2)
    assert made.task.needs == "label" and made.metric.best == "top1"
    assert [batch["image"].shape for batch in made.batches] == [(2, 8, 8, 3)]
    planned = step.planned(config, made.train, made.train, made.mesh)
    assert planned.clock == made.clock
    assert jax.tree.structure(planned.program.like) == jax.tree.structure(made.program.like)
