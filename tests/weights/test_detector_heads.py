"""Detectors that start from weights of other classes: heads are reinitialised and told, and all else is loaded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from mapjax import weights
from mapjax.config import parts
from mapjax.task import State
from mapjax.weights import transfer

IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
SMALL = {"name": "resnet", "depth": 18, "width": 0.0625}
DEEP = {**SMALL, "stem": "deep", "shortcut": "pool", "norm": "frozen"}
QUERIES = {"width": 16, "heads": 2, "hidden": 8, "queries": 3}
RT_DETR = {"encoder_width": 16, "encoder_hidden": 8, "decoder": 2, "expansion": 0.5, "name": "rt_detr"}
HEADS = {  # network, and its layers that are as wide as there are classes, by the published names
    "retinanet": (
        {"name": "retinanet", "backbone": SMALL, "channels": 8, "depth": 1},
        ["head.classification_head.cls_logits"],
    ),
    "fcos": (
        {"name": "fcos", "backbone": SMALL, "channels": 32, "depth": 1},
        ["head.classification_head.cls_logits"],
    ),
    "ssd": (
        {"name": "ssd", "backbone": SMALL, "extras": (8,)},
        [f"head.classification_head.module_list.{i}" for i in range(4)],
    ),
    "yolox": ({"name": "yolox", "size": "nano", "backbone": SMALL}, [f"head.cls_preds.{i}" for i in range(3)]),
    "detr": ({"name": "detr", "backbone": SMALL, "encoder": 1, "decoder": 1, **QUERIES}, ["class_embed"]),
    "rt_detr": (
        {**RT_DETR, "backbone": DEEP, **QUERIES},
        ["decoder.class_embed0", "decoder.class_embed1", "enc_score_head", "denoising_embed"],
    ),
}


@functools.cache
def shapes_of(name, classes):
    model = parts.make("models", HEADS[name][0], classes=classes)
    return jax.eval_shape(model.init, jax.random.key(0), IMAGES), model.heads


def drawn(name, classes, seed):
    """Variables of which no two are alike."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes_of(name, classes)[0])


def started(given, name, ours):
    """The tensors by their published names, as they are after `start_from`, and what it prints."""
    state = jax.tree.map(jnp.asarray, State(jnp.zeros((), jnp.int32), ours["params"], ours["stats"], (), None))
    places = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), state)
    more, heads = shapes_of(name, 4)
    target = transfer.Target("abc", (64, 64), heads, transfer.sized_by_classes(ours, more), places)
    said, console = [], Console(width=240)
    new = transfer.start_from(given, state, target, said.append)
    with console.capture() as told:
        console.print(*said)
    return weights.to_torchvision({"params": new.params, "stats": new.stats}), told.get()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_other_classes_is_reinitialised_and_all_else_loaded(name):
    layers, ours = HEADS[name][1], drawn(name, 3, seed=0)
    before = weights.to_torchvision(ours)
    head = {tensor for tensor in before if any(tensor == layer or tensor.startswith(f"{layer}.") for layer in layers)}
    assert {layer for layer in layers if any(one.startswith(layer) for one in head)} == set(layers)
    for classes, label in ((4, "another size, reinitialised"), (3, "for other classes, reinitialised")):
        theirs = weights.to_torchvision(drawn(name, classes, seed=1))
        known = tuple("defghij"[:classes])
        after, said = started(transfer.Given("theirs.pth", theirs, known), name, ours)
        assert set(after) == set(before)
        for tensor, value in after.items():
            np.testing.assert_array_equal(value, (before if tensor in head else theirs)[tensor], err_msg=tensor)
        row = next(line for line in said.splitlines() if label in line)
        assert f"│ {len(head)} " in row and sorted(head)[0] in row
        assert f"│ {len(before) - len(head)} " in next(line for line in said.splitlines() if "│ loaded" in line)
