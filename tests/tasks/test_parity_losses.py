"""The detection task against torchvision's region proposal network and RoI heads, on the same head outputs."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from torchvision.models.detection import rpn as theirs  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.roi_heads import RoIHeads  # noqa: E402

from mapjax.models.detectors import faster_rcnn  # noqa: E402
from mapjax.tasks.detection import two_stage  # noqa: E402

pytestmark = pytest.mark.parity

HEIGHT, WIDTH = 128, 192
SIZES = ((16,), (32,), (64,), (128,), (256,))
ALL = 10**5  # of both samplers: every positive and every negative, so that nothing depends on the draw
ROWS = 5  # of the padded truth


@pytest.fixture(scope="module")
def case():
    """Random maps and truth of two images; torchvision's proposals and losses of the first stage."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    corners = [rng.uniform(0, [120, 80], (n, 2)) for n in (3, 4)]
    boxes = [np.concatenate([c, c + rng.uniform(10, 70, c.shape)], 1).astype(np.float32) for c in corners]
    labels = [rng.integers(0, 3, len(b)) for b in boxes]
    before, after = ({"training": n, "testing": n} for n in (300, 200))
    anchors = AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5)
    first = theirs.RegionProposalNetwork(anchors, theirs.RPNHead(8, 3), 0.7, 0.3, ALL, 1.0, before, after, 0.7)
    first.head.cls_logits.weight.data.mul_(50)
    first.head.bbox_pred.weight.data.mul_(20)
    maps = [torch.randn(2, 8, HEIGHT // s, WIDTH // s) for s in (4, 8, 16, 32, 64)]
    heads = {}
    first.head.register_forward_hook(lambda module, inputs, outputs: heads.update(outputs=outputs))
    targets = [{"boxes": torch.tensor(b), "labels": torch.tensor(k + 1)} for b, k in zip(boxes, labels)]
    images = ImageList(torch.zeros(2, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)] * 2)
    with torch.no_grad():
        proposals, losses = first(images, dict(enumerate(maps)), targets)
    objectness, deltas = theirs.concat_box_prediction_layers(*map(list, heads["outputs"]))
    return {
        "maps": maps,
        "targets": targets,
        "proposals": proposals,
        "losses": losses,
        "objectness": objectness.reshape(2, -1).numpy(),
        "deltas": deltas.reshape(2, -1, 4).numpy(),
        "truth": {
            "boxes": padded(boxes, np.zeros((2, ROWS, 4), np.float32)),
            "classes": padded(labels, np.zeros((2, ROWS), np.int32)),
            "crowd": jnp.zeros((2, ROWS), bool),
            "valid": padded([np.ones(len(b)) for b in boxes], np.zeros((2, ROWS), bool)),
        },
    }


def padded(rows, blank):
    for place, values in zip(blank, rows):
        place[: len(values)] = values
    return jnp.asarray(blank)


def anchors_of_ours():
    return faster_rcnn.make(classes=3, anchor_sizes=SIZES).calls["anchors"]((HEIGHT, WIDTH))


def our_proposals(case):
    propose = partial(two_stage.propose, anchors=anchors_of_ours(), before=300, after=200, threshold=0.7)
    extent = jnp.asarray([[0, 0, WIDTH, HEIGHT]] * 2, jnp.float32)
    return jax.jit(jax.vmap(propose))(case["objectness"], case["deltas"], extent)


def test_first_stage_losses(case):
    loss = partial(two_stage.first_stage_loss, anchors=anchors_of_ours(), iou=(0.3, 0.7), samples=ALL, positives=1.0)
    keys = jax.random.split(jax.random.key(0), 2)
    ours = jax.jit(loss)(keys, case["objectness"], case["deltas"], case["truth"], jnp.ones(2, bool))
    np.testing.assert_allclose(ours["loss_objectness"], case["losses"]["loss_objectness"].item(), rtol=1e-4)
    np.testing.assert_allclose(ours["loss_rpn_box"], case["losses"]["loss_rpn_box_reg"].item(), rtol=1e-4)


def test_proposals(case):
    boxes, real = our_proposals(case)
    for i, expected in enumerate(case["proposals"]):
        assert real[i].sum() == len(expected) > 50
        np.testing.assert_allclose(boxes[i][real[i]], expected.numpy(), atol=1e-3)


def test_second_stage_losses(case):
    torch.manual_seed(1)
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    second = RoIHeads(
        pooler, TwoMLPHead(8 * 49, 32), FastRCNNPredictor(32, 4), 0.5, 0.5, ALL, 1.0, None, 0.05, 0.5, 100
    )
    second.box_predictor.cls_score.weight.data.mul_(20)
    seen = {}
    select = second.select_training_samples

    def selecting(*arguments):
        seen["drawn"] = select(*arguments)
        return seen["drawn"]

    second.select_training_samples = selecting
    second.box_predictor.register_forward_hook(lambda module, inputs, outputs: seen.update(outputs=outputs))
    features = {str(i): values for i, values in enumerate(case["maps"])}
    with torch.no_grad():
        _, expected = second.train()(features, case["proposals"], [(HEIGHT, WIDTH)] * 2, case["targets"])
    draw = partial(two_stage.sample_rois, iou=0.5, samples=ALL, positives=1.0, weights=(10, 10, 5, 5))
    keys = jax.random.split(jax.random.key(0), 2)
    rois = jax.jit(jax.vmap(draw))(keys, *our_proposals(case), case["truth"])
    drawn = [boxes.numpy() for boxes in seen["drawn"][0]]
    assert rois["real"].sum(1).tolist() == [len(boxes) for boxes in drawn]
    logits, deltas = (values.numpy() for values in seen["outputs"])
    ours_logits = np.zeros((*rois["labels"].shape, 4), np.float32)
    ours_deltas = np.zeros((*rois["labels"].shape, 4, 4), np.float32)
    for i, start in enumerate((0, len(drawn[0]))):  # their outputs in the order of our rows, found by their boxes
        for row in np.flatnonzero(rois["real"][i]):
            distance = np.abs(drawn[i] - np.asarray(rois["boxes"][i, row])).max(1)
            assert distance.min() < 1e-2
            ours_logits[i, row] = logits[start + distance.argmin()]
            ours_deltas[i, row] = deltas[start + distance.argmin()].reshape(4, 4)
    ours = two_stage.second_stage_loss(jnp.asarray(ours_logits), jnp.asarray(ours_deltas), rois, jnp.ones(2, bool))
    np.testing.assert_allclose(ours["loss_classifier"], expected["loss_classifier"].item(), rtol=1e-4)
    np.testing.assert_allclose(ours["loss_box"], expected["loss_box_reg"].item(), rtol=1e-3)


def test_the_defaults_are_torchvisions():
    from torchvision.models.detection import FasterRCNN

    ours, their = (inspect.signature(function).parameters for function in (two_stage.make, FasterRCNN.__init__))
    names = {
        "pre_nms_train": "rpn_pre_nms_top_n_train",
        "post_nms_train": "rpn_post_nms_top_n_train",
        "pre_nms_test": "rpn_pre_nms_top_n_test",
        "post_nms_test": "rpn_post_nms_top_n_test",
        "rpn_nms": "rpn_nms_thresh",
        "rpn_samples": "rpn_batch_size_per_image",
        "rpn_positives": "rpn_positive_fraction",
        "samples": "box_batch_size_per_image",
        "positives": "box_positive_fraction",
        "iou": "box_fg_iou_thresh",
        "score_threshold": "box_score_thresh",
        "box_nms": "box_nms_thresh",
        "detections": "box_detections_per_img",
    }
    assert {a: ours[a].default for a in names} == {a: their[b].default for a, b in names.items()}
    assert ours["rpn_iou"].default == (their["rpn_bg_iou_thresh"].default, their["rpn_fg_iou_thresh"].default)
    assert their["box_bg_iou_thresh"].default == ours["iou"].default
    assert ours["box_weights"].default == (10, 10, 5, 5)  # torchvision's default for None
