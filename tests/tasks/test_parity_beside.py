"""Masks and keypoints against torchvision: targets, losses, pasted masks, decoded keypoints, and whole answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from torchvision.models.detection import roi_heads  # noqa: E402

from mapjax import weights  # noqa: E402
from mapjax.config import parts  # noqa: E402
from mapjax.data import box_masks, geometry, run_lengths  # noqa: E402
from mapjax.ops import keypoint_maps  # noqa: E402
from mapjax.ops.mask_crops import crop  # noqa: E402
from mapjax.tasks.detection import beside  # noqa: E402

pytestmark = pytest.mark.parity
SIZE = (96, 128)


def blobs(count, seed=0):
    """Masks of ellipses, with the boxes around them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    centre, radius = rng.uniform(30, 66, (count, 2)), rng.uniform(9, 28, (count, 2))
    masks = np.stack([((x - a) / c) ** 2 + ((y - b) / d) ** 2 < 1 for (a, b), (c, d) in zip(centre, radius)])
    return masks, np.stack([geometry.mask_bounds(mask) for mask in masks]).astype(np.float32)


def moved(boxes, seed=1, far=0.15):
    """Proposals for boxes."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return (boxes + np.random.default_rng(seed).uniform(-far, far, boxes.shape) * sides).astype(np.float32)


def grids_of(masks, boxes, cells):
    return box_masks.draw(list(masks), SIZE, geometry.identity(), boxes, cells)


@pytest.mark.parametrize(("cells", "mean", "most"), [(112, 0.006, 0.3), (64, 0.007, 0.3), (28, 0.02, 0.5)])
def test_targets_of_masks(cells, mean, most):
    """torchvision's, of a proposal that is shifted by half a pixel, as its roi_align reads pixels by their index."""
    masks, boxes = blobs(40)
    windows = moved(boxes)
    rois = torch.from_numpy(windows - 0.5)
    theirs = roi_heads.project_masks_on_boxes(torch.from_numpy(masks), rois, torch.arange(40), 28).numpy()
    grids = jnp.asarray(grids_of(masks, boxes, cells), jnp.float32) / 255
    found = np.abs(np.asarray(crop(grids, jnp.asarray(boxes), jnp.asarray(windows), 28)) - theirs)
    assert theirs.max() == 1 and found.mean() < mean and found.max() < most


def test_loss_of_masks():
    """On the same targets."""
    masks, boxes = blobs(6)
    windows, labels = moved(boxes), np.array([1, 2, 0, 1, 2, 2])
    logits = np.random.default_rng(0).normal(size=(6, 3, 28, 28)).astype(np.float32) * 3
    grids = jnp.asarray(grids_of(masks, boxes, 64))
    targets = np.asarray(crop(grids / 255.0, jnp.asarray(boxes), jnp.asarray(windows), 28))
    foreground = labels > 0
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits)[np.flatnonzero(foreground), labels[foreground]], torch.from_numpy(targets[foreground])
    )
    rois = {"boxes": jnp.asarray(windows), "owner": jnp.arange(6), "positive": jnp.asarray(foreground)}
    lost, count = beside.mask_loss(jnp.asarray(logits)[jnp.arange(6), labels], rois, jnp.asarray(boxes), grids)
    np.testing.assert_allclose(lost / count, theirs.item(), rtol=1e-4)
    # The same through their own function, whose targets are the masks' themselves.
    theirs = roi_heads.maskrcnn_loss(
        torch.from_numpy(logits[foreground]),
        [torch.from_numpy(windows[foreground] - 0.5)],
        [torch.from_numpy(masks)],
        [torch.from_numpy(labels)],
        [torch.from_numpy(np.flatnonzero(foreground))],
    )
    np.testing.assert_allclose(lost / count, theirs.item(), rtol=5e-3)


def test_loss_of_keypoints():
    rng = np.random.default_rng(0)
    _, boxes = blobs(6)
    windows = np.round(moved(boxes))
    points = rng.uniform(0, 1, (6, 5, 2)) * (windows[:, None, 2:] - windows[:, None, :2]) * 1.2 + windows[:, None, :2]
    points[0, 0], points[1, 1] = windows[0, 2:], windows[1, :2]  # on the edges
    keypoints = np.concatenate([points, rng.integers(0, 3, (6, 5, 1))], -1).astype(np.float32)
    keypoints[0, 0, 2] = keypoints[1, 1, 2] = 2
    expected, valid = roi_heads.keypoints_to_heatmap(torch.from_numpy(keypoints), torch.from_numpy(windows), 56)
    found, learned = keypoint_maps.places(jnp.asarray(keypoints), jnp.asarray(windows), 56)
    np.testing.assert_array_equal(learned, valid.numpy().astype(bool))
    np.testing.assert_array_equal(np.asarray(found)[valid.numpy() > 0], expected.numpy()[valid.numpy() > 0])
    logits = rng.normal(size=(6, 56, 56, 5)).astype(np.float32) * 3
    theirs = roi_heads.keypointrcnn_loss(
        torch.from_numpy(logits).permute(0, 3, 1, 2).contiguous(),
        [torch.from_numpy(windows)],
        [torch.from_numpy(keypoints)],
        [torch.arange(6)],
    )
    rois = {"boxes": jnp.asarray(windows), "owner": jnp.arange(6), "positive": jnp.ones(6, bool)}
    lost, count = beside.keypoint_loss(jnp.asarray(logits), rois, jnp.asarray(keypoints))
    np.testing.assert_allclose(lost / count, theirs.item(), rtol=1e-4)


def test_pasted_masks():
    rng = np.random.default_rng(0)
    centre, half = rng.uniform(-5, 130, (60, 2)), np.exp(rng.uniform(-1, 4, (60, 2)))
    boxes = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    boxes = boxes[
        (boxes[:, 2:] > 1).all(1) & (boxes[:, :2] < (SIZE[1] - 1, SIZE[0] - 1)).all(1)
    ]  # theirs stops at others
    scores = rng.uniform(0, 1, (len(boxes), 28, 28)).astype(np.float32)
    expected = roi_heads.paste_masks_in_image(torch.from_numpy(scores)[:, None], torch.from_numpy(boxes), SIZE)
    expected = expected[:, 0].numpy()
    found = [run_lengths.decode(text, SIZE) for text in box_masks.paste(scores, boxes, SIZE)]
    sure = np.abs(expected - 0.5) > 1e-5
    assert expected.any((1, 2)).sum() > 30
    np.testing.assert_array_equal(np.stack(found)[sure], (expected > 0.5)[sure])


def smooth(rng, count, keypoints):
    coarse = torch.from_numpy(rng.normal(size=(count, keypoints, 7, 7)).astype(np.float32)) * 3
    return torch.nn.functional.interpolate(coarse, size=56, mode="bicubic").permute(0, 2, 3, 1).numpy()


def test_decoded_keypoints():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 100, (30, 2))
    boxes = np.concatenate([low, low + np.exp(rng.uniform(-1, 6.5, (30, 2)))], 1).astype(np.float32)
    maps = smooth(rng, 30, 5)
    expected, scores = roi_heads.heatmaps_to_keypoints(
        torch.from_numpy(maps).permute(0, 3, 1, 2), torch.from_numpy(boxes)
    )
    assert (boxes[:, 2:] - boxes[:, :2]).max() > 400
    found = jax.jit(lambda maps, boxes: keypoint_maps.peaks(maps, boxes, 800))(maps, boxes)
    np.testing.assert_allclose(found[..., :2], expected[..., :2].numpy(), atol=1e-2)
    np.testing.assert_allclose(found[..., 2], scores.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn"])
def test_whole_answers(name):
    from test_parity_instances import SIZE as FRAME
    from test_parity_instances import network_of, node_of
    from test_parity_torchvision import batch_of, inputs_of, photos, spread, tensors_of

    few = {"box_score_thresh": 0.3, "rpn_pre_nms_top_n_test": 300, "rpn_post_nms_top_n_test": 200}
    network = spread(network_of(name, **few), photos(FRAME))
    kind = "keypoints" if "keypoint" in name else "masks"
    if kind == "masks":
        with torch.no_grad():
            network.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(10)
    model = parts.make("models", node_of(name), classes=3)
    options = {"score_threshold": 0.3, "pre_nms_test": 300, "post_nms_test": 200, "beside": (kind,)}
    task = parts.make("tasks", {"name": "two_stage", **options}, model=model)
    batch = batch_of(photos(FRAME))
    variables = weights.from_torchvision(tensors_of(network), jax.eval_shape(task.init, jax.random.key(0), batch))
    run = jax.jit(lambda variables, batch: task.decode(task.predict(variables, batch, jax.random.key(0)), batch))
    result = jax.tree.map(np.asarray, run(variables, batch))
    with torch.no_grad():
        network = network.double()
        expected = network([image.double() for image in inputs_of(batch["image"])])
    for i, theirs in enumerate(expected):
        theirs = {key: value.numpy() for key, value in theirs.items()}
        found = result["valid"][i]
        assert found.sum() == len(theirs["boxes"]) > 20
        apart = np.abs(result["boxes"][i][found][:, None] - theirs["boxes"]).max(-1)
        apart[result["classes"][i][found][:, None] + 1 != theirs["labels"]] = 1e6
        near = apart.argmin(1)
        assert apart.min(1).max() < 2e-2
        if kind == "masks":
            pasted = box_masks.paste(result["mask_scores"][i][found], result["boxes"][i][found], FRAME)
            ours = np.stack([run_lengths.decode(text, FRAME) for text in pasted])
            other = theirs["masks"][near, 0] > 0.5
            assert other.sum() > 1000 and (ours != other).mean() < 5e-3 * other.mean()  # corners are rounded to pixels
        else:
            ours, other = result["keypoints"][i][found], theirs["keypoints"][near]
            close = np.abs(ours[..., :2] - other[..., :2]).max(-1) < 0.05
            assert close.mean() > 0.98  # of maps of random weights two peaks may be equally high
            scores = theirs["keypoints_scores"][near]
            np.testing.assert_allclose(ours[..., 2][close], scores[close], atol=2e-3 * np.abs(scores).max())
