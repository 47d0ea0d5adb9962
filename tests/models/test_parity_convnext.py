"""ConvNeXt equals torchvision's, given its weights (run: pytest -m parity)."""

import pytest
from parity import error_of_logits, photos, randomized, record

from mapjax.models.backbones import convnext

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("variant", list(convnext.VARIANTS))
def test_logits(variant, record_property):
    torch.manual_seed(0)
    network = randomized(getattr(torchvision.models, f"convnext_{variant}")(num_classes=10))
    error = error_of_logits(convnext.make(variant=variant, classes=10), network, photos((71, 96)))
    record(record_property, f"convnext_{variant}", error)
    assert error <= 1e-4
