"""MobileNet equals torchvision's, and version 1 one written in torch, given their weights (run: pytest -m parity)."""

import numpy as np
import pytest
from parity import error_of_logits, errors_of_gradients, photos, randomized, record, settled_images

from mapjax.models.backbones import mobilenet

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity
NETWORKS = {
    "mobilenet_v2": {"version": 2},
    "mobilenet_v3_large": {"version": 3, "size": "large"},
    "mobilenet_v3_small": {"version": 3, "size": "small"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name, record_property):
    torch.manual_seed(0)
    network = randomized(getattr(torchvision.models, name)(num_classes=10))
    error = error_of_logits(mobilenet.make(classes=10, **NETWORKS[name]), network, photos((96, 71)))
    record(record_property, name, error)
    assert error <= 1e-4


@pytest.mark.parametrize("width", [0.25, 1.4])
def test_other_widths(width):
    torch.manual_seed(0)
    network = randomized(torchvision.models.mobilenet_v2(num_classes=10, width_mult=width))
    assert error_of_logits(mobilenet.make(width=width, classes=10), network, photos((64, 64))) <= 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients(name, record_property):
    torch.manual_seed(0)
    network = randomized(getattr(torchvision.models, name)(num_classes=10, dropout=0.0))
    images, labels = settled_images(network, (48, 48), 4, gap=2e-6), np.arange(4)
    model = mobilenet.make(classes=10, dropout=0.0, **NETWORKS[name])
    errors = errors_of_gradients(model, network, images, labels)
    record(record_property, f"{name} gradient", max(errors.values()))
    assert max(errors.values()) <= 1e-3, max(errors, key=errors.get)


def separable(inside, outside, stride):
    """The modules of one block of version 1, with timm's names."""
    return torch.nn.ModuleDict(
        {
            "conv_dw": torch.nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False),
            "bn1": torch.nn.BatchNorm2d(inside),
            "conv_pw": torch.nn.Conv2d(inside, outside, 1, bias=False),
            "bn2": torch.nn.BatchNorm2d(outside),
        }
    )


class VersionOne(torch.nn.Module):
    """Table 1 of Howard et al. 2017."""

    def __init__(self, classes):
        super().__init__()
        self.conv_stem = torch.nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(32)
        stages = (
            [separable(32, 64, 1)],
            [separable(64, 128, 2), separable(128, 128, 1)],
            [separable(128, 256, 2), separable(256, 256, 1)],
            [separable(256, 512, 2), *(separable(512, 512, 1) for _ in range(5))],
            [separable(512, 1024, 2), separable(1024, 1024, 1)],
        )
        self.blocks = torch.nn.ModuleList(torch.nn.ModuleList(blocks) for blocks in stages)
        self.classifier = torch.nn.Linear(1024, classes)

    def forward(self, x):
        relu6 = torch.nn.functional.relu6
        x = relu6(self.bn1(self.conv_stem(x)))
        for blocks in self.blocks:
            for block in blocks:
                x = relu6(block["bn1"](block["conv_dw"](x)))
                x = relu6(block["bn2"](block["conv_pw"](x)))
        return self.classifier(x.mean((2, 3)))


def test_version_1(record_property):
    torch.manual_seed(0)
    network = randomized(VersionOne(10))
    error = error_of_logits(mobilenet.make(version=1, classes=10), network, photos((96, 71)))
    record(record_property, "mobilenet_v1", error)
    assert error <= 1e-4
