"""YOLOX' .pth files, from the names and sizes of its layers as its authors publish them (Ge et al. 2021)."""

import math

import jax
import numpy as np
import pytest

from mapjax import weights
from mapjax.runs import pretrained
from mapjax.weights import files


def layers(depth, width, depthwise):
    """Each convolution's name → inputs a group, outputs, kernel, whether normalization follows."""
    found, base, blocks = {}, int(64 * width), max(round(3 * depth), 1)

    def unit(name, inputs, outputs, kernel=1, split=False):
        if split:
            found[f"{name}.dconv"] = (1, inputs, kernel, True)
            found[f"{name}.pconv"] = (inputs, outputs, 1, True)
        else:
            found[name] = (inputs, outputs, kernel, True)

    def stage(name, inputs, outputs, count):
        half = outputs // 2
        unit(f"{name}.conv1", inputs, half)
        unit(f"{name}.conv2", inputs, half)
        unit(f"{name}.conv3", outputs, outputs)
        for i in range(count):
            unit(f"{name}.m.{i}.conv1", half, half)
            unit(f"{name}.m.{i}.conv2", half, half, 3, depthwise)

    dark = "backbone.backbone"
    unit(f"{dark}.stem.conv", 12, base, 3)
    for number, times in ((2, 2), (3, 4), (4, 8), (5, 16)):
        unit(f"{dark}.dark{number}.0", base * times // 2, base * times, 3, depthwise)
        count = blocks if number in (2, 5) else 3 * blocks
        stage(f"{dark}.dark{number}.{2 if number == 5 else 1}", base * times, base * times, count)
    unit(f"{dark}.dark5.1.conv1", base * 16, base * 8)
    unit(f"{dark}.dark5.1.conv2", base * 32, base * 16)
    low, middle, high = (int(channels * width) for channels in (256, 512, 1024))
    unit("backbone.lateral_conv0", high, middle)
    unit("backbone.reduce_conv1", middle, low)
    unit("backbone.bu_conv2", low, low, 3, depthwise)
    unit("backbone.bu_conv1", middle, middle, 3, depthwise)
    for name, inputs, outputs in (
        ("C3_p4", 2 * middle, middle),
        ("C3_p3", 2 * low, low),
        ("C3_n3", 2 * low, middle),
        ("C3_n4", 2 * middle, high),
    ):
        stage(f"backbone.{name}", inputs, outputs, blocks)
    for level, inputs in enumerate((low, middle, high)):
        unit(f"head.stems.{level}", inputs, low)
        for branch in ("cls_convs", "reg_convs"):
            for i in range(2):
                unit(f"head.{branch}.{level}.{i}", low, low, 3, depthwise)
        for answer, outputs in (("cls_preds", 80), ("reg_preds", 4), ("obj_preds", 1)):
            found[f"head.{answer}.{level}"] = (low, outputs, 1, False)
    return found


def drawn(size):
    """A state dict in which no two tensors are alike."""
    tensors, rng = {}, np.random.default_rng(0)
    for name, (inputs, outputs, kernel, normed) in layers(*size).items():
        inner = f"{name}.conv" if normed else name
        tensors[f"{inner}.weight"] = rng.normal(size=(outputs, inputs, kernel, kernel))
        if not normed:
            tensors[f"{inner}.bias"] = rng.normal(size=outputs)
            continue
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.bn.{part}"] = rng.uniform(0.5, 1.5, outputs)
    found = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    counted = {
        name.replace("running_mean", "num_batches_tracked"): np.array(7) for name in found if "running_me" in name
    }
    return found, counted


@pytest.mark.parametrize(("name", "size"), [("nano", (1 / 3, 0.25, True)), ("s", (1 / 3, 0.5, False))])
def test_a_published_file_loads_whole(name, size, tmp_path):
    tensors, counted = drawn(size)
    path = tmp_path / f"yolox_{name}.pth"
    files.write(path, {f"model.{key}": value for key, value in (tensors | counted).items()})
    loaded = pretrained.load(str(path))  # known by the file's name
    assert loaded.config.model["size"] == name and len(loaded.classes) == 80
    ours = weights.to_torchvision(jax.tree.map(np.asarray, loaded.variables))
    assert set(ours) == set(tensors)
    for key, value in tensors.items():
        np.testing.assert_array_equal(ours[key], value, err_msg=key)
    parameters = sum(math.prod(value.shape) for key, value in tensors.items() if "running" not in key)
    assert round(parameters / 1e6, 2) == {"nano": 0.91, "s": 8.97}[name]  # as published
