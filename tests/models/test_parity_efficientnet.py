"""EfficientNet equals torchvision's, given its weights (run: pytest -m parity); Lite is in test_parity_timm.py."""

import numpy as np
import pytest
from parity import error_of_logits, errors_of_gradients, photos, randomized, record

from mapjax.models.backbones import efficientnet

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("variant", [f"b{i}" for i in range(8)])
def test_logits(variant, record_property):
    torch.manual_seed(0)
    network = randomized(getattr(torchvision.models, f"efficientnet_{variant}")(num_classes=10))
    error = error_of_logits(efficientnet.make(variant=variant, classes=10), network, photos((96, 71)))
    record(record_property, f"efficientnet_{variant}", error)
    assert error <= 1e-4


def test_gradients(record_property):
    torch.manual_seed(0)
    options = {"num_classes": 10, "dropout": 0.0, "stochastic_depth_prob": 0.0}
    network = randomized(torchvision.models.efficientnet_b0(**options))
    model = efficientnet.make(classes=10, dropout=0.0, drop_path=0.0)
    errors = errors_of_gradients(model, network, photos((64, 64), count=8), np.arange(8))
    record(record_property, "efficientnet_b0 gradient", max(errors.values()))
    assert max(errors.values()) <= 1e-3, max(errors, key=errors.get)
