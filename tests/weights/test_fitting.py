"""Which part of a file a network is filled from: by prefixes, wrapping keys, averages; what is told where none fits."""

import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from mapjax import weights
from mapjax.config import parts
from mapjax.errors import UserError
from mapjax.weights import files, fitting, stored, transfer

IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
NODE = {"name": "resnet", "depth": 18, "width": 0.0625}
DETECTOR = {"name": "faster_rcnn", "backbone": NODE, "channels": 4, "representation": 6, "pool": 3}
MODEL = parts.make("models", NODE, classes=5)
VARIABLES = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32), jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES)
)
WANTED = weights.shapes(VARIABLES)


def tensors(seed, prefix=""):
    rng = np.random.default_rng(seed)
    return {prefix + name: rng.normal(size=shape).astype(np.float32) for name, shape in WANTED.items()}


def filled(file):
    found = transfer.fit_in(file, VARIABLES, "file", heads=MODEL.heads)
    return weights.to_torchvision(found.variables), found


@pytest.mark.parametrize(
    "prefix",
    ["model.", "module.", "backbone.", "encoder.", "teacher.", "_orig_mod.", "net.", "model._orig_mod.module.", "a.b."],
)
def test_any_prefix_of_all_names_is_found(prefix):
    given = {f"{prefix}bn1.num_batches_tracked": np.array(7), **tensors(1, prefix)}
    for file in (given, stored.named([((name,), np.shape(one)) for name, one in given.items()], read_from(given))):
        found, told = filled(file)
        np.testing.assert_equal(found, tensors(1))
        assert not told.unused and not told.outside


def read_from(given):
    return lambda keys: (given[".".join(one)] for one in keys)


def checkpoint(tmp_path, sets, extension=".safetensors"):
    """Write state dicts, each under its keys, as one file."""
    path = tmp_path / f"w{extension}"
    files.write(path, {name: one for each in sets for name, one in each.items()})
    return path


def test_the_module_that_fits_is_taken_out_of_several_and_the_rest_is_told(tmp_path):
    others = {"head.mlp.0.weight": np.zeros((4, 4), np.float32), "criterion.\x1b[31mcentre": np.zeros(4, np.float32)}
    path = checkpoint(tmp_path, [tensors(1, "model.backbone."), others])
    found, told = filled(weights.index(str(path)))
    np.testing.assert_equal(found, tensors(1))
    assert list(told.outside) == sorted(others)
    console = Console(width=200)
    with console.capture() as said:
        console.print(transfer.table("file", told))
    assert re.search(r"elsewhere in the file, not used +│ 2 +│ criterion\.\\x1b\[31mcentre, head\.mlp", said.get())


@pytest.mark.parametrize(
    ("sets", "taken", "beside"),
    [
        (("model", "model_ema.module"), 1, "'model'"),
        (("teacher.backbone", "student.module.backbone"), 0, "'student.module.backbone'"),
        (("state_dict", "state_dict_ema"), 1, "'state_dict'"),
        (("net", "params"), 0, "'params'"),
    ],
)
def test_averaged_weights_are_preferred_and_it_is_said(sets, taken, beside, tmp_path, caplog):
    path = checkpoint(tmp_path, [tensors(i, f"{name}.") for i, name in enumerate(sets)])
    with caplog.at_level(logging.WARNING):
        found, told = filled(weights.index(str(path)))
    np.testing.assert_equal(found, tensors(taken))
    assert len(told.outside) == len(WANTED)
    averaged = "" if "net" in sets else r" \(averaged over the training\)"
    assert re.search(rf"weights under '{sets[taken]}'{averaged}, and not those under {beside}$", caplog.text.strip())


def test_averages_without_statistics_are_not_taken_and_that_is_said(tmp_path, caplog):
    some = {name: one for name, one in tensors(1, "ema.").items() if "running" not in name}
    path = checkpoint(tmp_path, [tensors(0, "model."), some])
    with caplog.at_level(logging.WARNING):
        found, _ = filled(weights.index(str(path)))
    np.testing.assert_equal(found, tensors(0))
    assert "weights under 'model', and not those under 'ema'" in caplog.text


def test_a_wrapped_backbone_finds_its_place_in_a_detector():
    model = parts.make("models", DETECTOR, classes=3)
    ours = jax.tree.map(lambda leaf: np.zeros(leaf.shape), jax.eval_shape(model.init, jax.random.key(0), IMAGES))
    file = stored.held({**tensors(1, "teacher.backbone."), **tensors(2, "student.backbone.")})
    found = transfer.fit_in(file, ours, "file", heads=model.heads)
    np.testing.assert_equal(
        weights.to_torchvision(found.variables)["backbone.body.layer2.0.conv1.weight"],
        tensors(1)["layer2.0.conv1.weight"],
    )


def test_two_tensors_that_fit_by_chance_are_no_network():
    given = {f"other.blocks.0.{name}": tensors(1)[f"layer1.0.{name}"] for name in ("bn1.weight", "bn1.bias")}
    with pytest.raises(UserError, match=r"none of its 3 tensors belongs .* as 'other.* this network's as 'bn1\.bias"):
        filled(given | {"other.stem.weight": np.zeros((7, 7), np.float32)})


def test_what_is_missing_and_left_is_counted_with_near_names():
    given = {name.replace("layer4", "stage4"): one for name, one in tensors(1).items()}
    with pytest.raises(UserError, match=r"no tensor 'layer4\.0.*, nor for \d+ more, as 'layer4.*Did you mean 'stage4"):
        filled(given)
    with pytest.raises(UserError, match=r"no place, nor for 1 more, as 'fc\.y'; choose .* Did you mean 'fc\."):
        filled(tensors(1) | {"fc.x": np.zeros(1, np.float32), "fc.y": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"have no tensor 'layer4.*, nor for \d+ more, .*Did you mean 'stage4"):
        weights.from_torchvision(given, VARIABLES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one * np.float32(np.nan), r"5 of the 5 numbers in tensor 'fc\.bias' are NaN or infinite; take"),
        (lambda one: one.astype(np.float64) + 1e300, "5 of the 5 numbers"),
        (lambda one: one.astype(np.int8), r"tensor 'fc\.bias' is of int8, where a network has floating point"),
        (lambda one: one.astype(np.complex64), "is of complex64"),
        (lambda one: one > 0, "is of bool"),
    ],
)
def test_what_is_no_finite_number_is_refused(change, said):
    given = tensors(1)
    given["fc.bias"] = change(given["fc.bias"])
    with pytest.raises(UserError, match=rf"^init_from=file: .*{said}"):
        filled(given)


def test_only_what_may_fit_is_read():
    asked = []

    def read(names):
        asked.extend(names)
        return {name: given[name] for name in names}

    given = {**tensors(1, "model."), "optimizer.momentum": np.zeros((999, 999), np.float32)}
    fitting.best(stored.held(given)._replace(read=read), WANTED, "file")
    assert set(asked) == set(tensors(1, "model."))
