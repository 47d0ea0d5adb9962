"""Mask and keypoint heads equal torchvision's, given its weights (run: pytest -m parity)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import tensors_of

from mapjax import weights
from mapjax.config import parts
from mapjax.models.heads.masks import Doubled
from mapjax.weights import recipes

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from test_parity_torchvision import close, flat, random_boxes, randomized  # noqa: E402

pytestmark = pytest.mark.parity

SIZE = (128, 192)
NAMES = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn")
CLASSES, KEYPOINTS = 4, 5  # with background


def node_of(name):
    """Ours, with batch norm where torchvision builds it so without published weights."""
    node = dict(recipes.find(f"torchvision/{name}").model)
    backbone = {key: value for key, value in node.get("backbone", {}).items() if key not in ("norm", "epsilon")}
    return (
        node | ({"backbone": backbone} if backbone else {}) | ({"keypoints": KEYPOINTS} if "keypoint" in name else {})
    )


def network_of(name, **options):
    torch.manual_seed(len(name))
    count = {"num_keypoints": KEYPOINTS} if "keypoint" in name else {}
    sides = {"min_size": min(SIZE), "max_size": max(SIZE)}
    make = getattr(torchvision.models.detection, name)
    network = make(weights=None, weights_backbone=None, num_classes=CLASSES, **sides, **count, **options)
    with torch.no_grad():
        network = randomized(network)
        if count:  # its last layer gives next to nothing
            network.roi_heads.keypoint_predictor.kps_score_lowres.weight.mul_(20)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_heads(name):
    network = network_of(name)
    model = parts.make("models", node_of(name), classes=CLASSES - 1)
    images = np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)
    variables = weights.from_torchvision(tensors_of(network), jax.eval_shape(model.init, jax.random.key(0), images))
    frozen = 2 * sum(leaf.size for path, leaf in flat(variables["stats"]) if path.endswith("scale"))
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == counted - frozen
    back = weights.to_torchvision(variables)
    for key, tensor in tensors_of(network).items():
        assert key.endswith("num_batches_tracked") or np.array_equal(back[key], tensor), key
    rng = np.random.default_rng(1)
    boxes = np.stack([random_boxes(rng, 7) for _ in range(2)])
    classes = rng.integers(0, CLASSES - 1, (2, 7))
    heads = network.roi_heads

    @jax.jit
    def run(variables, images, boxes):
        features = model.apply(variables, images, train=False, key=None)[0]["features"]
        if "keypoint" in name:
            return model.calls["keypoints"](variables, features, boxes)[0]
        return model.calls["masks"](variables, features, boxes, classes)[0]

    ours = np.asarray(run(variables, images, boxes))
    with torch.no_grad():
        features = network.backbone(torch.from_numpy(images).permute(0, 3, 1, 2))
        given = [torch.from_numpy(one) for one in boxes], [SIZE] * 2
        if "keypoint" in name:
            theirs = heads.keypoint_predictor(heads.keypoint_head(heads.keypoint_roi_pool(features, *given)))
            expected = theirs.permute(0, 2, 3, 1).numpy().reshape(ours.shape)
        else:
            theirs = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, *given)))
            expected = theirs[torch.arange(14), torch.from_numpy(classes.reshape(-1) + 1)].numpy().reshape(ours.shape)
    assert np.abs(expected).max() > 0.05
    close(ours, expected)


@pytest.mark.parametrize(("kernel", "padding"), [(2, 0), (4, 1)])
def test_transposed_convolution(kernel, padding):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(3, 4, kernel, kernel))
    expected = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(weight), stride=2, padding=padding
    )
    given = {"up_kernel": jnp.asarray(weight.transpose(2, 3, 0, 1), jnp.float32), "bias": jnp.zeros(4)}
    found = Doubled(4, kernel).apply({"params": given}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)
