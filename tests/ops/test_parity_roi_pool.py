"""RoI max pooling is torchvision's: needs torch and torchvision (run: pytest -m parity)."""

import jax.numpy as jnp
import numpy as np
import pytest

from mapjax.ops.roi_pool import roi_pool

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("height", "width", "pool", "stride"), [(15, 20, 7, 16), (30, 30, 7, 8), (9, 40, 5, 4)])
def test_equal_to_torchvision(height, width, pool, stride):
    """Of boxes within the map; longer ones than 30 cells it cuts by float32, in which 7 · (31 / 7) is more than 31."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(height, width, 5)).astype(np.float32)
    ends = np.sort(rng.uniform(0, 1, (200, 2, 2)), axis=1) * [(width - 1) * stride, (height - 1) * stride]
    boxes = ends.reshape(200, 4).astype(np.float32)
    given = torch.from_numpy(features.transpose(2, 0, 1)[None].copy()).requires_grad_()
    expected = torchvision.ops.roi_pool(given, [torch.from_numpy(boxes)], pool, 1 / stride)
    found = roi_pool(jnp.asarray(features), stride, jnp.asarray(boxes), pool=pool)
    np.testing.assert_array_equal(found, expected.detach().numpy().transpose(0, 2, 3, 1))
