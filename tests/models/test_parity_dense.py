"""RetinaNet, FCOS and SSD against torchvision's, given their weights (run: pytest -m parity)."""

import os
import pathlib

import dense_peers as peers
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.optimize
from parity import as_torch, tensors_of
from parity import photos as noise

from mapjax import weights
from mapjax.config import parts

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

KEY = jax.random.key(0)
CLASSES, SIZE = 6, (128, 192)
PHOTOS = (
    pathlib.Path(os.environ.get("MAPJAX_TEST_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")) / "coco64"
)


def channels(name):
    return CLASSES - 1 if "ssd" in name else CLASSES  # torchvision counts the background among the classes


def made(name, **task):
    """Our network, and a task of it."""
    model_node, task_node = peers.nodes(name)
    model = parts.make("models", model_node, classes=channels(name))
    return model, parts.make("tasks", {**task_node, **task}, model=model)


@pytest.mark.parametrize(("name", "count"), list(zip(peers.NAMES, peers.PARAMETERS)))
def test_parameters(name, count):
    model_node, _ = peers.nodes(name)
    model = parts.make("models", model_node, classes=90 if "ssd" in name else 91)
    variables = jax.eval_shape(model.init, KEY, jnp.zeros((1, 320, 320, 3)))
    frozen = 53_120 if name in ("retinanet_resnet50_fpn", "fcos_resnet50_fpn") else 0  # of batch norm, not counted
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count + frozen


@pytest.mark.parametrize("name", peers.NAMES)
def test_raw_outputs_and_sites(name):
    size = (peers.side_of(name),) * 2 if peers.side_of(name) else SIZE
    images = noise(size)
    network = peers.network(name, CLASSES, as_torch(images))
    model, _ = made(name)
    variables = weights.from_torchvision(tensors_of(network), jax.eval_shape(model.init, KEY, images))
    outputs, _ = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None))(variables, images)
    network.double()
    with torch.no_grad():
        maps = list(network.backbone(as_torch(images).double()).values())
        theirs = network.head(maps)
    close(outputs["site_logits"], theirs["cls_logits"])
    close(outputs["site_deltas"], theirs["bbox_regression"])
    if "bbox_ctrness" in theirs:
        close(outputs["site_quality"][..., None], theirs["bbox_ctrness"])
    from torchvision.models.detection.image_list import ImageList

    anchors = network.anchor_generator(ImageList(torch.zeros(1, 3, *size), [size]), maps)[0].numpy()
    np.testing.assert_allclose(np.concatenate(model.calls["sites"](*size)), anchors, atol=1e-3)


def close(ours, theirs):
    ours, theirs = np.asarray(ours), theirs.numpy()
    assert ours.shape == theirs.shape and np.abs(theirs).max() > 0.1
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def coco(count, size):
    files = sorted(PHOTOS.rglob("*.jpg"))[:count]
    if len(files) < count:
        pytest.skip(f"needs {count} photos in {PHOTOS}")
    return np.stack([np.asarray(PIL.Image.open(file).convert("RGB").resize(size[::-1])) for file in files])


@pytest.mark.parametrize("name", peers.NAMES)
def test_detections_on_twenty_photos(name):
    size = (peers.side_of(name),) * 2 if peers.side_of(name) else SIZE
    images = coco(20, size)
    options = {} if peers.side_of(name) else {"min_size": min(size), "max_size": max(size)}
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    blank = getattr(torch_detection(), name)(weights=None, weights_backbone=None, num_classes=CLASSES, **options)
    normalized = torch.stack([blank.transform.normalize(image) for image in scaled[:4]])
    network = peers.network(name, CLASSES, normalized, **options)
    _, task = made(name)
    batch = {
        "image": images,
        "matrix": np.tile(np.eye(3, dtype=np.float32), (20, 1, 1)),
        "size": np.tile(np.int32(size), (20, 1)),
        "mask": np.ones(20, bool),
    }
    one = jax.tree.map(lambda leaf: leaf[:4], batch)
    variables = weights.from_torchvision(tensors_of(network), jax.eval_shape(task.init, KEY, one))
    answer = jax.jit(lambda variables, batch: task.decode(task.predict(variables, batch, KEY), batch))
    network, apart = network.double(), []
    for start in range(0, 20, 4):
        part = jax.tree.map(lambda leaf, at=start: leaf[at : at + 4], batch)
        ours = jax.tree.map(np.asarray, answer(variables, part))
        with torch.no_grad():
            theirs = network([image.double() for image in scaled[start : start + 4]])
        for i, one in enumerate(theirs):
            apart.append(difference({key: value[i] for key, value in ours.items()}, one, 0 if "ssd" not in name else 1))
    print(name, "detections", sum(n for n, _, _ in apart), "largest differences", np.max(apart, 0)[1:])
    assert sum(n for n, _, _ in apart) > 200


def torch_detection():
    return peers.torchvision.models.detection


def difference(ours, theirs, first):
    """How many detections there are of an image, and how far apart in score and in pixels they are: all are paired."""
    found = ours["valid"]
    assert found.sum() == len(theirs["boxes"])
    theirs = {key: value.numpy() for key, value in theirs.items()}
    far = np.abs(ours["boxes"][found][:, None] - theirs["boxes"]).max(-1)
    far[ours["classes"][found][:, None] + first != theirs["labels"]] = 1e6
    far += np.abs(ours["scores"][found][:, None] - theirs["scores"])
    rows, columns = scipy.optimize.linear_sum_assignment(far)
    np.testing.assert_allclose(ours["scores"][found][rows], theirs["scores"][columns], atol=1e-4)
    np.testing.assert_array_equal(ours["classes"][found][rows] + first, theirs["labels"][columns])
    np.testing.assert_allclose(ours["boxes"][found][rows], theirs["boxes"][columns], atol=2e-2)
    if not len(rows):
        return 0, 0.0, 0.0
    return (
        len(rows),
        np.abs(ours["scores"][found][rows] - theirs["scores"][columns]).max(),
        np.abs(ours["boxes"][found][rows] - theirs["boxes"][columns]).max(),
    )
