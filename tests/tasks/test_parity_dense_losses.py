"""Losses of dense detection against torchvision's, on the same outputs and targets (run: pytest -m parity)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import coverage_of

from mapjax.config import parts
from mapjax.task import Context, Model
from mapjax.weights import recipes

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from torchvision.models import detection as theirs  # noqa: E402

pytestmark = pytest.mark.parity

SIZE, CHANNELS = (128, 192), 6
BOXES = [  # of three images: in corners and of several sizes; none; one, and a crowd
    [
        [0, 0, 34.3, 22.7],
        [171.2, 109.7, 192, 128],
        [30.1, 20.4, 90.9, 101.3],
        [35, 28, 81.3, 90.2],
        [99, 5.3, 190, 121],
    ],
    [],
    [[20.3, 30.8, 70.1, 59.2]],
]
CROWD = [96, 40, 180, 120]
TRAINED = {"retinanet": "retinanet_resnet50_fpn", "retinanet_giou": "retinanet_resnet50_fpn_v2"}
TRAINED |= {"fcos": "fcos_resnet50_fpn", "ssd": "ssd300_vgg16"}


def outputs_of(name, sites):
    """What a network may say of the sites of three images."""
    rng, shape = np.random.default_rng(0), (3, len(sites))
    deltas = rng.normal(size=(*shape, 4)) * 0.3
    found = {"site_logits": rng.normal(size=(*shape, CHANNELS)) * 2, "site_deltas": deltas}
    if name == "fcos":
        found |= {"site_deltas": np.abs(deltas) * 8 + 0.1, "site_quality": rng.normal(size=shape)}
    in_crowd = np.array([coverage_of(site, CROWD) > 0.5 for site in sites])
    if name == "fcos":  # theirs has no ignored sites: where they say background for sure, they cost nothing
        found["site_logits"][2, in_crowd] = -60
    if name == "ssd":
        found["site_logits"][2, in_crowd] = [60, *[-60] * (CHANNELS - 1)]
    return {key: value.astype(np.float32) for key, value in found.items()}, in_crowd


def batch_of(first):
    """Ours, whose classes begin with 0 at their label `first`."""
    rows = 6
    batch = {
        "image": np.zeros((3, *SIZE, 3), np.uint8),
        "boxes": np.zeros((3, rows, 4), np.float32),
        "classes": np.zeros((3, rows), np.int32),
        "crowd": np.zeros((3, rows), bool),
        "valid": np.zeros((3, rows), bool),
        "mask": np.ones(3, bool),
    }
    for i, boxes in enumerate(BOXES):
        batch["boxes"][i, : len(boxes)] = np.reshape(boxes, (-1, 4))
        batch["classes"][i, : len(boxes)] = np.arange(len(boxes)) % 5 + 1 - first
        batch["valid"][i, : len(boxes)] = True
    batch["boxes"][2, 1], batch["crowd"][2, 1], batch["valid"][2, 1] = CROWD, True, True
    return batch


def their_losses(name, outputs, sites, in_crowd):
    body = torch.nn.Identity()
    body.out_channels = 32
    targets = [
        {"boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), "labels": torch.arange(len(boxes)) % 5 + 1}
        for boxes in BOXES
    ]
    given = {"cls_logits": "site_logits", "bbox_regression": "site_deltas", "bbox_ctrness": "site_quality"}
    said = {key: torch.tensor(outputs[our]).double() for key, our in given.items() if our in outputs}
    every = torch.tensor(np.concatenate(sites)).double()
    anchors = [every] * 3
    if name == "fcos":
        said["bbox_ctrness"] = said["bbox_ctrness"][..., None]
        return theirs.FCOS(body, CHANNELS).compute_loss(targets, said, anchors, [len(level) for level in sites])
    if name == "ssd":
        from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

        network = theirs.ssd.SSD(body, DefaultBoxGenerator([[2]]), SIZE, CHANNELS, head=torch.nn.Identity())
        matched = [
            network.proposal_matcher(torchvision.ops.box_iou(one["boxes"], every))
            if len(one["boxes"])
            else torch.full((len(every),), -1)
            for one in targets
        ]
        return network.compute_loss(targets, said, anchors, matched)
    network = theirs.RetinaNet(body, CHANNELS)
    if name == "retinanet_giou":
        network.head.regression_head._loss_type = "giou"
    match, turns = network.proposal_matcher, iter(i for i, boxes in enumerate(BOXES) if boxes)

    def matching(iou):
        found = match(iou)
        if next(turns) == 2:
            found[(found == -1) & torch.tensor(in_crowd)] = -2
        return found

    network.proposal_matcher = matching
    return network.compute_loss(targets, said, anchors)


@pytest.mark.parametrize("name", list(TRAINED))
def test_losses(name):
    first = int(name == "ssd")
    recipe = recipes.find(f"torchvision/{TRAINED[name]}")
    node: Mapping = recipe.model if name == "ssd" else {**recipe.model, "backbone": {"name": "resnet", "depth": 18}}
    if name == "ssd":
        node = {"name": "ssd", "backbone": {"name": "resnet", "depth": 18}, "extras": (8, 8)}
    sites = parts.make("models", node, classes=CHANNELS - first).calls["sites"](*SIZE)
    outputs, in_crowd = outputs_of(name, np.concatenate(sites))

    def apply(variables, images, *, train, key):
        return {key: jnp.asarray(value) for key, value in outputs.items()}, {}

    task = parts.make("tasks", dict(recipe.task), model=Model(apply, apply, {"sites": lambda height, width: sites}))
    total, (_, ours) = jax.jit(lambda batch: task.loss({}, batch, Context(None)))(batch_of(first))
    expected = their_losses(name, outputs, sites, in_crowd)
    names = {"classification": "loss_class", "bbox_regression": "loss_box", "bbox_ctrness": "loss_quality"}
    assert set(ours) == {"loss", *(names[key] for key in expected)} and in_crowd.sum() > 20
    for key, value in expected.items():
        np.testing.assert_allclose(ours[names[key]], value.item(), rtol=1e-4)
        assert value.item() > 0.01
    np.testing.assert_allclose(total, sum(value.item() for value in expected.values()), rtol=1e-4)
