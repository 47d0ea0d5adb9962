"""The ResNets equal torchvision's, given its weights (run: pytest -m parity)."""

import numpy as np
import pytest
from parity import error_of_logits, errors_of_gradients, photos, randomized, record, settled_images

from mapjax.models.backbones import resnet

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity

NETWORKS = {
    "resnet18": {"depth": 18},
    "resnet34": {"depth": 34},
    "resnet50": {"depth": 50},
    "resnet101": {"depth": 101},
    "resnet152": {"depth": 152},
    "resnext50_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4},
    "resnext101_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {"depth": 101, "groups": 64, "width_per_group": 4},
    "wide_resnet50_2": {"depth": 50, "width_per_group": 128},
    "wide_resnet101_2": {"depth": 101, "width_per_group": 128},
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_logits(name, record_property):
    torch.manual_seed(0)
    network = randomized(getattr(torchvision.models, name)(num_classes=10))
    error = error_of_logits(resnet.make(**NETWORKS[name], classes=10), network, photos((71, 96)))
    record(record_property, name, error)
    assert error <= 1e-4


def test_gradients(record_property):
    torch.manual_seed(0)
    network = randomized(torchvision.models.resnet18(num_classes=10))
    images = settled_images(network, (32, 32), 4)
    errors = errors_of_gradients(resnet.make(depth=18, classes=10), network, images, np.arange(4))
    record(record_property, "resnet18 gradients", max(errors.values()))
    assert max(errors.values()) <= 1e-3, max(errors, key=errors.get)
