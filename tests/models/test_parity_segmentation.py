"""FCN, DeepLabV3 and LR-ASPP are torchvision's, given its weights (run: pytest -m parity)."""

import jax
import numpy as np
import pytest
from parity import as_torch, filled, photos, randomized, record, tensors_of

from mapjax.config import parts
from mapjax.ops.resize import bilinear

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity

CASES = {
    "fcn_resnet50": {"name": "fcn", "backbone": {"name": "resnet", "depth": 50}, "aux": True},
    "deeplabv3_resnet50": {"name": "deeplab", "backbone": {"name": "resnet", "depth": 50}, "aux": True},
    "deeplabv3_mobilenet_v3_large": {"name": "deeplab", "backbone": {"name": "mobilenet"}, "aux": True},
    "lraspp_mobilenet_v3_large": {"name": "lraspp"},
}


@pytest.mark.parametrize(("name", "node"), CASES.items(), ids=CASES)
@pytest.mark.parametrize("size", [(64, 96), (75, 90)])
def test_maps(name, node, size, record_property):
    torch.manual_seed(0)
    auxiliary = {"aux_loss": True} if node.get("aux") else {}
    build = getattr(torchvision.models.segmentation, name)
    network = randomized(build(weights=None, weights_backbone=None, num_classes=7, **auxiliary))
    images = photos(size)
    model = parts.make("models", node, classes=7)
    variables = filled(model, tensors_of(network), images)

    @jax.jit
    def run(variables, images):
        outputs, _ = model.apply(variables, images, train=False, key=None)
        return {key: bilinear(outputs[key], size) for key in outputs if key.endswith("map_logits")}

    found = run(variables, images)
    with torch.no_grad():
        expected = {key: value.permute(0, 2, 3, 1).numpy() for key, value in network(as_torch(images)).items()}
    assert len(found) == len(expected) == (2 if auxiliary else 1)
    for ours, theirs in (("map_logits", "out"), ("aux_map_logits", "aux")):
        if theirs in expected:
            scale = np.abs(expected[theirs]).max()
            assert np.ptp(expected[theirs], (1, 2)).max() > 0.01 * scale  # the places differ
            error = float(np.abs(found[ours] - expected[theirs]).max() / scale)
            record(record_property, f"{name}.{theirs}", error)
            assert error <= 1e-4
