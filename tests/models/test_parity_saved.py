"""A file of weights that we write is one that torchvision loads, name by name (run: pytest -m parity)."""

import jax
import numpy as np
import pytest
from parity import as_torch, photos

from mapjax import weights
from mapjax.config import parts

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity

CASES = {  # torchvision's name → ours, the side of the images, torchvision's arguments
    "alexnet": ({"name": "alexnet"}, 96, {}),
    "resnet18": ({"name": "resnet", "depth": 18}, 64, {}),
    "convnext_tiny": ({"name": "convnext", "variant": "tiny"}, 64, {}),
    "vit_b_32": ({"name": "vit", "variant": "base", "patch": 32, "image_size": 64}, 64, {"image_size": 64}),
}


def drawn(model, images):
    """Variables as the network draws them; statistics, heads and embeddings, which begin at a constant, at random."""
    variables = jax.device_get(model.init(jax.random.key(0), images))
    rng = np.random.default_rng(0)

    def moved(leaf):
        if np.ptp(leaf) > 0:
            return leaf
        return (leaf * rng.uniform(0.8, 1.2, leaf.shape) + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(moved, variables)


@pytest.mark.parametrize("name", CASES)
def test_torchvision_loads_what_is_saved(name, tmp_path):
    node, side, options = CASES[name]
    model, images = parts.make("models", node, classes=10), photos((side, side))
    images[1] = 0.3 * images[1] + [1, 0, -1]  # of another contrast and colour, which even random weights tell apart
    variables = drawn(model, images)
    weights.save(tmp_path / "ours.pth", weights.to_torchvision(variables))
    network = getattr(torchvision.models, name)(num_classes=10, **options)
    network.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True), strict=True)
    with torch.no_grad():
        theirs = network.eval()(as_torch(images)).numpy()
    ours = jax.jit(lambda v, x: model.apply(v, x, train=False, key=None)[0]["logits"])(variables, images)
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01 * np.abs(theirs).max()  # the images are told apart
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
